import io
import math
from pathlib import Path

import pytest
import torch

from vq.tokenizers.baselines import Blocks, Jpeg
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.codec import TokenizerCodec
from vq.tokenizers.convert import encode_folder
from vq.tokenizers.evaluate import _Bytes, evaluate, measure, prefix_bits
from vq.tokenizers.signals import Signals


@pytest.fixture
def codec(build_tokenizer):
    return TokenizerCodec(build_tokenizer("image"), "tiny")


@pytest.fixture
def signals(pictures, codec):
    return list(Signals(pictures, codec.spec))


def test_quality_is_that_of_each_file(codec, signals):
    found = evaluate(codec, signals)
    errors = []
    for (_, x), row in zip(signals, found.files, strict=True):
        out = codec.tokenizer.decode(codec.tokenizer.encode(x[None]), size=x.shape[1:])[0]
        error = float((out.clamp(-1, 1).double() - x.double()).square().mean())
        errors.append(10 * math.log10(4 / error))
        assert row["psnr"] == pytest.approx(errors[-1], abs=1e-6)
        assert row["size"] == list(x.shape[1:])
    assert found.quality["psnr"].mean == pytest.approx(sum(errors) / 4, abs=1e-6)
    assert found.quality["psnr"].low < found.quality["psnr"].mean < found.quality["psnr"].high
    assert [row["key"] for row in found.files] == [key for key, _ in signals]


def test_bits_three_ways(codec, signals, pictures, tmp_path):
    found = evaluate(codec, signals)
    pixels = sum(math.prod(x.shape[1:]) for _, x in signals)
    positions = sum(math.prod(codec.spec.positions(x.shape[1:])) for _, x in signals)
    assert found.rates.nominal == pytest.approx(9 * positions)
    assert sum(row["bits"] for row in found.files) == pytest.approx(9 * positions)
    encode_folder(codec, pictures, tmp_path / "t", storage="packed")
    real = 8 * sum(p.stat().st_size for p in (tmp_path / "t").iterdir())
    assert found.rates.file == real > found.rates.nominal
    codes = torch.cat([codec.encode(x).codes.flatten(1) for _, x in signals], dim=1)
    entropy = 0.0
    for row in codes:
        share = torch.bincount(row).double() / row.numel()
        entropy -= row.numel() * float((share[share > 0] * share[share > 0].log2()).sum())
    assert found.rates.entropy == pytest.approx(entropy) and entropy < found.rates.nominal
    assert found.rates.per_unit()["file"] == pytest.approx(real / pixels)


def test_the_curve_is_every_prefix(codec, signals):
    found = evaluate(codec, signals)
    assert [point["stages"] for point in found.curve] == [1, 2, 3]
    assert [point["rate"] for point in found.curve] == pytest.approx([3 / 16, 6 / 16, 9 / 16])
    for n, point in enumerate(found.curve, start=1):
        rows = [
            measure("image", codec.restore(codec.encode(x), x.shape[1:], n), x, None)
            for _, x in signals
        ]
        assert point["psnr"] == pytest.approx(sum(row["psnr"] for row in rows) / 4)
    assert found.curve[-1]["psnr"] == pytest.approx(found.quality["psnr"].mean)


def test_use_of_the_codes(codec, signals):
    found = evaluate(codec, signals)
    codes = torch.cat([codec.encode(x).codes.flatten(1) for _, x in signals], dim=1)
    assert [use.used for use in found.codes] == [len(row.unique()) for row in codes]
    assert all(use.tokens == codes.shape[1] and use.entries == 8 for use in found.codes)
    data = found.to_dict()["codes"][0]
    assert data["tokens_per_entry"] == codes.shape[1] / 8
    assert data["ceiling"] == pytest.approx(1 - math.exp(-codes.shape[1] / 8))


def test_jpeg_is_scored_by_its_bytes(signals):
    found = evaluate(Jpeg(80), signals)
    total = sum(8 * len(Jpeg(80).encode(x).data) for _, x in signals)
    assert found.rates.nominal == found.rates.file == total and found.rates.entropy is None
    assert not found.codes and not found.curve
    assert evaluate(Jpeg(20), signals).quality["psnr"].mean < found.quality["psnr"].mean


def test_sound_by_kbits_a_second(build_tokenizer, recordings):
    codec = TokenizerCodec(build_tokenizer("audio"))
    signals = list(Signals(recordings, codec.spec))
    found = evaluate(codec, signals, sample_rate=8000)
    samples = sum(x.shape[1] for _, x in signals)
    assert found.rates.units == pytest.approx(samples / 8)
    expected = sum(9 * -(-x.shape[1] // 10) for _, x in signals) / (samples / 8)
    assert found.rates.per_unit()["nominal"] == pytest.approx(expected)
    assert found.curve[0]["rate"] == pytest.approx(3 * 800 / 1000)
    assert set(found.quality) == {"si_sdr", "stft", "mel"}


def test_blocks_and_tokenizers_share_the_evaluator(recordings, build_tokenizer):
    spec = TokenizerCodec(build_tokenizer("audio")).spec
    signals = list(Signals(recordings, spec))
    book = "residual(stages=2, of=kmeans(dim=8, entries=16), beam=1)"
    blocks = Blocks("audio", 1, (8,), book, 8000).fit([x for _, x in signals])
    found = evaluate(blocks, signals, sample_rate=8000)
    assert [point["rate"] for point in found.curve] == [4, 8]
    assert found.curve[1]["si_sdr"] > found.curve[0]["si_sdr"]


def test_equal_signals_and_small_pictures():
    x = torch.rand(3, 8, 40) * 2 - 1
    assert measure("image", x, x, None) == {"psnr": 100.0}  # too small for SSIM
    tall = torch.rand(3, 11, 40) * 2 - 1
    assert measure("image", tall, tall, None)["ssim"] == pytest.approx(1.0)
    clipped = measure("image", torch.full_like(x, 9.0), torch.ones_like(x), None)
    assert clipped["psnr"] == 100.0


def test_what_could_not_be_read_is_told(codec, pictures):
    (pictures / "z.png").write_bytes(b"")
    signals = Signals(pictures, codec.spec)
    done = []
    found = evaluate(codec, signals, skipped=signals.skipped, done=done.append)
    assert [row["file"] for row in found.to_dict()["skipped"]] == ["z.png"]
    assert done == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least one signal that can be read$"):
        evaluate(codec, [])
    lost = [{"file": "z.png", "reason": "is empty"}]
    with pytest.raises(ValueError, match="first of 1: z.png: is empty"):
        evaluate(codec, [], skipped=lost)


def test_silence_has_no_signal_to_distortion_ratio():
    """A constant is silence too; it would count as -100 dB."""
    noise = 0.1 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    assert "si_sdr" in measure("audio", noise, noise, 16000)
    for silence in (torch.zeros(1, 4000), torch.full((1, 4000), 0.25)):
        assert set(measure("audio", noise, silence, 16000)) == {"stft", "mel"}


def test_prefixes_are_found_by_trying():
    spec = CodeSpec("audio", (4, 16, 2, 8), (1, 1, 2, 1), (10,), 1, 8000, "none", "hash")
    worth = torch.tensor([1.0, 100.0, 1e4, 1e6])

    def decode(codes, stages):
        """Two stages of two codes that stand apart, as in groups of stages."""
        kept = codes.clone()
        if stages == 1:
            kept[:, 1] = 0
            kept[:, 3] = 0
        return kept * worth

    assert prefix_bits(spec, 2, decode) == (2 + 0.5, 2 + 4 + 0.5 + 3)
    assert prefix_bits(spec, 1, decode) == (9.5,)


def test_the_temporary_folder_is_removed_when_scoring_fails(codec, signals):
    with pytest.raises(RuntimeError, match="mine"), _Bytes(codec.spec) as file:
        folder = Path(file._folder.name)
        file.add("a", codec.encode(signals[0][1]), signals[0][1].shape[1:])
        raise RuntimeError("mine")
    assert not folder.exists()


def test_jpeg_bytes_open_elsewhere(signals):
    image = pytest.importorskip("PIL.Image")
    x = signals[0][1]
    opened = image.open(io.BytesIO(Jpeg(50).encode(x).data))
    assert opened.size == (x.shape[2], x.shape[1])
