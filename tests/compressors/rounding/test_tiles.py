"""Code vectors that cover several rows: rounding, layout 3, packed layers."""

import dataclasses

import pytest
import torch

from vq.codebooks import build
from vq.compressors.layers.decode import decode_layer
from vq.compressors.layers.linear import QuantizedLinear, header_for
from vq.compressors.rounding.round import RoundingOptions, restore, round_matrices
from vq.kernels.formats import BLOCKS, HEADER_BYTES, PANELS, ROWS, PackedHeader, read_packed
from vq.kernels.linear import packed_linear

SPLIT = "split(of=[trellis(bits=2, memory=8), trellis(bits=2.5, memory=8, code=hybrid)])"
STACK = "residual(stages=2, of=trellis(bits=2.5, memory=8))"


def problem(out, width):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, width, generator=generator)
    mix = torch.randn(width, width, generator=generator) / width**0.5
    return weight, mix @ mix.T + 0.1 * torch.eye(width)


def packed(spec, out, width):
    book = build(spec)
    weight, hessian = problem(out, width)
    found = round_matrices({"w": weight}, hessian, book)["w"]
    layer = QuantizedLinear.from_codes(
        book, found.codes, found.scales, in_features=width, signs_in=found.signs_in
    )
    return book, found, layer


@pytest.mark.parametrize("spec, rate", [(SPLIT, 2.25), (STACK, 5)])
@pytest.mark.parametrize("out, width", [(64, 64), (70, 52)])
def test_rounding_packing_and_running(spec, rate, out, width):
    book, found, layer = packed(spec, out, width)
    weight, hessian = problem(out, width)
    nearest = round_matrices({"w": weight}, hessian, book, RoundingOptions(method="nearest"))["w"]
    assert book.tile[0] == 64 and found.proxy_error < 0.9 * nearest.proxy_error

    dense = restore(found, book, (out, width))
    torch.testing.assert_close(layer.dequantize(), dense, rtol=1e-4, atol=1e-5)
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), x @ dense.T, rtol=2e-3, atol=2e-3)
    tiles = -(-out // 64) * -(-width // book.tile[1])
    assert (layer.weight.numel() - HEADER_BYTES) * 8 == tiles * book.dim * rate
    again = QuantizedLinear(width, out, build(spec))
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


def test_rows_are_found_wherever_a_panel_begins():
    _, _, layer = packed(SPLIT, 200, 20)
    whole = decode_layer(layer, 0, 200)
    for first, rows in ((0, 64), (64, 64), (3, 10), (60, 70), (199, 1)):
        assert torch.equal(decode_layer(layer, first, rows), whole[first : first + rows])


@pytest.mark.parametrize("spec", [SPLIT, STACK])
def test_layers_compile_as_one_graph(spec):
    _, _, layer = packed(spec, 64, 32)
    x = torch.randn(3, 32)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_header_of_layout_three():
    header = header_for(build(SPLIT), 70, 52)
    assert header.layout == BLOCKS and header.tile_rows == 64 and header.dim == 512
    assert (header.bands, header.vectors_per_row) == (2, 7)
    raw = header.to_bytes()
    assert raw[48:50] == (64).to_bytes(2, "little") and raw[50:] == bytes(14)
    assert PackedHeader.from_bytes(raw) == header
    assert header_for(build("kmeans(dim=4, entries=16)"), 70, 52).layout == PANELS
    _, _, layer = packed(SPLIT, 64, 16)
    assert read_packed(layer.weight).same_format(layer.header)


def test_fields_that_contradict_each_other_are_refused():
    header = header_for(build(SPLIT), 64, 16)
    for change in ({"tile_rows": 1}, {"layout": ROWS}, {"tile_rows": 7}, {"tile_rows": 0}):
        with pytest.raises(ValueError, match="vectors of several rows in layout 3"):
            dataclasses.replace(header, **change)


def test_the_operation_leaves_them_to_the_codebook():
    _, _, layer = packed(SPLIT, 64, 16)
    assert "codebook.decode" in layer.explain()
    with pytest.raises(ValueError, match="the codebook's own decode"):
        packed_linear(
            torch.zeros(1, 16), layer.weight, layer.scales, None, None, torch.zeros(2, 512), "float"
        )
