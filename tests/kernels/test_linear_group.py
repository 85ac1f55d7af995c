"""Layers that share an input: the same numbers as one by one."""

import pytest
import torch

from vq.kernels import formats, layouts
from vq.kernels import linear as ops
from vq.kernels.formats import HASH_CODE, ROWS, TILES, PackedHeader
from vq.kernels.linear_group import packed_linear_group, quick_linear_group


def layer(out, width, bits=2, memory=12, *, kind="hash", rotate_out=True, seed=0):
    """Weight, scales, output signs and table of a random layer."""
    g = torch.Generator().manual_seed(seed)
    if kind == "rows":
        header = PackedHeader(ROWS, out, width, code_bits=5, dim=3)
        codes = torch.randint(0, 32, (out * header.vectors_per_row,), generator=g)
        payload, table = layouts.pack_rows(codes, 5), torch.randn(32, 3, generator=g)
    else:
        sizes = dict(dim=256, memory=memory, symbols=2, codes_per_vector=128)
        hashed = dict(code=HASH_CODE, hash_constant=36547, step=0.025) if kind == "hash" else {}
        header = PackedHeader(TILES, out, width, code_bits=2 * bits, **sizes, **hashed)
        size = (header.payload_bytes,)
        payload = torch.randint(0, 256, size, generator=g, dtype=torch.uint8)
        table = torch.randint(-128, 128, (64,), generator=g).to(torch.int8)
        if kind == "table":
            table = torch.randn(2**memory, 2, generator=g)
    signs = layouts.pack_signs(torch.rand(out, generator=g) < 0.5) if rotate_out else None
    scales = (torch.rand(out, generator=g) + 0.5).half()
    return formats.assemble(header, payload), scales, signs, table


def inputs(rows, width):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


def group_of(*layers):
    """Arguments of the operation."""
    weights, scales, signs_out, tables = zip(*layers, strict=True)
    width = formats.read_header(weights[0]).in_features
    generator = torch.Generator().manual_seed(1)
    signs_in = layouts.pack_signs(torch.rand(width, generator=generator) < 0.5)
    return list(weights), list(scales), signs_in, list(signs_out), list(tables)


def one_by_one(x, arguments, mode):
    weights, scales, signs_in, signs_out, tables = arguments
    layers = zip(weights, scales, signs_out, tables, strict=True)
    return [ops.packed_linear(x, w, s, signs_in, last, table, mode) for w, s, last, table in layers]


@pytest.mark.parametrize("mode", ops.MODES)
@pytest.mark.parametrize("kind", ["hash", "table", "rows"])
def test_group_equals_its_layers(isa, mode, kind):
    arguments = group_of(
        layer(70, 100), layer(64, 100, kind=kind, rotate_out=False), layer(9, 100, 3, 14, seed=1)
    )
    for rows in (1, 5, 40):
        x = inputs(rows, 100)
        expected = one_by_one(x, arguments, mode)
        for call in (packed_linear_group, quick_linear_group):
            got = call(x, *arguments, mode)
            assert [y.shape for y in got] == [(rows, 70), (rows, 64), (rows, 9)]
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_come_back(dtype):
    arguments = group_of(layer(70, 100), layer(64, 100))
    x = inputs(2, 100).to(dtype)
    got = packed_linear_group(x, *arguments, "int8")
    assert all(y.dtype == dtype for y in got)
    expected = one_by_one(x, arguments, "int8")
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_operation_keeps_torchs_rules():
    arguments = group_of(layer(70, 36), layer(64, 36))
    x = inputs(2, 36)
    operation = torch.ops.vq.packed_linear_group.default
    torch.library.opcheck(operation, (x, *arguments, "int8"))


def test_gradient_is_the_sum_of_the_layers():
    arguments = group_of(layer(70, 36), layer(64, 36))
    x = inputs(3, 36).requires_grad_()
    first, second = packed_linear_group(x, *arguments, "float")
    (first.sum() + 2 * second.sum()).backward()
    other = inputs(3, 36).requires_grad_()
    a, b = one_by_one(other, arguments, "float")
    (a.sum() + 2 * b.sum()).backward()
    torch.testing.assert_close(x.grad, other.grad)


def test_what_does_not_fit_is_refused():
    weights, scales, signs_in, signs_out, tables = group_of(layer(70, 36), layer(64, 36))
    x = inputs(2, 36)
    with pytest.raises(ValueError, match="as many weights, scales"):
        packed_linear_group(x, weights, scales[:1], signs_in, signs_out, tables, "int8")
    with pytest.raises(ValueError, match="scales: expected float16"):
        packed_linear_group(x, weights, scales[::-1], signs_in, signs_out, tables, "int8")
    with pytest.raises(ValueError, match="mode"):
        packed_linear_group(x, weights, scales, signs_in, signs_out, tables, "int3")
