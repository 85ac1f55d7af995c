import dataclasses
from types import SimpleNamespace

import pytest
import torch

from vq.kernels import decode, formats, layouts
from vq.kernels import linear as ops
from vq.kernels.dispatch import native
from vq.kernels.formats import HASH_CODE, ROWS, TABLE_CODE, TILES, PackedHeader
from vq.kernels.hadamard import reference as rotate
from vq.kernels.linear_reference import quantize_rows, reference

ISAS = ["portable", "avx2", "avx512"]
BOUNDS = {"float": 2e-6, "int15": 1e-3, "int8": 2e-2}  # relative to dense, in the root mean square


def layer(
    out, width, bits=2, memory=12, *, kind="hash", rotate_out=True, seed=0, symbols=2, table=None
):
    """A random packed layer, of a given table or a random one, and the dense float64 matrix it stands for."""
    g = torch.Generator().manual_seed(seed)
    if kind == "rows":
        header = PackedHeader(ROWS, out, width, code_bits=5, dim=3)
        table = torch.randn(32, 3, generator=g)
    else:
        header = PackedHeader(
            TILES,
            out,
            width,
            code_bits=int(symbols * bits),
            dim=256,
            memory=memory,
            symbols=symbols,
            code=HASH_CODE if kind == "hash" else TABLE_CODE,
            codes_per_vector=256 // symbols,
            hash_constant=36547 if kind == "hash" else 0,
            step=0.025 if kind == "hash" else 0.0,
        )
        if kind == "hash":
            table = torch.randint(-128, 128, (64,), generator=g).to(torch.int8)
        elif table is None:
            table = torch.randn(2**memory, symbols, generator=g)
    payload = torch.randint(0, 256, (header.payload_bytes,), generator=g, dtype=torch.uint8)
    if kind == "rows":
        count = out * header.vectors_per_row
        payload = layouts.pack_rows(torch.randint(0, 32, (count,), generator=g), 5)
    signs_in = layouts.pack_signs(torch.rand(width, generator=g) < 0.5)
    signs_out = layouts.pack_signs(torch.rand(out, generator=g) < 0.5) if rotate_out else None
    scales = (torch.rand(out, generator=g) + 0.5).half()
    weight = formats.assemble(header, payload)
    dense = decode.decode_rows(weight, header, table, 0, out).double() * scales.double()[:, None]
    dense = rotate(dense, None, signs_in)
    if rotate_out:
        dense = rotate(dense.T, None, signs_out).T
    args = (weight, scales, signs_in, signs_out, table)
    return SimpleNamespace(args=args, dense=dense, header=header, table=table, weight=weight)


def error(y, exact):
    return float((y.double() - exact).norm() / exact.norm())


def inputs(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("out,width", [(1, 5), (63, 100), (100, 577), (192, 576), (70, 1536)])
@pytest.mark.parametrize("mode", ops.MODES)
def test_against_dense(isa, out, width, mode):
    packed = layer(out, width)
    for rows in (1, 3, 16, 64):
        x = inputs(rows, width)
        y = ops.packed_linear(x, *packed.args, mode)
        assert y.shape == (rows, out)
        exact = x.double() @ packed.dense.T
        integer = rows <= ops.INTEGER_ROWS
        assert error(y, exact) < (BOUNDS[mode] if integer else BOUNDS["float"])


def test_typical_errors_of_the_integer_modes(isa):
    packed = layer(256, 1024)
    x = inputs(16, 1024)
    exact = x.double() @ packed.dense.T
    assert error(ops.packed_linear(x, *packed.args, "int15"), exact) < 2e-4
    assert error(ops.packed_linear(x, *packed.args, "int8"), exact) < 1e-2


@pytest.mark.parametrize("bits", [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5])
@pytest.mark.parametrize("memory", [10, 16])
def test_every_rate_and_memory_equals_the_reference(isa, bits, memory):
    packed = layer(130, 44, bits, memory)
    for rows in (1, 2, 3, 13):
        x = inputs(rows, 44)
        for mode in ("int8", "int15"):
            got = ops.packed_linear(x, *packed.args, mode)
            expected = reference(x, *packed.args, mode)
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    exact = inputs(40, 44).double() @ packed.dense.T
    assert error(ops.packed_linear(inputs(40, 44), *packed.args, "float"), exact) < 2e-6


def test_short_memories(isa):
    for bits, memory in ((1, 6), (2, 6), (3, 6), (4, 9)):
        packed = layer(64, 36, bits, memory)
        x = inputs(2, 36)
        assert (
            error(ops.packed_linear(x, *packed.args, "int15"), x.double() @ packed.dense.T) < 1e-3
        )


@pytest.mark.parametrize("kind", ["hash", "table", "rows"])
@pytest.mark.parametrize("mode", ["float", "int8"])
def test_other_formats_against_dense(isa, kind, mode):
    packed = layer(100, 101, 2, 10, kind=kind)
    x = inputs(5, 101)
    bound = {"hash": BOUNDS[mode], "table": 4e-4 if mode == "int8" else 2e-6, "rows": 2e-6}[kind]
    assert error(ops.packed_linear(x, *packed.args, mode), x.double() @ packed.dense.T) < bound


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 64])
@pytest.mark.parametrize("mode", ["int8", "int15"])
def test_threads_and_instruction_sets_give_the_same_bits(two_threads, rows, mode):
    module = native()
    if module is None:
        pytest.skip("no compiled kernels")
    packed, x = layer(320, 300), inputs(rows, 300)
    before, results = module.isa(), []
    try:
        for name in ISAS[: ISAS.index(module.best_isa()) + 1]:
            module.set_isa(name)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(ops.packed_linear(x, *packed.args, mode))
    finally:
        module.set_isa(before)
    if rows <= ops.INTEGER_ROWS:
        assert all(torch.equal(results[0], other) for other in results)
    else:  # torch's matmul
        for other in results:
            torch.testing.assert_close(results[0], other, rtol=1e-4, atol=1e-3)


def test_panels_cover_the_matrix(monkeypatch, isa):
    from vq.kernels import linear_reference

    monkeypatch.setattr(linear_reference, "PANEL_BYTES", 4 * 64 * 36 * 2)
    packed = layer(300, 36)
    assert [p[0] for p in ops.panels(packed.header)] == [0, 128, 256]
    x = inputs(40, 36)
    assert error(ops.packed_linear(x, *packed.args, "float"), x.double() @ packed.dense.T) < 2e-6


@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_stays_visible(isa, mode, value):
    packed = layer(100, 64)
    x = inputs(3, 64)
    x[1, 5] = value
    y = ops.packed_linear(x, *packed.args, mode)
    assert bool(torch.isnan(y[1]).all())
    exact = x[[0, 2]].double() @ packed.dense.T
    assert error(y[[0, 2]], exact) < BOUNDS[mode]


@pytest.mark.parametrize("mode", ops.MODES)
def test_zeros_tiny_and_huge_inputs(isa, mode):
    packed = layer(70, 64)
    assert not ops.packed_linear(torch.zeros(2, 64), *packed.args, mode).any()
    assert (
        not ops.packed_linear(torch.full((1, 64), 1e-44), *packed.args, "int8").abs().max() > 1e-30
    )
    x = inputs(1, 64)
    for factor in (1e-20, 1e20):
        y = ops.packed_linear(x * factor, *packed.args, mode)
        assert error(y, factor * (x.double() @ packed.dense.T)) < BOUNDS[mode]
    assert ops.packed_linear(torch.zeros(0, 64), *packed.args, mode).shape == (0, 70)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", ops.MODES)
def test_dtypes_come_back(dtype, mode):
    packed = layer(100, 64)
    x = inputs(4, 64).to(dtype)
    y = ops.packed_linear(x, *packed.args, mode)
    assert y.dtype == dtype
    bound = {torch.bfloat16: 5e-3, torch.float16: 1e-3, torch.float64: 1e-12}[dtype]
    exact = x.double() @ packed.dense.T
    assert error(y, exact) < bound + (BOUNDS[mode] if mode != "float" else 0)


def test_shapes_and_strides():
    packed = layer(100, 64)
    x = inputs(24, 64)
    y = ops.packed_linear(x, *packed.args, "int8")
    assert torch.equal(
        ops.packed_linear(x.reshape(2, 3, 4, 64), *packed.args, "int8").reshape(24, 100), y
    )
    assert torch.equal(ops.packed_linear(x[0], *packed.args, "int8"), y[0])
    wide = torch.cat([x, x], dim=1)[:, :64]
    assert torch.equal(ops.packed_linear(wide, *packed.args, "int8"), y)
    plain = layer(100, 64, rotate_out=False)
    no_rotation = (*plain.args[:2], None, None, plain.table)
    dense = decode.decode_rows(plain.weight, plain.header, plain.table, 0, 100).double()
    exact = x.double() @ (dense * plain.args[1].double()[:, None]).T
    assert error(ops.packed_linear(x, *no_rotation, "int15"), exact) < 1e-3
    assert error(ops.packed_linear(x, *no_rotation, "float"), exact) < 2e-6


def test_quantized_rows_use_the_whole_range():
    x = inputs(4, 64)
    for mode, top in (("int8", 127), ("int15", 16319)):
        integers, unit = quantize_rows(x, mode)
        assert (integers.abs().amax(dim=1) == top).all()
        assert ((integers * unit - x).abs() <= unit * 0.501).all()


@pytest.mark.parametrize("mode", ops.MODES)
def test_what_does_not_fit_is_refused_with_the_cause(mode):
    packed = layer(100, 64)
    x, (weight, scales, first, last, table) = inputs(2, 64), packed.args

    def refused(match, **change):
        given = dict(x=x, weight=weight, scales=scales, first=first, last=last, table=table)
        given.update(change)
        with pytest.raises(ValueError, match=match):
            ops.packed_linear(*given.values(), mode)

    refused(r"x: expected .*\(\*batch, 64\)", x=inputs(2, 60))
    refused("floating point", x=torch.zeros(2, 64, dtype=torch.int64))
    refused("cut short", weight=weight[:-8])
    refused("magic", weight=torch.zeros_like(weight))
    refused("uint8", weight=weight.float())
    refused("scales: expected float16", scales=scales.float())
    refused("scales", scales=scales[:-1])
    refused("signs_in", first=first[:-1])
    refused("signs_out", last=last.float())
    refused("int8", table=table.float())
    refused("table", table=table[:-1])
    other = dataclasses.replace(packed.header, layout=ROWS, codes_per_vector=2, dim=4, code_bits=4)
    wide = formats.assemble(other, torch.zeros(other.payload_bytes, dtype=torch.uint8))
    refused("codebook's own", weight=wide, table=torch.zeros(16, 4))
    with pytest.raises(ValueError, match="mode: expected one of float, int15, int8"):
        ops.packed_linear(x, *packed.args, "int4")


def test_a_table_of_another_size_is_refused():
    packed = layer(70, 36, kind="table")
    weight, scales, first, last, table = packed.args
    for wrong in (table[:-1], table[:, :1], torch.cat([table, table])):
        with pytest.raises(ValueError, match=r"table: expected shape \(4096, 2\)"):
            ops.packed_linear(inputs(1, 36), weight, scales, first, last, wrong, "int8")


def test_a_code_beyond_the_table_is_an_error():
    packed = layer(9, 12, kind="rows")
    weight, scales, first, last, table = packed.args
    with pytest.raises((ValueError, IndexError)):
        ops.packed_linear(inputs(1, 12), weight, scales, first, last, table[:3], "float")


@pytest.mark.parametrize("kind", ["hash", "table", "rows"])
def test_operation_keeps_torchs_rules(kind):
    packed = layer(70, 36, kind=kind)
    x = inputs(2, 36).requires_grad_()
    operation = torch.ops.vq.packed_linear.default
    torch.library.opcheck(operation, (x.detach(), *packed.args, "int8"))
    torch.library.opcheck(operation, (x, *packed.args, "float"))
    grad = inputs(2, 70)
    torch.library.opcheck(torch.ops.vq.packed_linear_transposed.default, (grad, *packed.args, 36))


@pytest.mark.parametrize("kind", ["hash", "table", "rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_that_of_the_dense_matrix(isa, kind, dtype):
    packed = layer(100, 101, 2, 10, kind=kind)
    for rows, mode in ((3, "int8"), (40, "float")):
        x = inputs(rows, 101).to(dtype).requires_grad_()
        weights = inputs(rows, 100, 1).to(dtype)
        (ops.packed_linear(x, *packed.args, mode) * weights).sum().backward()
        assert error(x.grad, weights.double() @ packed.dense) < 2e-6


def test_quick_way_is_the_operation():
    packed = layer(100, 64)
    x = inputs(3, 64)
    expected = ops.packed_linear(x, *packed.args, "int8")
    assert torch.equal(ops.quick_linear(x, *packed.args, "int8"), expected)
    given = x.clone().requires_grad_()
    assert ops.quick_linear(given, *packed.args, "int8").grad_fn is not None
    stacked = torch.func.vmap(lambda v: ops.quick_linear(v, *packed.args, "float"))(x)
    exact = x.double() @ packed.dense.T  # a transform sees the operation, not bare addresses
    assert error(stacked, exact) < BOUNDS["float"]
