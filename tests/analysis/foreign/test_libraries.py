"""Files that the libraries' own classes wrote, where these are installed; twins by hand are in ``test_foreign``."""

from __future__ import annotations

import importlib.util
import json
import sys
import types

import pytest
import torch
from safetensors.torch import save_file

from vq.analysis.files.open import open_subject
from vq.errors import VqError


@pytest.fixture
def saved(tmp_path):
    """Writes a module's state dict and opens it."""

    def save(module):
        torch.save(module.state_dict(), tmp_path / "m.pt")
        return open_subject(tmp_path / "m.pt")

    return save


def test_vector_quantize_pytorch(saved):
    lib = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    plain = lib.VectorQuantize(dim=8, codebook_size=16).train()
    plain(torch.randn(1, 64, 8))
    (table,) = saved(plain).tables
    assert torch.equal(table.values, plain.codebook) and not table.cosine
    assert torch.equal(table.counts, plain._codebook.cluster_size[0])
    assert saved(lib.VectorQuantize(dim=8, codebook_size=16, use_cosine_sim=True)).tables[0].cosine
    heads = lib.VectorQuantize(
        dim=8, codebook_dim=4, codebook_size=16, heads=2, separate_codebook_per_head=True
    )
    assert saved(heads).structure == "grouped" and len(saved(heads).tables) == 2
    residual = lib.ResidualVQ(dim=8, codebook_size=16, num_quantizers=3)
    subject = saved(residual)
    assert subject.structure == "residual"
    assert torch.equal(torch.stack([t.values for t in subject.tables]), residual.codebooks)
    grouped = saved(lib.GroupedResidualVQ(dim=8, codebook_size=16, num_quantizers=2, groups=2))
    assert [t.name for t in grouped.tables][2] == "group 1, stage 0"
    simvq = lib.SimVQ(dim=8, codebook_size=16)
    assert torch.allclose(saved(simvq).tables[0].values, simvq.codebook, atol=1e-6)
    stages = lib.ResidualSimVQ(dim=8, codebook_size=16, num_quantizers=2)
    assert saved(stages).structure == "residual"
    for grid in (lib.FSQ(levels=[8, 5, 5], dim=8), lib.LFQ(codebook_size=16, dim=8)):
        with pytest.raises(VqError, match="no table"):
            saved(grid)


def test_transformers_encodec_and_dac(tmp_path):
    lib = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"sampling_rate": 100, "target_bandwidths": [0.05, 0.4], "upsampling_ratios": [2, 2]}
    config = lib.EncodecConfig(
        num_filters=2, num_lstm_layers=1, hidden_size=8, codebook_size=16, **small
    )
    encodec = lib.EncodecModel(config)
    for layer in encodec.quantizer.layers:
        layer.codebook.embed.copy_(torch.randn(16, 8))
    encodec.save_pretrained(tmp_path / "encodec")
    subject = open_subject(tmp_path / "encodec")
    assert subject.facts["library"] == "transformers EnCodec"
    assert len(subject.tables) == len(encodec.quantizer.layers)
    assert torch.equal(subject.tables[0].values, encodec.quantizer.layers[0].codebook.embed)
    config = lib.DacConfig(
        encoder_hidden_size=4,
        downsampling_ratios=[2, 2],
        decoder_hidden_size=16,
        n_codebooks=2,
        codebook_size=16,
        codebook_dim=4,
    )
    dac = lib.DacModel(config)
    dac.save_pretrained(tmp_path / "dac")
    subject = open_subject(tmp_path / "dac")
    assert subject.facts["library"] == "DAC" and len(subject.facts["stage_energy"]) == 2
    assert torch.equal(subject.tables[1].values, dac.quantizer.quantizers[1].codebook.weight.data)


def test_transformers_mimi(tmp_path):
    pytest.importorskip("transformers")
    from transformers import MimiConfig
    from transformers.models.mimi.modeling_mimi import MimiSplitResidualVectorQuantizer

    torch.manual_seed(0)
    config = MimiConfig(
        hidden_size=8,
        codebook_size=16,
        codebook_dim=4,
        vector_quantization_hidden_dimension=4,
        num_quantizers=3,
        num_semantic_quantizers=1,
    )
    module = MimiSplitResidualVectorQuantizer(config)
    books = [*module.semantic_residual_vector_quantizer.layers]
    books += [*module.acoustic_residual_vector_quantizer.layers]
    for layer in books:
        layer.codebook.embed_sum.copy_(torch.randn(16, 4))
        layer.codebook.cluster_usage.copy_(torch.rand(16) + 1)
    state = {f"quantizer.{k}": v for k, v in module.state_dict().items()}
    save_file(state, tmp_path / "mimi.safetensors")
    tables = {t.name: t for t in open_subject(tmp_path / "mimi.safetensors").tables}
    assert set(tables) == {"semantic stage 0", "acoustic stage 0", "acoustic stage 1"}
    want = module.acoustic_residual_vector_quantizer.layers[1].codebook.embed
    assert torch.allclose(tables["acoustic stage 1"].values, want)


def test_diffusers_vqmodel(tmp_path):
    lib = pytest.importorskip("diffusers")
    model = lib.VQModel(
        block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=16, vq_embed_dim=4
    )
    model.save_pretrained(tmp_path / "vq")
    (table,) = open_subject(tmp_path / "vq").tables
    assert torch.equal(table.values, model.quantize.embedding.weight.data)


def test_aqlm_quantized_linear(tmp_path):
    pytest.importorskip("aqlm")
    from aqlm import QuantizedLinear
    from aqlm.utils import _dequantize_weight, pack_int_data, unpack_int_data

    torch.manual_seed(0)
    layer = QuantizedLinear(
        16, 6, in_group_size=8, out_group_size=1, num_codebooks=2, nbits_per_codebook=8
    )
    codes = torch.randint(256, (6, 2, 2))
    layer.codes.data = pack_int_data(codes.clone(), 8)
    layer.codebooks.data, layer.scales.data = torch.randn(2, 256, 1, 8), torch.rand(6, 1, 1, 1)
    state = {f"model.q.{k}": v for k, v in layer.state_dict().items()}
    save_file(state, tmp_path / "m.safetensors")
    (found,) = open_subject(tmp_path / "m.safetensors").layers
    want = _dequantize_weight(unpack_int_data(layer.codes, 8), layer.codebooks, layer.scales)
    assert torch.allclose(found.dense(), want, atol=1e-6)


@pytest.fixture
def without_init(monkeypatch):
    """Imports modules of a package whose ``__init__`` wants more than is installed here."""
    before = set(sys.modules)

    def bare(*names):
        for name in names:
            spec = importlib.util.find_spec(name)
            if spec is None:
                pytest.skip(f"needs {name.partition('.')[0]}")
            package = types.ModuleType(name)
            package.__path__ = list(spec.submodule_search_locations)
            monkeypatch.setitem(sys.modules, name, package)

    yield bare
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("encodec", "dac", "vptq"):
            del sys.modules[name]


def test_taming_transformers(saved):
    pytest.importorskip("taming")
    from taming.modules.vqvae.quantize import GumbelQuantize, VectorQuantizer2

    class Model(torch.nn.Module):
        def __init__(self, quantize):
            super().__init__()
            self.quantize = quantize

    plain = Model(VectorQuantizer2(16, 4, beta=0.25))
    subject = saved(plain)
    assert subject.facts["library"] == "VQGAN"
    assert torch.equal(subject.tables[0].values, plain.quantize.embedding.weight.data)
    gumbel = Model(GumbelQuantize(4, 4, 16))
    assert torch.equal(saved(gumbel).tables[0].values, gumbel.quantize.embed.weight.data)


def test_encodec_of_its_own_library(tmp_path, without_init):
    without_init("encodec")
    from encodec.quantization.vq import ResidualVectorQuantizer

    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(dimension=8, n_q=3, bins=16, kmeans_init=True).train()
    quantizer(torch.randn(2, 8, 200), sample_rate=75)
    torch.save({f"quantizer.{k}": v for k, v in quantizer.state_dict().items()}, tmp_path / "m.pt")
    subject = open_subject(tmp_path / "m.pt")
    assert subject.structure == "residual" and len(subject.tables) == 3
    for table, layer in zip(subject.tables, quantizer.vq.layers, strict=True):
        assert torch.equal(table.values, layer._codebook.embed)
        assert torch.equal(table.counts, layer._codebook.cluster_size)


def test_dac_of_its_own_library(tmp_path, without_init):
    without_init("dac", "dac.nn")
    from dac.nn.quantize import ResidualVectorQuantize

    torch.manual_seed(0)
    quantizer = ResidualVectorQuantize(
        input_dim=8, n_codebooks=2, codebook_size=16, codebook_dim=4
    ).eval()
    state = {f"quantizer.{k}": v for k, v in quantizer.state_dict().items()}
    torch.save({"state_dict": state, "metadata": {"kwargs": {"n": 2}}}, tmp_path / "weights.pth")
    subject = open_subject(tmp_path / "weights.pth")
    assert subject.facts["library"] == "DAC" and all(t.cosine for t in subject.tables)
    every = torch.arange(16)[None]
    for table, energy, part in zip(
        subject.tables, subject.facts["stage_energy"], quantizer.quantizers, strict=True
    ):
        assert torch.equal(table.values, part.codebook.weight.data)
        with torch.no_grad():
            values = part.out_proj(part.decode_code(every))
        spread = values[0].var(1, unbiased=False).sum()
        assert energy == pytest.approx(float(spread), rel=1e-5)


def test_a_whole_mimi_model_of_transformers(tmp_path):
    lib = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    config = lib.MimiConfig(
        **sizes,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_filters=2,
        codebook_size=16,
        codebook_dim=4,
        vector_quantization_hidden_dimension=4,
        num_quantizers=4,
        num_semantic_quantizers=1,
        upsample_groups=8,
    )
    model = lib.MimiModel(config)
    parts = (
        ("semantic", model.quantizer.semantic_residual_vector_quantizer),
        ("acoustic", model.quantizer.acoustic_residual_vector_quantizer),
    )
    for _, part in parts:
        for layer in part.layers:
            layer.codebook.embed_sum.copy_(torch.randn(16, 4))
            layer.codebook.cluster_usage.copy_(torch.rand(16) + 1)
    model.save_pretrained(tmp_path / "mimi")
    subject = open_subject(tmp_path / "mimi")
    tables = {t.name: t for t in subject.tables}
    assert len(tables) == 4 and "Mimi" in subject.facts["library"]
    for word, part in parts:
        for number, layer in enumerate(part.layers):
            found = tables[f"{word} stage {number}"]
            assert torch.allclose(found.values, layer.codebook.embed)
            assert torch.equal(found.counts, layer.codebook.cluster_usage)


@pytest.mark.parametrize("packed", [False, True])
def test_vptq_linear(tmp_path, without_init, monkeypatch, packed):
    without_init("vptq", "vptq.layers", "vptq.utils")
    unused = types.ModuleType("sentence_transformers.SentenceTransformer")
    unused.SentenceTransformer = None  # imported there, and not used
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.ModuleType("unused"))
    monkeypatch.setitem(sys.modules, unused.__name__, unused)
    from vptq.layers.vqlinear import VQuantLinear
    from vptq.utils.pack import pack_index

    torch.manual_seed(0)
    args = {"in_features": 12, "out_features": 10, "vector_lens": [-1, 4], "num_centroids": [-1, 16],
            "num_res_centroids": [-1, 4 if packed else -1], "group_num": 1, "group_size": 12, "outlier_size": 0,
            "indices_as_float": False, "enable_norm": True, "enable_perm": True,
            "is_indice_packed": packed, "bias": False}  # fmt: skip
    layer = VQuantLinear(**args, enable_proxy_error=False, dtype=torch.float32)
    main, more = torch.randint(16, (1, 3, 12)), torch.randint(4, (1, 3, 12))
    perm = torch.randperm(12)
    layer.centroids.weight.data = torch.randn(1, 64)
    layer.weight_scale.data, layer.weight_bias.data = torch.rand(12), torch.rand(12)
    layer.perm.data = perm.short()
    if packed:
        layer.res_centroids.weight.data = torch.randn(1, 16)
        layer.indices.data = pack_index(
            indice=main.short(),
            index_bits=4,
            res_indice=more.short(),
            res_bits=2,
            index_dtype=torch.uint16,
        )
    else:
        layer.indices.data = main.short()  # with residuals, this version cannot be built unpacked
    save_file(
        {f"l.0.q.{k}": v.contiguous() for k, v in layer.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    about = {"quant_method": "vptq", "config_for_layers": {"l.0.q": args}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": about}))
    (found,) = open_subject(tmp_path).layers
    with torch.no_grad():
        want = layer(torch.eye(12)).T
    assert found.shape == (10, 12)
    assert torch.allclose(found.dense(), want, atol=1e-5)
