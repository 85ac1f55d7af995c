"""Scales of groups of columns, against dense matrices that hold them."""

import dataclasses

import pytest
import torch
from interpreted_calls import operation, transposed
from test_panels import BOUNDS, CASES, error, inputs, packed

from vq.kernels import formats
from vq.kernels import linear as ops
from vq.kernels.dispatch import native
from vq.kernels.formats import HEADER_BYTES, PANELS, ROWS, TILES, PackedHeader, read_header
from vq.kernels.hadamard import reference as rotate
from vq.kernels.layouts import pack_payload
from vq.kernels.linear_group import packed_linear_group
from vq.kernels.linear_reference import reference, transposed_reference
from vq.kernels.ready import prepare
from vq.kernels.rows import packed_rows
from vq.kernels.rows import reference as rows_reference


def least(name):
    """The smallest group that a format allows: whole units, and a multiple of 32 columns."""
    bits, dim, parts = CASES[name][:3]
    fold = {1: 4, 2: 2, 3: 4}.get(bits, 1)
    return next(n for n in range(32, 4096, 32) if n % dim == 0 and n // dim * parts % fold == 0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ops.MODES)
def test_against_dense(isa, name, mode):
    small = least(name)
    for out, width, group in ((71, 130, small), (200, 333, 3 * small), (64, 2 * small, 2 * small)):
        layer = packed(name, out, width, group=group)
        for rows in (1, 3, 17):  # 17: many rows at once
            x = inputs(rows, width)
            y = ops.packed_linear(x, *layer.args, mode)
            assert error(y, x.double() @ layer.dense.T) < BOUNDS[mode]


@pytest.mark.parametrize("name", ["scalar2", "scalar4", "levels8", "2x8", "kmeans4x12", "e8p"])
def test_more_rows_than_the_kernels_take(isa, name):
    layer, x = packed(name, 100, 200, group=96), inputs(530, 200)
    exact = x.double() @ layer.dense.T
    for mode in ("int15", "float"):
        assert error(ops.packed_linear(x, *layer.args, mode), exact) < 2e-6


def test_many_rows_are_accurate_in_every_mode(isa):
    for name in ("scalar2", "scalar3", "levels8", "2x8", "e8p"):
        layer, x = packed(name, 128, 1024, group=128), inputs(24, 1024)
        exact = x.double() @ layer.dense.T
        for mode in ("int15", "int8"):
            assert error(ops.packed_linear(x, *layer.args, mode), exact) < 4e-4


@pytest.mark.parametrize("name", CASES)
def test_same_bits_for_any_threads_and_many_rows_on_any_set(name):
    module, count = native(), torch.get_num_threads()
    if module is None:
        pytest.skip("no compiled kernels")
    layer, before, few, many = packed(name, 330, 300, group=least(name)), module.isa(), [], []
    args = (*layer.args[:2], None, None, layer.table)
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            few.append([ops.packed_linear(inputs(2, 300), *args, mode) for mode in ops.MODES])
            for isa in ("portable", module.best_isa()):
                module.set_isa(isa)
                many.append(ops.packed_linear(inputs(21, 300), *args, "int15"))
    finally:
        module.set_isa(before)
        torch.set_num_threads(count)
    assert all(torch.equal(many[0], other) for other in many[1:])
    for other in few[1:]:
        assert all(torch.equal(a, b) for a, b in zip(few[0], other, strict=True))


def test_one_group_is_a_scale_a_row(isa):
    for name in ("scalar3", "kmeans4x8", "e8p", "levels8"):
        layer = packed(name, 70, 64)
        header = dataclasses.replace(layer.header, scale_group=96)
        weight = formats.assemble(header, layer.weight[HEADER_BYTES:])
        args = (weight, layer.scales[:, None], *layer.args[2:])
        for mode in ops.MODES:
            x = inputs(1, 64)
            found, rowwise = (ops.packed_linear(x, *a, mode) for a in (args, layer.args))
            torch.testing.assert_close(found, rowwise, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["scalar2", "levels8", "2x8", "e8p"])
def test_numbers_that_are_not_finite_stay_visible(isa, name):
    layer, x = packed(name, 40, 128, group=32), inputs(3, 128)
    x[1, 70] = float("nan")
    args = (*layer.args[:2], None, None, layer.table)
    for mode in ops.MODES:
        y = ops.packed_linear(x, *args, mode)
        assert bool(torch.isnan(y[1]).all()) and bool(torch.isfinite(y[[0, 2]]).all())


@pytest.mark.parametrize("name", CASES)
def test_reference_gradient_and_rows(isa, name):
    layer = packed(name, 71, 203, group=2 * least(name))
    x = inputs(2, 203).double()
    assert error(reference(x, *layer.args, "float"), x @ layer.dense.T) < 1e-6
    grad = inputs(3, 71)
    exact = grad.double() @ layer.dense
    assert error(transposed_reference(grad, *layer.args, 203), exact) < 2e-6
    assert error(ops.packed_linear_transposed(grad, *layer.args, 203), exact) < 2e-6
    index = torch.tensor([[0, 70], [64, 0]])
    given = (index, layer.weight, layer.scales, layer.signs_in, layer.table, 203)
    expected = rotate(layer.matrix * layer.factors, None, layer.signs_in)[index]
    for call in (packed_rows, rows_reference):
        torch.testing.assert_close(call(*given), expected.float(), rtol=1e-5, atol=1e-5)


def test_operations_keep_torchs_rules():
    layer = packed("scalar4", 9, 40, group=32)
    x = inputs(2, 40)
    torch.library.opcheck(torch.ops.vq.packed_linear.default, (x, *layer.args, "float"))
    index = torch.tensor([3, 8])
    rows = (index, layer.weight, layer.scales, None, layer.table, 40)
    torch.library.opcheck(torch.ops.vq.packed_rows.default, rows)
    x.requires_grad_()
    ops.packed_linear(x, *layer.args, "float").sum().backward()
    assert error(x.grad, torch.ones(2, 9).double() @ layer.dense) < 2e-6


def test_layers_on_one_input(isa):
    made = [packed("scalar4", 70, 96, seed=1, group=32), packed("2x8", 64, 96, seed=2)]
    made.append(packed("e8p", 64, 96, seed=3, group=96))
    signs, x = made[0].signs_in, inputs(2, 96)
    lists = [[m.args[i] for m in made] for i in (0, 1, 3, 4)]
    found = packed_linear_group(x, *lists[:2], signs, *lists[2:], "int15")
    for y, (w, s, last, table) in zip(found, zip(*lists, strict=True), strict=True):
        assert torch.equal(y, ops.packed_linear(x, w, s, signs, last, table, "int15"))


def test_ready_layer_is_the_operation():
    if native() is None:
        pytest.skip("no compiled kernels")
    layer, x = packed("scalar2", 70, 130, group=32), inputs(1, 130)
    ready = prepare(layer.header, layer.args[:4], layer.table)
    assert ready is not None
    for mode in ops.MODES:
        assert torch.equal(ready(x, mode), ops.packed_linear(x, *layer.args, mode))


def test_header_keeps_the_group_at_byte_50():
    header = PackedHeader(PANELS, 3, 100, 2, 1, scale_group=64)
    weight = formats.assemble(header, pack_payload(torch.zeros(3, 100, 1).long(), header))
    assert weight[50:52].tolist() == [64, 0] and not weight[52:64].any()
    assert read_header(weight).scale_group == 64 and header.scales_shape == (3, 2)
    plain = dataclasses.replace(header, scale_group=0)
    assert plain.scales_shape == (3,) and plain.to_bytes()[50:] == bytes(14)
    assert not plain.same_format(header)


def test_what_does_not_fit_is_refused_with_the_cause():
    layer, x = packed("scalar4", 40, 100, group=32), inputs(1, 100)
    weight, scales, *rest = layer.args
    for wrong in (scales[:, 0], scales[:, :3], scales.t().contiguous(), scales.float()):
        with pytest.raises(ValueError, match=r"scales: expected float16 of shape \(40, 4\)"):
            ops.packed_linear(x, weight, wrong, *rest, "int8")
    rowwise = packed("scalar4", 40, 100)
    with pytest.raises(ValueError, match=r"scales: expected float16 of shape \(40,\)"):
        ops.packed_linear(x, rowwise.weight, scales, *rest, "int8")
    with pytest.raises(ValueError, match="scales"):
        packed_rows(torch.tensor([0]), weight, scales[:, 0], None, layer.table, 100)
    for group in (1, 16, 48, 65536):
        with pytest.raises(ValueError, match=f"multiple of 32 columns.*got {group}"):
            PackedHeader(PANELS, 4, 96, 4, 1, scale_group=group)
    for bits, dim, group, step in ((8, 3, 64, 96), (3, 16, 32, 64), (12, 24, 64, 96)):
        with pytest.raises(ValueError, match=f"multiple of {step} columns"):
            PackedHeader(PANELS, 4, 96, bits, dim, scale_group=group)
    trellis = {"memory": 12, "symbols": 2, "codes_per_vector": 128}
    for layout, bits, dim, more in ((TILES, 4, 256, trellis), (ROWS, 4, 1, {})):
        with pytest.raises(ValueError, match="expected codes of tables that can be listed"):
            PackedHeader(layout, 64, 64, bits, dim, scale_group=32, **more)


@pytest.mark.parametrize(
    "name", ["scalar2", "scalar3", "pairs4", "triples7", "2x8", "product8", "e8p"]
)
def test_gpu_kernels(interpreted, name):
    layer = packed(name, 75, 203, group=least(name))
    for rows in (2, 17):
        x = inputs(rows, 203)
        for mode, bound in (("float", 1e-6), ("int8", 1e-3)):
            y = interpreted(operation, x, layer.args, mode)
            assert error(y, x.double() @ layer.dense.T) < bound
    tiny = (layer.weight, (layer.scales.float() * 2**-12).half(), *layer.args[2:])
    y = interpreted(operation, inputs(1, 203), tiny, "int8")
    assert error(y, reference(inputs(1, 203).double(), *tiny, "float")) < 1e-3
    grad = inputs(2, 75)
    assert error(interpreted(transposed, grad, layer.args, 203), grad.double() @ layer.dense) < 2e-6
