from __future__ import annotations

import json

import pytest
import torch

import vq
from vq.errors import VqError
from vq.quantizers import make
from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.tokenizer import Tokenizer

QUANTIZERS = {
    "vq": {"codebook": "kmeans(dim=8, entries=32)"},
    "fsq": {"levels": [5, 5, 3], "dim": 8},
    "residual": {"of": {"kind": "vq", "codebook": "kmeans(dim=8, entries=16)"}, "stages": 3},
    "simvq": {"codebook": "simvq(dim=4, entries=16)", "dim": 8},
}


def started(kind: str = "vq", backbone: str = "conv2d") -> Tokenizer:
    small = {"factor": 4} if backbone == "conv2d" else {"strides": [4, 5], "dilations": [1]}
    body = make_backbone(backbone, seed=0, dim=8, width=8, **small)
    quantizer = make(kind, **QUANTIZERS[kind])
    rate = None if backbone == "conv2d" else 8000
    tokenizer = Tokenizer(body, quantizer, rate)
    shape = (8, 3, 32, 32) if backbone == "conv2d" else (8, 1, 1600)
    with torch.no_grad():
        rows = tokenizer.features(signal(shape)).reshape(-1, 8)
    quantizer.start(rows, torch.Generator().manual_seed(0))
    return tokenizer.eval()


def signal(shape, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_codes_there_and_back(kind):
    tokenizer = started(kind)
    x = signal((2, 3, 16, 24), 1)
    codes = tokenizer.encode(x)
    depth = 3 if kind == "residual" else 1
    assert codes.shape == (2, depth, 4, 6) and codes.dtype == torch.int64
    assert 0 <= int(codes.min()) and int(codes.max()) < tokenizer.code_spec.entries[0]
    out = tokenizer(x)
    assert torch.equal(out.quantized.codes.reshape(2, 4, 6, depth), codes.movedim(1, -1))
    values = tokenizer.quantizer.decode(codes.movedim(1, -1).reshape(out.quantized.codes.shape))
    assert torch.equal(values, out.quantized.values)
    torch.testing.assert_close(tokenizer.decode(codes), out.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_load_gives_the_same_bits(kind, tmp_path):
    tokenizer = started(kind)
    x = signal((1, 3, 20, 12), 2)
    tokenizer.save(tmp_path / "model")
    loaded = vq.Tokenizer.load(tmp_path / "model")
    assert loaded.model_hash == tokenizer.model_hash and not loaded.training
    codes = tokenizer.encode(x)
    assert torch.equal(loaded.encode(x), codes)
    assert torch.equal(loaded.decode(codes), tokenizer.decode(codes))
    assert loaded.code_spec == tokenizer.code_spec
    for a, b in zip(tokenizer.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_hash_knows_weights_and_configuration():
    a, b = started(), started()
    assert a.model_hash == b.model_hash and len(a.model_hash) == 64
    with torch.no_grad():
        next(b.backbone.parameters()).view(-1)[0] += 1e-6
    assert a.model_hash != b.model_hash
    c = Tokenizer(a.backbone, make("vq", **QUANTIZERS["vq"], commitment=0.3))
    c.load_state_dict(a.state_dict())
    assert a.model_hash != c.model_hash


def test_inference_changes_nothing():
    tokenizer = started()
    before = tokenizer.model_hash
    codes = tokenizer.encode(signal((1, 3, 8, 8)))
    tokenizer.decode(codes)
    tokenizer(signal((1, 3, 8, 8)))
    assert tokenizer.model_hash == before


def test_sizes_that_do_not_fit_are_padded_and_cropped():
    tokenizer = started()
    x = signal((1, 3, 10, 7))
    codes = tokenizer.encode(x)
    assert codes.shape == (1, 1, 3, 2)
    assert tokenizer.decode(codes).shape == (1, 3, 12, 8)
    assert tokenizer.decode(codes, size=(10, 7)).shape == x.shape


def test_codes_do_not_depend_on_the_batch():
    tokenizer = started()
    x = signal((5, 3, 16, 16))
    together = tokenizer.encode(x)
    for n in range(5):
        assert torch.equal(tokenizer.encode(x[n : n + 1]), together[n : n + 1])


def test_sound_codes_and_spec():
    tokenizer = started("vq", "seanet")
    x = signal((2, 1, 3000), 3)
    codes = tokenizer.encode(x)
    assert codes.shape == (2, 1, 150) and tokenizer.decode(codes).shape == x.shape
    spec = tokenizer.code_spec
    assert (spec.kind, spec.hop, spec.sample_rate, spec.channels) == ("audio", (20,), 8000, 1)
    assert spec.entries == (32,) and spec.strides == (1,)
    assert spec.model_hash == tokenizer.model_hash
    assert spec.bitrate == pytest.approx(5 * 400 / 1000)


def test_fewer_stages_decode_a_coarser_signal():
    tokenizer = started("residual")
    x = signal((1, 3, 16, 16))
    codes = tokenizer.encode(x)
    with torch.no_grad():
        z = tokenizer.features(x)
    errors = []
    for stages in (1, 2, 3):
        cut = codes.clone()
        cut[:, stages:] = -1
        prefix = tokenizer.decode(codes, stages=stages)
        assert torch.equal(prefix, tokenizer.decode(cut))
        values = tokenizer.quantizer.decode(codes.movedim(1, -1), stages)
        errors.append(float((values - z).square().mean()))
    assert errors[0] > errors[1] > errors[2]


def test_codes_of_several_positions_are_told_and_kept_together():
    body = make_backbone("seanet", seed=0, dim=8, width=8, strides=[4, 5], dilations=[1])
    of = {"kind": "vq", "codebook": "kmeans(dim=8, entries=16)"}
    tokenizer = Tokenizer(body, make("multiscale", of=of, strides=[4, 1]), 8000).eval()
    x = signal((2, 1, 1990), 4)
    with torch.no_grad():
        tokenizer.quantizer.start(tokenizer.features(signal((8, 1, 1600))).reshape(-1, 8))
    codes = tokenizer.encode(x)
    assert tokenizer.strides == (4, 1) and tokenizer.code_spec.strides == (4, 1)
    coarse = codes[:, 0].reshape(2, 25, 4)
    assert bool((coarse == coarse[..., :1]).all())
    assert torch.equal(tokenizer.encode(x[1:]), codes[1:])
    assert tokenizer.decode(codes, size=(1990,)).shape == x.shape


def test_bypass_leaves_the_quantizer_out():
    tokenizer = started()
    x = signal((1, 3, 8, 8))
    tokenizer.set_mode("bypass")
    plain = tokenizer(x)
    assert plain.quantized is None and torch.equal(plain.values, tokenizer.backbone(x))
    tokenizer.set_mode("quantized")
    assert not torch.equal(tokenizer(x).values, plain.values)


def test_masked_positions_have_no_code():
    tokenizer = started()
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    mask[0, 1, 0] = False
    codes = tokenizer(signal((1, 3, 8, 8)), mask).quantized.codes
    assert torch.equal(codes < 0, ~mask)


def test_gradients_reach_encoder_and_decoder():
    tokenizer = started().train()
    tokenizer(signal((1, 3, 8, 8))).values.square().sum().backward()
    for half in (tokenizer.backbone.encoder, tokenizer.backbone.decoder):
        assert any(float(p.grad.abs().sum()) > 0 for p in half.parameters())


def test_without_quantizer_there_are_no_codes(tmp_path):
    tokenizer = Tokenizer(make_backbone("conv2d", dim=8, width=8), None)
    assert tokenizer(signal((1, 3, 8, 8))).quantized is None
    for call in (lambda: tokenizer.encode(signal((1, 3, 8, 8))), lambda: tokenizer.code_spec):
        with pytest.raises(ValueError, match="is an autoencoder and has no codes"):
            call()
    with pytest.raises(ValueError, match="mode: expected"):
        tokenizer.set_mode("quantized")
    tokenizer.save(tmp_path / "ae")
    assert vq.Tokenizer.load(tmp_path / "ae").model_hash == tokenizer.model_hash


def test_dimensions_that_do_not_meet():
    with pytest.raises(ValueError, match=r"set backbone\.dim to 8"):
        Tokenizer(make_backbone("conv2d", dim=16, width=8), make("vq", **QUANTIZERS["vq"]))


def test_wrong_codes():
    tokenizer = started()
    with pytest.raises(ValueError, match=r"expected codes \(B, 1, \*2 axes\)"):
        tokenizer.decode(torch.zeros(1, 2, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="32"):
        tokenizer.decode(torch.full((1, 1, 2, 2), 32))


def test_not_finite_signals_are_refused():
    x = signal((1, 3, 8, 8))
    x[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError):
        started().encode(x)


def test_a_damaged_folder(tmp_path):
    with pytest.raises(VqError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)
    tokenizer = started()
    tokenizer.save(tmp_path / "m")
    whole = (tmp_path / "m" / "model.safetensors").read_bytes()
    (tmp_path / "m" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VqError, match="holds no tokenizer"):
        Tokenizer.load(tmp_path / "m")
    tokenizer.save(tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config["model_hash"] = "0" * 64
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(VqError, match="not those its model_hash names"):
        Tokenizer.load(tmp_path / "m")
    config["backbone"]["width"] = 16
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(VqError, match="do not fit the configuration"):
        Tokenizer.load(tmp_path / "m")
    config["version"] = 99
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(VqError, match="expected a vq-tokenizer of version 1, got"):
        Tokenizer.load(tmp_path / "m")


def test_save_replaces_a_folder_whole(tmp_path):
    first, second = started(), started("fsq")
    first.save(tmp_path / "m")
    (tmp_path / "m" / "stray").write_text("x")
    second.save(tmp_path / "m")
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors"}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert vq.Tokenizer.load(tmp_path / "m").model_hash == second.model_hash
