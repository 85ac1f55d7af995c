"""Layout 4: codes of tables in the order of the kernels."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from vq.codebooks import build
from vq.kernels import decode, formats, layouts
from vq.kernels import linear as ops
from vq.kernels.dispatch import native
from vq.kernels.formats import E8P_CODE, PANELS, PackedHeader
from vq.kernels.hadamard import reference as rotate
from vq.kernels.linear_reference import reference
from vq.kernels.panels import e8p_magnitudes, pack_panels, unpack_panels

BOUNDS = {"float": 2e-6, "int15": 1e-3, "int8": 2e-2}  # relative to dense, in the root mean square

# name: bits of a code, dim, codes of a vector, whether they stand side by side, entries (None for all there can be)
CASES = {
    "binary": (1, 1, 1, False, None),
    "ternary": (2, 1, 1, False, 3),
    "scalar2": (2, 1, 1, False, None),
    "scalar3": (3, 1, 1, False, None),
    "scalar4": (4, 1, 1, False, None),
    "scalar5": (5, 1, 1, False, None),
    "scalar6": (6, 1, 1, False, 50),
    "scalar8": (8, 1, 1, False, None),
    "levels8": (8, 1, 1, False, None),
    "levels8short": (8, 1, 1, False, 200),
    "pairs4": (4, 2, 1, False, None),
    "pairs8": (8, 2, 1, False, None),
    "triples7": (7, 3, 1, False, 100),
    "kmeans4x8": (8, 4, 1, False, None),
    "kmeans4x12": (12, 4, 1, False, None),
    "kmeans8x9": (9, 8, 1, False, 300),
    "kmeans16x8": (8, 16, 1, False, None),
    "1x16": (16, 8, 1, False, None),
    "2x8": (8, 8, 2, False, None),
    "sum3": (3, 4, 2, False, None),
    "sum1": (1, 2, 2, False, None),
    "sum2": (2, 3, 3, False, None),
    "product8": (8, 8, 2, True, None),
    "product3": (3, 6, 3, True, 7),
    "residual8": (8, 3, 4, False, None),
    "e8p": (16, 8, 1, False, None),
}


def packed(name, out, width, seed=0, group=0):
    """A random layer, and the dense float64 matrix it stands for, found without the code under test."""
    bits, dim, parts, beside, entries = CASES[name]
    g = torch.Generator().manual_seed(seed)
    step = 1.1 if name == "e8p" else 0.0
    code = E8P_CODE if name == "e8p" else 0
    header = PackedHeader(
        PANELS,
        out,
        width,
        bits,
        dim,
        code=code,
        codes_per_vector=parts,
        step=step,
        scale_group=group,
    )
    count = entries or 1 << bits
    vectors = -(-width // dim)
    codes = torch.randint(0, count, (out, vectors, parts), generator=g)
    if name == "e8p":
        book = build("e8p")
        table = e8p_magnitudes(book.patterns)
        values = book.decode(codes[..., 0]).double() / book.step * header.step
    else:
        table = torch.randn(parts, count, dim // parts if beside else dim, generator=g)
        if name.startswith("levels"):
            table = (torch.arange(count) * 0.02 - 1.7).reshape(1, count, 1)
        each = [table[s].double()[codes[..., s]] for s in range(parts)]
        values = torch.cat(each, dim=-1) if beside else sum(each)
    matrix = values.reshape(out, -1)[:, :width]
    weight = formats.assemble(header, layouts.pack_payload(codes, header))
    scales = scales_of(out, width, group, g)
    factors = scales.double().reshape(out, -1).repeat_interleave(group or width, 1)[:, :width]
    signs_in = layouts.pack_signs(torch.rand(width, generator=g) < 0.5)
    signs_out = layouts.pack_signs(torch.rand(out, generator=g) < 0.5) if out % 2 else None
    dense = rotate(matrix * factors, None, signs_in)
    if signs_out is not None:
        dense = rotate(dense.T, None, signs_out).T
    args = (weight, scales, signs_in, signs_out, table)
    return SimpleNamespace(**locals())


def scales_of(out, width, group, g):
    """Scales of rows; or of groups of columns: over three magnitudes, some negative, one zero."""
    if not group:
        return (torch.rand(out, generator=g) + 0.5).half()
    shape = (out, -(-width // group))
    scales = 10 ** (3 * torch.rand(shape, generator=g) - 2) * (torch.rand(shape, generator=g) - 0.3)
    scales[0, 0] = 0
    return scales.half()


def inputs(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def error(y, exact):
    return float((y.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("out,width", [(1, 1), (8, 5), (70, 33), (128, 12), (200, 7)])
def test_codes_come_back_and_take_their_bits(bits, out, width):
    header = PackedHeader(PANELS, out, width, bits, 1)
    g = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 1 << bits, (out, width), generator=g)
    payload = pack_panels(codes, header)
    padded = -(-out // 8) * 8 * -(-width // header.fold) * header.fold
    assert payload.numel() == header.payload_bytes == padded * bits // 8
    assert torch.equal(unpack_panels(payload, header, 0, out), codes)
    for first, rows in ((out // 2, out - out // 2), (out - 1, 1), (0, min(out, 3))):
        assert torch.equal(unpack_panels(payload, header, first, rows), codes[first : first + rows])


def test_the_order_of_bytes_is_the_documented_one():
    """Golden bytes, by hand from docs/format.md."""
    four = PackedHeader(PANELS, 64, 1, 4, 1)
    codes = torch.arange(64).remainder(16).reshape(64, 1)
    assert pack_panels(codes, four).tolist() == [(r % 16) | (r % 16) << 4 for r in range(16)] * 2
    two = PackedHeader(PANELS, 64, 2, 2, 1)
    pair = torch.tensor([1, 2]).repeat(64, 1)
    pair[32:] = torch.tensor([3, 0])
    assert pack_panels(pair, two).tolist() == [(1 | 2 << 2) | 3 << 4] * 32
    three = PackedHeader(PANELS, 64, 4, 3, 1)
    quad = torch.tensor([1, 2, 7, 4]).repeat(64, 1)
    low, high = 1 | 2 << 2 | 3 << 4 | 0 << 6, 0 | 0 << 1 | 1 << 2 | 1 << 3
    assert pack_panels(quad, three).tolist() == [low] * 64 + [high | high << 4] * 32
    twelve = PackedHeader(PANELS, 8, 1, 12, 1)
    wide = torch.full((8, 1), 0xABC)
    assert pack_panels(wide, twelve).tolist() == [0xBC] * 8 + [0xAA] * 4
    six = PackedHeader(PANELS, 8, 1, 6, 1)
    stream = sum(r << (6 * r) for r in range(8))
    assert pack_panels(torch.arange(8).reshape(8, 1), six).tolist() == list(
        stream.to_bytes(6, "little")
    )


@pytest.mark.parametrize("name", CASES)
def test_decoding_is_exact(isa, name):
    for out, width in ((70, 37), (64, 16), (1, 3)):
        layer = packed(name, out, width)
        expected = layer.matrix.float()
        got = decode.decode_rows(layer.weight, layer.header, layer.table, 0, out)
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        part = decode.decode_rows(layer.weight, layer.header, layer.table, out // 2, 1)
        assert torch.equal(part, got[out // 2 : out // 2 + 1])
        if native() is not None:
            from vq.kernels.linear_native import _decode_native

            table = layer.table.contiguous()
            empty = torch.empty(out, width)
            assert torch.equal(_decode_native(layer.weight, layer.header, table, empty, 0), got)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ops.MODES)
def test_against_dense(isa, name, mode):
    for out, width in ((100, 577), (71, 130)):
        layer = packed(name, out, width)
        for rows in (1, 3, 40):
            x = inputs(rows, width)
            y = ops.packed_linear(x, *layer.args, mode)
            bound = BOUNDS[mode if rows <= ops.INTEGER_ROWS else "float"]
            assert error(y, x.double() @ layer.dense.T) < bound


@pytest.mark.parametrize("name", ["scalar2", "scalar3", "scalar4", "levels8", "e8p", "2x8"])
def test_typical_errors(isa, name):
    layer = packed(name, 256, 1024)
    x = inputs(4, 1024)
    exact = x.double() @ layer.dense.T
    assert error(ops.packed_linear(x, *layer.args, "int15"), exact) < 2.5e-4
    assert error(ops.packed_linear(x, *layer.args, "int8"), exact) < 1e-2


@pytest.mark.parametrize("name", CASES)
def test_many_rows_are_accurate_in_every_mode(isa, name):
    """Levels and activations are 14 to 15 bits then, in int8 too."""
    layer = packed(name, 192, 1024)
    x = inputs(24, 1024)
    exact = x.double() @ layer.dense.T
    for mode in ("int15", "int8"):
        assert error(ops.packed_linear(x, *layer.args, mode), exact) < 4e-4


def test_sums_of_many_rows_never_overflow(isa):
    """Where every product has the same sign, a block's sum is as large as it can be."""
    for name in ("scalar4", "kmeans4x8", "2x8", "e8p", "levels8"):
        layer = packed(name, 64, 512)
        x = 3.0 * torch.sign(layer.matrix[:24]).float().contiguous()
        args = (*layer.args[:2], None, layer.signs_out, layer.table)
        exact = x.double() @ (layer.matrix * layer.scales.double()[:, None]).T
        if layer.signs_out is not None:
            exact = rotate(exact, None, layer.signs_out)
        assert error(ops.packed_linear(x, *args, "int15"), exact) < 4e-4


def test_outliers_stay_within_the_modes_bounds(isa):
    """A large activation costs precision only where it is: each block has a unit of its own."""
    layer = packed("scalar2", 128, 2048)
    x = inputs(2, 2048)
    x[:, 5] *= 300
    args = (*layer.args[:2], None, None, layer.table)
    exact = x.double() @ (layer.matrix * layer.scales.double()[:, None]).T
    assert error(ops.packed_linear(x, *args, "int15"), exact) < 1e-3


@pytest.mark.parametrize("name", ["scalar2", "scalar3", "levels8", "2x8", "kmeans4x12", "e8p"])
@pytest.mark.parametrize("mode", ops.MODES)
def test_any_number_of_threads_gives_the_same_bits(name, mode):
    layer, x = packed(name, 330, 200), inputs(3, 200)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = ops.packed_linear(x, *layer.args, mode)
        torch.set_num_threads(2)
        for _ in range(20):
            assert torch.equal(ops.packed_linear(x, *layer.args, mode), first)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", CASES)
def test_instruction_sets_agree(name):
    module = native()
    if module is None:
        pytest.skip("no compiled kernels")
    layer, x = packed(name, 130, 270), inputs(2, 270)
    before, results = module.isa(), []
    try:
        for isa in ("portable", "avx2", "avx512"):
            if isa <= module.best_isa() or isa == "portable":
                module.set_isa(isa)
                results.append([ops.packed_linear(x, *layer.args, mode) for mode in ops.MODES])
    finally:
        module.set_isa(before)
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            assert error(mine, theirs.double()) < 1e-3


@pytest.mark.parametrize("name", CASES)
def test_many_rows_give_the_same_bits_on_any_set_and_threads(name):
    module = native()
    if module is None:
        pytest.skip("no compiled kernels")
    layer, x = packed(name, 130, 270), inputs(21, 270)
    before, count, results = module.isa(), torch.get_num_threads(), []
    try:
        for isa in ("portable", "avx2", "avx512"):
            if isa <= module.best_isa() or isa == "portable":
                module.set_isa(isa)
                for threads in (1, 2):
                    torch.set_num_threads(threads)
                    results.append(
                        ops.packed_linear(x, *layer.args[:2], None, None, layer.table, "int15")
                    )
    finally:
        module.set_isa(before)
        torch.set_num_threads(count)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("name", ["scalar2", "scalar3", "scalar5", "levels8", "2x8", "e8p"])
@pytest.mark.parametrize("mode", ops.MODES)
def test_numbers_that_are_not_finite_stay_visible(isa, name, mode):
    layer = packed(name, 40, 64)
    x = inputs(3, 64)
    x[1, 5] = float("nan")
    y = ops.packed_linear(x, *layer.args, mode)
    assert bool(torch.isnan(y[1]).all())
    assert error(y[[0, 2]], x[[0, 2]].double() @ layer.dense.T) < BOUNDS[mode]
    assert not ops.packed_linear(torch.zeros(1, 64), *layer.args, mode).any()
    huge = ops.packed_linear(x[:1] * 1e20, *layer.args, mode)
    assert error(huge, 1e20 * (x[:1].double() @ layer.dense.T)) < BOUNDS[mode]


def test_reference_is_the_dense_layer():
    for name in CASES:
        layer = packed(name, 40, 36)
        x = inputs(2, 36)
        assert error(reference(x, *layer.args, "int8"), x.double() @ layer.dense.T) < 2e-6


@pytest.mark.parametrize("name", ["2x8", "e8p"])
def test_operation_keeps_torchs_rules(name):
    layer = packed(name, 70, 40)
    x = inputs(2, 40).requires_grad_()
    operation = torch.ops.vq.packed_linear.default
    torch.library.opcheck(operation, (x.detach(), *layer.args, "int8"))
    torch.library.opcheck(operation, (x, *layer.args, "float"))
    grad = inputs(2, 70)
    torch.library.opcheck(torch.ops.vq.packed_linear_transposed.default, (grad, *layer.args, 40))


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_the_dense_matrix(isa, name):
    layer = packed(name, 71, 44)
    for rows, mode in ((3, "int8"), (40, "float")):
        x = inputs(rows, 44).requires_grad_()
        weights = inputs(rows, 71, 1)
        (ops.packed_linear(x, *layer.args, mode) * weights).sum().backward()
        assert error(x.grad, weights.double() @ layer.dense) < 2e-6


def test_compiles_as_one_graph():
    layer = packed("2x8", 64, 32)
    compiled = torch.compile(
        lambda x: ops.packed_linear(x, *layer.args, "int8") * 2, fullgraph=True, backend="aot_eager"
    )
    x = inputs(2, 32)
    assert torch.equal(compiled(x), ops.packed_linear(x, *layer.args, "int8") * 2)
    torch.compiler.reset()


def test_dtypes_and_shapes():
    layer = packed("scalar4", 64, 48)
    x = inputs(6, 48)
    y = ops.packed_linear(x, *layer.args, "int15")
    assert torch.equal(
        ops.packed_linear(x.reshape(2, 3, 48), *layer.args, "int15").reshape(6, 64), y
    )
    for dtype, bound in ((torch.bfloat16, 8e-3), (torch.float16, 2e-3), (torch.float64, 1e-3)):
        given = x.to(dtype)
        got = ops.packed_linear(given, *layer.args, "int15")
        assert got.dtype == dtype and error(got, given.double() @ layer.dense.T) < bound
    assert ops.packed_linear(torch.zeros(0, 48), *layer.args, "int8").shape == (0, 64)


def test_what_does_not_fit_is_refused_with_the_cause():
    layer = packed("2x8", 64, 32)
    x, (weight, scales, first, last, table) = inputs(2, 32), layer.args

    def refused(match, **change):
        given = dict(x=x, weight=weight, scales=scales, first=first, last=last, table=table)
        given.update(change)
        with pytest.raises(ValueError, match=match):
            ops.packed_linear(*given.values(), "int8")

    refused("table: expected shape", table=table[:1])
    refused("table: expected shape", table=table[0])
    refused("table: expected shape", table=table[:, :, :3])
    refused("table: expected shape", table=torch.zeros(2, 257, 8))
    refused("table: expected uint8 for E8P", table=torch.zeros(2, 256, 8, dtype=torch.uint8))
    refused("cut short", weight=weight[:-8])
    refused("x: expected", x=inputs(2, 31))
    e8p = packed("e8p", 64, 32)
    with pytest.raises(ValueError, match="table: expected"):
        ops.packed_linear(x, *e8p.args[:4], torch.zeros(256, 8), "int8")
    with pytest.raises(ValueError, match=r"values in \[0, 4\)"):
        pack_panels(torch.full((8, 4), 4), PackedHeader(PANELS, 8, 4, 2, 1))
    with pytest.raises(ValueError, match="at most 16 bits"):
        PackedHeader(PANELS, 8, 4, 17, 8)
    with pytest.raises(ValueError, match="or of E8P"):
        dataclasses.replace(e8p.header, dim=4)


def test_header_round_trip():
    for name in CASES:
        header = packed(name, 9, 20).header
        again = PackedHeader.from_bytes(header.to_bytes())
        assert again.same_format(header) and again.payload_bytes == header.payload_bytes


def test_explain_names_the_kernel():
    if native() is None:
        pytest.skip("no compiled kernels")
    wanted = {
        "scalar2": "tables of 16",
        "e8p": "E8P",
        "2x8": "small table",
        "1x16": "large table",
        "levels8": "even levels",
    }
    for name, words in wanted.items():
        layer = packed(name, 64, 32)
        said = ops.explain(layer.header, layer.weight, layer.table, "int8")
        assert words in said and said.startswith(native().isa())
        for rows, mode, last in (
            (512, "int8", "16-bit levels"),
            (513, "int15", "more than 512 rows"),
            (33, "float", "more than 32 rows"),
        ):
            assert last in ops.explain(layer.header, layer.weight, layer.table, mode, rows)
