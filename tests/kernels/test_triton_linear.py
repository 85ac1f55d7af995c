"""Packed layers on a GPU, in Triton's interpreter, against the dense matrix in float64."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from interpreted_calls import (
    caught,
    checked,
    explained,
    forward,
    header_reads,
    operation,
    panel_product,
    set_in,
    together,
    transposed,
    tuned,
)
from test_linear import error, inputs, layer

from vq.cli.bench_matmul import random_layer
from vq.codebooks import build
from vq.kernels import formats
from vq.kernels.linear_reference import reference, transposed_reference

# relative to dense, in the root mean square; the interpreter rounds to bfloat16 towards zero
BOUNDS = {
    (torch.float32, "float"): 1e-6,
    (torch.float32, "int15"): 1e-3,
    (torch.float16, "int8"): 1e-3,
    (torch.bfloat16, "int15"): 1e-2,
}
TRELLISES = [  # bits, memory, kind
    (0.5, 9, "hash"), (1, 10, "hash"), (2, 12, "hash"), (3, 16, "hash"), (4, 14, "hash"), (2, 10, "table"),
]  # fmt: skip
SPECS = [
    "scalar(bits=1)", "scalar(bits=2)", "scalar(bits=3)", "scalar(bits=4)", "kmeans(dim=2, entries=16)",
    "kmeans(dim=3, entries=20)", "kmeans(dim=4, entries=256)", "kmeans(dim=8, entries=1024)", "e8p",
    "additive(stages=2, dim=8, entries=256)", "residual(stages=2, of=kmeans(dim=4, entries=16))",
    "product(groups=2, of=kmeans(dim=2, entries=16))", "trellis(bits=2, memory=6, code=random)",
]  # fmt: skip


@pytest.mark.parametrize("bits, memory, kind", TRELLISES)
@pytest.mark.parametrize("dtype, mode", list(BOUNDS)[:2], ids=str)
def test_trellises(interpreted, bits, memory, kind, dtype, mode):
    check_trellis(interpreted, bits, memory, kind, dtype, mode)


@pytest.mark.parametrize("dtype, mode", list(BOUNDS)[2:], ids=str)
def test_half_precision(interpreted, dtype, mode):
    check_trellis(interpreted, 2, 12, "hash", dtype, mode)


def check_trellis(interpreted, bits, memory, kind, dtype, mode):
    packed = layer(
        70, 45, bits, memory, kind=kind
    )  # a band of 6 rows, a group of 4 tiles, one of them cut
    x = inputs(2, 45).to(dtype)
    y = interpreted(operation, x, packed.args, mode)
    assert y.dtype == dtype and y.shape == (2, 70)
    assert error(y, x.double() @ packed.dense.T) < BOUNDS[dtype, mode]


@pytest.mark.parametrize("spec", SPECS)
def test_layers_of_every_kind_of_codebook(interpreted, spec):
    made = random_layer(build(spec), 70, 43, seed=2)
    dense, x = made.dequantize().double(), inputs(3, 43)
    for mode, bound in (("float", 1e-6), ("int8", 1e-3)):
        made.mode = mode
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none of these is left to the reference
            y = interpreted(forward, made, x)
        assert error(y, x.double() @ dense.T) < bound


@pytest.mark.parametrize("kind", ["hash", "table", "rows"])
def test_many_rows_are_decoded_once(interpreted, kind):
    packed, x = layer(100, 70, 2, 10, kind=kind, rotate_out=False), inputs(17, 70)
    before = interpreted(set_in, "vq.kernels.triton.linear", "_PANEL_BYTES", 64 * 70 * 4)
    try:
        for (dtype, mode), bound in list(BOUNDS.items())[:2]:
            y = interpreted(operation, x.to(dtype), packed.args, mode)
            assert error(y, x.double() @ packed.dense.T) < bound
    finally:
        interpreted(set_in, "vq.kernels.triton.linear", "_PANEL_BYTES", before)


@pytest.mark.parametrize("kind", ["hash", "rows"])
def test_any_split_of_the_columns_gives_the_sum(interpreted, kind):
    packed, x = layer(70, 260, kind=kind, rotate_out=False), inputs(1, 260)
    exact = x.double() @ packed.dense.T
    whole = interpreted(operation, x, packed.args, "float")
    for programs in (6, 1 << 10):
        before = interpreted(set_in, "vq.kernels.triton.common", "_PROGRAMS_EACH", programs)
        y = interpreted(operation, x, packed.args, "float")
        interpreted(set_in, "vq.kernels.triton.common", "_PROGRAMS_EACH", before)
        assert error(y, exact) < 1e-6 and not torch.equal(y, whole)  # another order of sums


def test_layers_on_one_input(interpreted):
    made = [layer(70, 45, seed=1), layer(9, 45, kind="rows", rotate_out=False, seed=2)]
    signs, x = made[0].args[2], inputs(2, 45)
    layers = [(*packed.args[:2], packed.args[3], packed.args[4]) for packed in made]
    for mode, bound in (("float", 1e-6), ("int15", 1e-3)):
        found = interpreted(together, x, layers, signs, mode)
        for y, (weight, scales, last, table) in zip(found, layers, strict=True):
            expected = reference(x.double(), weight, scales, signs, last, table, "float")
            assert y.shape == expected.shape and error(y, expected) < bound
    with pytest.raises((ValueError, RuntimeError)):
        interpreted(together, x[:, :40], layers, signs, "float")


def test_what_serves_is_said(interpreted):
    made = random_layer(build("trellis(bits=2, memory=12, code=hash)"), 64, 32, seed=0)
    assert interpreted(explained, made, 4).startswith("triton fused decode and multiply, float16")
    assert "more than 16 rows" in interpreted(explained, made, 17)


@pytest.mark.parametrize("kind", ["hash", "table", "rows"])
def test_gradient(interpreted, kind):
    packed, grad = layer(70, 45, 2, 10, kind=kind), inputs(2, 70)
    got = interpreted(transposed, grad, packed.args, 45)
    assert error(got, grad.double() @ packed.dense) < 2e-6
    assert error(transposed_reference(grad, *packed.args, 45), grad.double() @ packed.dense) < 2e-6


def test_rows_of_zeros_and_what_is_not_finite(interpreted):
    packed, x = layer(70, 45), inputs(4, 45)
    x[0] = 0
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    for mode in ("float", "int15"):
        y = interpreted(operation, x, packed.args, mode)
        assert not y[0].any() and bool(torch.isnan(y[1:3]).all())
        assert error(y[3], x[3].double() @ packed.dense.T) < 1e-3


@pytest.mark.parametrize("factor", [1e-20, 1e20])
def test_tiny_and_huge_numbers_stay_in_range(interpreted, factor):
    packed, x = layer(70, 45), inputs(2, 45)
    y = interpreted(operation, x * factor, packed.args, "int8")
    assert error(y, factor * (x.double() @ packed.dense.T)) < 1e-3


def test_float16_beyond_what_a_rotation_of_it_holds(interpreted):
    packed = layer(70, 1024, rotate_out=False)
    x = torch.full((1, 1024), 6e4).half()  # rotated, one number is 32 times as large
    signs = torch.zeros(128, dtype=torch.uint8)
    args = (packed.args[0], 1e-6 * packed.args[1], signs, None, packed.args[4])
    y = interpreted(operation, x, args, "int8")
    assert error(y, reference(x.double(), *args, "float")) < 2e-3


def test_shapes_no_rotation_and_nothing_at_all(interpreted):
    packed = layer(70, 45, rotate_out=False)
    plain = (*packed.args[:2], None, None, packed.table)
    x = inputs(6, 45)
    expected = reference(x.double(), *plain, "float")
    y = interpreted(operation, x.reshape(2, 1, 3, 45), plain, "float")
    assert error(y.reshape(6, 70), expected) < 1e-6
    y = interpreted(operation, x[0], plain, "float")
    assert y.shape == (70,) and error(y, expected[0]) < 1e-6
    y = interpreted(operation, torch.cat([x, x], 1)[:, :45], plain, "float")
    assert error(y, expected) < 1e-6
    assert interpreted(operation, x[:0], packed.args, "float").shape == (0, 70)
    wide = x.double()
    assert torch.equal(interpreted(operation, wide, plain, "float"), expected)


def test_a_weight_that_lies_askew(interpreted):
    packed, x = layer(70, 45), inputs(1, 45)
    shifted = torch.cat([torch.zeros(3, dtype=torch.uint8), packed.weight])[3:]
    y = interpreted(operation, x, (shifted, *packed.args[1:]), "float")
    assert error(y, x.double() @ packed.dense.T) < 1e-6


def test_a_code_beyond_the_table_reads_its_last_entry(interpreted):
    packed = layer(9, 12, kind="rows", rotate_out=False)
    weight, scales, first, last, table = packed.args
    short = table[:20].clone()
    full = torch.cat([short, short[-1:].expand(12, 3)])
    x = inputs(1, 12)
    y = interpreted(operation, x, (weight, scales, first, last, short), "float")
    expected = reference(x.double(), weight, scales, first, last, full, "float")
    assert error(y, expected) < 1e-6


def test_what_does_not_fit_is_refused_with_the_cause(interpreted):
    packed = layer(70, 45)
    x, (weight, scales, first, last, table) = inputs(2, 45), packed.args

    def refused(match, **change):
        given = dict(weight=weight, scales=scales, first=first, last=last, table=table)
        mode, value = change.pop("mode", "int8"), change.pop("x", x)
        given.update(change)
        with pytest.raises(ValueError, match=match):
            interpreted(operation, value, tuple(given.values()), mode)

    refused("x: expected", x=inputs(2, 40))
    refused("cut short", weight=weight[:-8])
    refused("scales: expected float16", scales=scales.float())
    refused("signs_in", first=first[:-1])
    refused("signs_out", last=last.float())
    refused("table", table=table[:-1])
    refused("mode: expected one of", mode="int4")


def test_formats_without_a_kernel_are_said_and_served(interpreted):
    header = formats.PackedHeader(formats.ROWS, 6, 40, code_bits=5, dim=40)
    table, x = inputs(32, 40, 3), inputs(1, 40)
    weight = formats.assemble(header, torch.arange(header.payload_bytes, dtype=torch.uint8))
    args = (weight, torch.ones(6).half(), None, None, table)
    told = interpreted(caught, x, args)
    assert len(told) == 1 and "no GPU kernel" in told[0]
    expected = reference(x, *args, "float")
    torch.testing.assert_close(interpreted(operation, x, args, "float"), expected)


def test_a_header_is_fetched_once(interpreted):
    first, second = layer(9, 12, kind="rows").weight, layer(7, 12, kind="rows").weight
    other = torch.zeros_like(first)
    header = dataclasses.replace(formats.read_header(first), out_features=7)
    payload = torch.zeros(header.payload_bytes, dtype=torch.uint8)
    assert len(second) <= len(first)
    weight = formats.assemble(header, payload)
    del other
    assert interpreted(header_reads, weight.clone(), weight) == [1, 1, 2, 2, 3]


def test_operation_keeps_torchs_rules(interpreted):
    packed = layer(8, 12, rotate_out=False)
    x = inputs(1, 12)
    assert interpreted(checked, x.requires_grad_(), packed.args)


def panels(codes, bits):
    """Codes ``(out, n)`` in layout 4, written down once more from docs/format.md."""
    out, n = codes.shape
    fold = {1: 4, 2: 2, 3: 4}.get(bits, 1)
    full = np.zeros((-(-out // 8) * 8, -(-n // fold) * fold), np.int64)
    full[:out, :n] = codes
    data = []
    for begin in range(0, len(full), 64):
        block = full[begin : begin + 64]
        for unit in np.split(block, block.shape[1] // fold, axis=1):
            data += unit_bytes(unit, bits)
    return torch.from_numpy(np.concatenate(data).astype(np.uint8))


def unit_bytes(unit, bits):
    half = len(unit) // 2

    def fields(values, width):
        stream = (values[:, None] >> np.arange(width)) & 1
        return np.packbits(stream.reshape(-1).astype(np.uint8), bitorder="little")

    def nibbles(values):
        return values[:half] | values[half:] << 4

    if bits == 3:
        low = sum((unit[:, k] & 3) << 2 * k for k in range(4))
        return [low, nibbles(sum((unit[:, k] >> 2) << k for k in range(4)))]
    if bits <= 4:
        return [nibbles(sum(unit[:, k] << k * bits for k in range(unit.shape[1])))]
    if bits <= 8:
        return [fields(unit[:, 0], bits)]
    return [unit[:, 0] & 255, fields(unit[:, 0] >> 8, bits - 8)]


@pytest.mark.parametrize(
    "bits, dim, parts, beside",
    [(1, 1, 1, 0), (2, 1, 1, 0), (3, 1, 1, 0), (4, 1, 1, 0), (5, 2, 1, 0), (7, 3, 2, 0), (8, 8, 2, 0), (10, 4, 1, 0),
     (16, 2, 1, 0), (8, 8, 2, 1), (4, 8, 4, 1)],
)  # fmt: skip
def test_panels_of_codes(interpreted, bits, dim, parts, beside):
    out, width, generator = 75, 37, torch.Generator().manual_seed(bits)
    vectors, entries = -(-width // dim), (1 << bits) - (bits > 4)
    codes = torch.randint(0, entries, (out, vectors * parts), generator=generator)
    table = torch.randn(parts, entries, dim // parts if beside else dim, generator=generator)
    values = torch.stack([table[s][codes[:, s::parts]] for s in range(parts)], 2)
    dense = (values if beside else values.sum(2)).reshape(out, -1)[:, :width]
    data = panels(codes.numpy(), bits)
    fields = {
        "layout": 4, "out_features": out, "in_features": width, "code_bits": bits, "dim": dim,
        "codes_per_vector": parts, "vectors_per_row": vectors, "payload_bytes": len(data),
        "scale_group": 0, "scales_shape": (out,),
    }  # fmt: skip
    x, weight = inputs(2, width), torch.cat([torch.zeros(64, dtype=torch.uint8), data])
    y, decoded = interpreted(panel_product, x, weight, fields, table)
    assert error(y, x.double() @ dense.double().T) < 1e-6
    torch.testing.assert_close(decoded, dense[64:], rtol=0, atol=1e-6)


def test_launch_shapes_are_measured_and_change_no_result(interpreted):
    packed, x = layer(70, 45, rotate_out=False), inputs(2, 45)
    times, kept, y = interpreted(tuned, x, packed.args)
    assert list(times.values()) == [3.0, 1.0, 2.0, 4.0, 5.0]
    assert list(kept.values()) == [list(times)[1]]
    assert error(y, x.double() @ packed.dense.T) < 1e-6
