"""Files that the libraries' own classes wrote, where these are installed; twins by hand are in ``test_foreign``."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vq.analysis.open import open_subject
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
