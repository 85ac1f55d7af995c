"""Composed codebooks through rounding and packed layers."""

import pytest
import torch
from safetensors.torch import load_file

import vq
from vq.codebooks import build
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.rounding.round import RoundingOptions, restore, round_matrices

SPECS = (
    "product(groups=2, of=kmeans(dim=4, entries=256))",
    "product(groups=4, of=kmeans(dim=2, entries=16), shared=true)",
    "factorized(of=kmeans(dim=4, entries=256), factors=2)",
    "residual(stages=2, of=kmeans(dim=8, entries=256))",
    "additive(stages=2, dim=8, entries=256)",
    "simvq(dim=8, entries=256)",
    "frozen(of=kmeans(dim=8, entries=256))",
    "residual(stages=2, of=scalar(bits=2))",
)


def problem(out=24, width=64):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, width, generator=generator)
    mix = torch.randn(width, width, generator=generator) / width**0.5
    return weight, mix @ mix.T + 0.1 * torch.eye(width)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("width", [64, 60])
def test_rounding_packing_and_running(spec, width):
    book = build(spec)
    assert book.tile == (1, book.dim)
    weight, hessian = problem(width=width)
    found = round_matrices({"w": weight}, hessian, book)["w"]
    nearest = round_matrices({"w": weight}, hessian, book, RoundingOptions(method="nearest"))["w"]
    assert found.codes.shape == (24, -(-width // book.dim), *book.codes_shape)
    assert found.proxy_error < nearest.proxy_error < 1

    layer = QuantizedLinear.from_codes(
        book, found.codes, found.scales, in_features=width, signs_in=found.signs_in
    )
    values = book.decode(found.codes).reshape(24, -1)[:, :width]
    assert torch.equal(layer.rotated_weight(), values * found.scales.float()[:, None])
    dense = restore(found, book, (24, width))
    torch.testing.assert_close(layer.dequantize(), dense, rtol=1e-4, atol=1e-5)
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    exact = x @ dense.T
    assert (layer(x) - exact).norm() < 5e-4 * exact.norm()  # activations of 15 bits
    layer.mode = "float"
    torch.testing.assert_close(layer(x), exact, rtol=1e-4, atol=1e-4)
    payload = layer.weight.numel() - 64
    assert payload == -(-found.codes.numel() * book.code_bits // 8)


def test_a_joint_index_too_large_to_list_is_decoded_by_the_codebook():
    book = build("factorized(of=kmeans(dim=2, entries=64), factors=4)")
    book.fit(torch.randn(500, 8, generator=torch.Generator().manual_seed(3)))
    weight, _ = problem()
    found = round_matrices({"w": weight}, None, book)["w"]
    layer = QuantizedLinear.from_codes(
        book, found.codes, found.scales, in_features=64, signs_in=found.signs_in
    )
    values = book.decode(found.codes).reshape(24, 64)
    assert torch.equal(layer.rotated_weight(), values * found.scales.float()[:, None])
    assert "codebook.decode" in layer.explain()


@pytest.mark.parametrize("spec", SPECS)
def test_layers_compile_as_one_graph(spec):
    book = build(spec)
    codes = book.encode(torch.randn(6, 16 // book.dim, book.dim))
    layer = QuantizedLinear.from_codes(book, codes, torch.ones(6), in_features=16)
    x = torch.randn(5, 16)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.hf
@pytest.mark.parametrize("spec", [SPECS[3], SPECS[5]])
def test_tables_survive_a_checkpoint_in_another_dtype(spec, llama, text, tmp_path):
    options = CompressOptions(codebook=spec, windows=2, context=16)
    folder = compress(llama, tmp_path / "out", options=options, calibration=text).output
    stored = load_file(folder / "model.safetensors")
    book = vq.load(folder, dtype=torch.bfloat16).vq_codebooks.c0
    assert str(book.spec) == spec
    for name, tensor in book.state_dict().items():
        expected = stored[f"vq_codebooks.c0.{name}"]
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected)
    x = torch.randn(9, book.dim, generator=torch.Generator().manual_seed(0))
    assert torch.equal(book(x), build(spec)(x))
