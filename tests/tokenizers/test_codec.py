import json
import math

import pytest
import torch

from vq.errors import VqError
from vq.tokenizers.baselines import Coded
from vq.tokenizers.codec import TokenizerCodec, find_tokenizer, open_tokenizer
from vq.tokenizers.tokenizer import Tokenizer


def test_a_model_is_found_in_its_folder_and_in_its_run(image_model, tmp_path):
    assert find_tokenizer(image_model) == image_model
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(image_model)
    assert find_tokenizer(run) == run / "model"
    assert open_tokenizer(run).model_hash == open_tokenizer(image_model).model_hash


def test_what_is_no_tokenizer_is_said_so(tmp_path):
    assert find_tokenizer("some/hub-id") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert find_tokenizer(tmp_path) is None
    with pytest.raises(VqError, match="no tokenizer here; expected the folder of a `vq train` run"):
        open_tokenizer(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(VqError, match="this run has no model yet"):
        open_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_one_signal_as_the_tokenizer_codes_it(kind, build_tokenizer):
    tokenizer = build_tokenizer(kind)
    codec = TokenizerCodec(tokenizer, "mine")
    size = (21, 30) if kind == "image" else (333,)
    x = torch.rand(codec.spec.channels, *size, generator=torch.Generator().manual_seed(1)) - 0.5
    coded = codec.encode(x)
    assert coded.gain == 1.0 and coded.codes.shape == (3, *codec.spec.positions(size))
    torch.testing.assert_close(coded.codes, tokenizer.encode(x[None])[0], rtol=0, atol=0)
    for stages in (None, 1, 2, 3):
        expected = tokenizer.decode(coded.codes[None], stages, size)[0]
        out = codec.restore(coded, size, stages)
        assert out.shape == x.shape
        torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_stages_cost_what_their_codes_hold(build_tokenizer):
    codec = TokenizerCodec(build_tokenizer("image"))
    assert codec.prefix_bits == (3.0, 6.0, 9.0)
    assert codec.prefix_bits[-1] == codec.spec.bits_per_position


def test_loudness_is_taken_away_and_given_back(build_tokenizer, monkeypatch):
    from dataclasses import replace

    spec = build_tokenizer("audio").code_spec
    louder = property(lambda _self: replace(spec, normalisation="loudness"))
    monkeypatch.setattr(Tokenizer, "code_spec", louder)
    codec = TokenizerCodec(build_tokenizer("audio"))
    t = torch.arange(900) / 8000
    x = 0.5 * torch.sin(2 * math.pi * 300 * t)[None]
    loud, quiet = codec.encode(x), codec.encode(x / 8)
    torch.testing.assert_close(quiet.codes, loud.codes, rtol=0, atol=0)
    assert loud.gain == pytest.approx(8 * quiet.gain) and loud.gain == pytest.approx(
        0.5 / math.sqrt(2) / 0.1, rel=1e-3
    )
    out = codec.restore(loud, (900,))
    torch.testing.assert_close(codec.restore(quiet, (900,)), out / 8, rtol=1e-5, atol=1e-7)
    plain = codec.restore(Coded(codes=loud.codes), (900,))
    torch.testing.assert_close(out, plain * loud.gain, rtol=0, atol=0)


def test_an_autoencoder_has_no_codes(build_tokenizer):
    tokenizer = Tokenizer(build_tokenizer("image").backbone, None)
    with pytest.raises(ValueError, match="is an autoencoder and has no codes"):
        TokenizerCodec(tokenizer)
