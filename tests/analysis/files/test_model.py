"""Compressed models: values, bits and errors of packed files against the compressor's own layers."""

from __future__ import annotations

import json

import pytest
import torch

from vq.analysis.files.open import open_subject
from vq.analysis.files.packed import rotate
from vq.analysis.measures.weights import kurtosis, rank_correlation
from vq.analysis.pipeline import analyze
from vq.compressors.checkpoint.size import measure_size
from vq.compressors.loading import load
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.errors import VqError
from vq.kernels.hadamard import transform

pytestmark = pytest.mark.hf
BOOKS = {
    "trellis": ("trellis(bits=2, memory=12, code=hash)", "input"),
    "table": ("trellis(bits=3, memory=12, code=lut)", "both"),
    "rows": ("residual(stages=2, of=kmeans(dim=8, entries=256))", "both"),
    "plain": ("scalar(bits=3)", "none"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory, llama, text):
    """Function: the tiny model compressed with a codebook of ``BOOKS``."""
    folder, made = tmp_path_factory.mktemp("compressed"), {}

    def make(name: str):
        if name not in made:
            book, rotation = BOOKS[name]
            layers = {"*layers.0.mlp.up_proj": "keep"}
            options = CompressOptions(
                codebook=book, rotation=rotation, windows=2, context=16, layers=layers
            )
            made[name] = compress(llama, folder / name, options=options, calibration=text).output
        return made[name]

    return make


@pytest.mark.parametrize("name", BOOKS)
def test_matrices_are_those_the_model_multiplies_by(models, name):
    subject, loaded = open_subject(models(name)), load(models(name))
    assert subject.kind == "model" and len(subject.layers) == 20
    modules = dict(loaded.named_modules())
    for layer in subject.layers[::7]:
        want = modules[layer.name]
        assert layer.shape == (want.out_features, want.in_features)
        assert torch.allclose(layer.dense(), want.dequantize(), atol=1e-4)
        if (
            layer.rotate is not None
        ):  # the rotation takes the dense matrix to the codebook's values times scales
            turned = layer.rotate(want.dequantize())
            assert torch.allclose(turned, want.rotated_weight(), atol=1e-4)


@pytest.mark.parametrize("name", ["trellis", "rows"])
def test_bits_are_those_of_the_files(models, name):
    analysis = analyze(open_subject(models(name)))
    (section,) = analysis.of("weights")
    size = measure_size(models(name))
    assert section.number("bits_per_weight") == pytest.approx(size.bits_per_weight)
    assert section.number("total_bits_per_weight") == pytest.approx(size.total_bits_per_weight)
    assert section.number("weights") == size.quantized_weights
    bits = next(s for s in section.series if s.key == "bits")
    assert sum(bits.columns["bits_per_weight"]) == pytest.approx(size.bits_per_weight)
    assert {"codes", "scales", "header"} <= set(bits.columns["part"])


def test_errors_against_the_original(models, llama):
    original = open_subject(llama)
    analysis = analyze(open_subject(models("trellis")), original)
    (section,) = analysis.of("weights")
    report = json.loads((models("trellis") / "compression.json").read_text())
    proxy = [layer["proxy_error"] for layer in report["layers"].values()]
    assert section.number("proxy_error") == pytest.approx(sum(proxy) / len(proxy))
    assert section.number("worst_proxy_error") == max(proxy)
    modules = dict(load(models("trellis")).named_modules())
    curve = next(s for s in section.series if s.key == "by_layer").columns
    for name, error in list(zip(curve["layer"], curve["relative_error"], strict=True))[:3]:
        weight = original.weights[name]()
        want = (modules[name].dequantize() - weight).square().sum() / weight.square().sum()
        assert error == pytest.approx(float(want), rel=1e-4)
    (heat,) = section.matrices
    assert len(heat.rows) == 20 and all(row[0] >= row[-1] for row in heat.values)
    assert section.number("kurtosis_after") < 4


def test_without_the_original_the_section_says_what_is_missing(models):
    (section,) = analyze(open_subject(models("plain"))).of("weights")
    assert section.get("layer_error") is None and "original" in section.notes[0]
    assert section.get("kurtosis_after") is None


def test_a_damaged_model_is_refused_with_a_name(models, copy):
    folder = copy(models("plain"))
    (folder / "model.safetensors").write_bytes(b"12345678nothing")
    with pytest.raises(VqError, match=r"model\.safetensors: damaged"):
        open_subject(folder)


@pytest.mark.parametrize("n", [1, 8, 48, 577])
def test_rotation_against_the_kernels_reference(n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rotate(x), transform(x), atol=1e-5)
    assert torch.allclose(rotate(rotate(x)), x, atol=1e-5)


def test_kurtosis_and_rank_correlation():
    generator = torch.Generator().manual_seed(0)
    assert kurtosis(torch.randn(200_000, generator=generator)) == pytest.approx(3, abs=0.05)
    assert kurtosis(torch.tensor([1.0, -1.0, 1.0, -1.0])) == pytest.approx(1)
    assert kurtosis(torch.ones(4)) == 0
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)


@pytest.mark.parametrize("original", ["llama", "biased"])  # a tied head, and one of its own
def test_packed_embeddings_stand_beside_the_layers(original, request, text, tmp_path):
    folder = request.getfixturevalue(original)
    options = CompressOptions(
        codebook="trellis(bits=2, memory=12, code=hash)",
        embeddings="uniform(bits=8)",
        windows=2,
        context=16,
    )
    out = compress(folder, tmp_path / "out", options=options, calibration=text).output
    subject, loaded, size = open_subject(out), load(out), measure_size(out)
    assert not {"model.embed_tokens", "lm_head"} & {layer.name for layer in subject.layers}
    told = analyze(subject).to_dict()
    facts = subject.facts
    stored = sum(layer.shape[0] * layer.shape[1] for layer in subject.layers)
    biases = {f"{layer.name}.bias" for layer in subject.layers}  # of layers: told there
    whole = [p.numel() for n, p in load(folder).named_parameters() if n not in biases]
    assert stored + facts["other_weights"] == sum(whole)
    assert told["verdict"] and loaded is not None
    bits = sum(sum(layer.bits.values()) for layer in subject.layers)
    total = bits + facts["codebook_bits"] + facts["other_bits"]
    each = total / (stored + facts["other_weights"])
    if original == "llama":  # the other has biases, which the size counts too
        assert each == pytest.approx(size.total_bits_per_weight, rel=1e-3)
