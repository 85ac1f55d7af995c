"""Audio files of every kind: channels, rates, silence, clipping, and files that are broken."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vq.errors import VqError
from vq.tokenizers.atomic import UnreadableFile
from vq.tokenizers.audio import (
    audio_info,
    clipped_share,
    loudness,
    normalise_loudness,
    read_audio,
    resample,
    write_audio,
)

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("scipy")


def tone(hz: float, rate: int, seconds: float = 0.5, level: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    return (level * torch.sin(2 * math.pi * hz * time)).float()[None]


def test_sixteen_bits_survive_write_and_read(tmp_path):
    every = torch.arange(-32768, 32768).float().reshape(2, -1) / 32768
    write_audio(tmp_path / "a.wav", every, 16000)
    x, rate = read_audio(tmp_path / "a.wav")
    assert rate == 16000 and x.dtype == torch.float32 and torch.equal(x, every)
    assert audio_info(tmp_path / "a.wav").samples == 32768
    assert audio_info(tmp_path / "a.wav").seconds == pytest.approx(2.048)


def test_float_files_are_exact_and_may_exceed_full_scale(tmp_path):
    x = 2 * torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    write_audio(tmp_path / "a.wav", x, 8000, subtype="FLOAT")
    assert torch.equal(read_audio(tmp_path / "a.wav")[0], x)
    write_audio(tmp_path / "b.wav", x, 8000)
    clipped = read_audio(tmp_path / "b.wav")[0]
    assert_close(clipped, x.clamp(-1, 1), atol=1 / 32768, rtol=0)
    assert clipped_share(clipped) == pytest.approx(float((x.abs() >= 1).float().mean()), abs=0.01)
    assert clipped_share(0.5 * tone(440, 8000)) == 0


@pytest.mark.parametrize("suffix, tolerance", [("flac", 1e-4), ("ogg", 0.1), ("mp3", 0.1)])
def test_formats(tmp_path, suffix, tolerance):
    x = tone(440, 16000)
    soundfile.write(tmp_path / f"a.{suffix}", x[0].numpy(), 16000)
    y, rate = read_audio(tmp_path / f"a.{suffix}")
    assert rate == 16000 and y.shape == x.shape
    assert float((y - x)[:, 1000:-1000].abs().max()) < tolerance


def test_channels(tmp_path):
    stereo = torch.cat([tone(440, 8000), torch.zeros(1, 4000)])
    write_audio(tmp_path / "stereo.wav", stereo, 8000, "FLOAT")
    write_audio(tmp_path / "mono.wav", stereo[:1], 8000, "FLOAT")
    assert_close(read_audio(tmp_path / "stereo.wav", channels=1)[0], stereo[:1] / 2)
    assert torch.equal(read_audio(tmp_path / "stereo.wav", channels=2)[0], stereo)
    assert torch.equal(read_audio(tmp_path / "mono.wav", channels=2)[0], stereo[:1].repeat(2, 1))
    write_audio(tmp_path / "six.wav", torch.zeros(6, 100), 8000)
    assert read_audio(tmp_path / "six.wav", channels=1)[0].shape == (1, 100)
    with pytest.raises(UnreadableFile, match=r"six.wav: has 6 channels, which cannot become 2"):
        read_audio(tmp_path / "six.wav", channels=2)


@pytest.mark.parametrize("source", [8000, 11025, 16000, 22050, 48000, 15999])
def test_resampling_keeps_a_tone_and_gives_the_promised_length(source):
    x = tone(500, source)[:, :-3]
    y = resample(x, source, 16000)
    assert y.shape[1] == -(-x.shape[1] * 16000 // source) and y.dtype == torch.float32
    want = tone(500, 16000, 1.0)[:, : y.shape[1]]
    assert_close(y[:, 400:-400], want[:, 400:-400], atol=5e-3, rtol=0)


def test_resampling_removes_what_would_alias():
    high = resample(tone(7000, 16000), 16000, 8000)
    assert float(high[:, 100:-100].abs().max()) < 0.01


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_very_short_audio_at_odd_rates(tmp_path, samples):
    write_audio(tmp_path / "a.wav", torch.full((1, samples), 0.5), 44100)
    x, rate = read_audio(tmp_path / "a.wav", sample_rate=16000)
    assert x.shape == (1, -(-samples * 16000 // 44100)) and rate == 16000


def test_silence_stays_silence(tmp_path):
    write_audio(tmp_path / "a.wav", torch.zeros(1, 800), 8000)
    x, _ = read_audio(tmp_path / "a.wav", sample_rate=16000)
    assert x.shape == (1, 1600) and not x.any()
    assert loudness(x) == -math.inf
    y, gain = normalise_loudness(x)
    assert torch.equal(x, y) and gain == 1.0


def test_loudness_of_a_sine_and_its_normalisation():
    x = tone(500, 16000, level=0.1)
    assert loudness(x) == pytest.approx(-20 - 10 * math.log10(2), abs=1e-3)
    y, gain = normalise_loudness(x, -26.0)
    assert loudness(y) == pytest.approx(-26, abs=1e-3)
    assert_close(y * gain, x)


def test_faint_sound_is_raised_by_a_bounded_gain():
    y, gain = normalise_loudness(tone(500, 16000, level=0.002))
    assert gain == pytest.approx(10**-1.5) and loudness(y) < -20
    assert normalise_loudness(tone(500, 16000, level=1e-4))[1] == 1.0


def test_unreadable_files_say_which_and_why(tmp_path):
    (tmp_path / "text.wav").write_text("hello, this is no audio at all")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1), np.float32), 8000)
    soundfile.write(tmp_path / "nan.wav", np.float32([0, math.nan]), 8000, subtype="FLOAT")
    reasons = {
        "text.wav": "is no audio that soundfile",
        "empty.wav": r"is empty \(0 bytes\)",
        "none.wav": "has no samples",
        "nan.wav": "holds NaN",
        "absent.wav": "No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableFile, match=f"{name}: .*{reason}"):
            read_audio(tmp_path / name)
    for name in ("text.wav", "empty.wav", "none.wav", "absent.wav"):
        with pytest.raises(UnreadableFile, match=reasons[name]):
            audio_info(tmp_path / name)


def test_truncated_flac_is_refused(tmp_path):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 20000)
    soundfile.write(tmp_path / "a.flac", noise, 8000)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile, match=r"a.flac"):
        read_audio(tmp_path / "a.flac")


def test_g722_by_av(tmp_path):
    av = pytest.importorskip("av")
    x = tone(440, 16000, 1.0)
    with av.open(str(tmp_path / "a.g722"), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16000, layout="mono")
        samples = (x * 32767).to(torch.int16).numpy()
        for start in range(0, 16000, 320):
            frame = av.AudioFrame.from_ndarray(samples[:, start : start + 320], "s16", "mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    y, rate = read_audio(tmp_path / "a.g722")
    assert rate == 16000 and y.shape[0] == 1 and abs(y.shape[1] - 16000) <= 320
    assert audio_info(tmp_path / "a.g722").samples == y.shape[1]
    best = max(  # the codec delays by a few samples
        float(torch.nn.functional.cosine_similarity(x[0, 1000:9000], y[0, 1000 + d : 9000 + d], 0))
        for d in range(40)
    )
    assert best > 0.99 and loudness(y) == pytest.approx(loudness(x), abs=0.5)


def test_av_files_without_sound_or_without_av(tmp_path, monkeypatch):
    pytest.importorskip("av")
    (tmp_path / "a.m4a").write_text("hello, this is no audio at all")
    with pytest.raises(UnreadableFile, match=r"a.m4a: is no audio that FFmpeg"):
        read_audio(tmp_path / "a.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnreadableFile, match=r"a.m4a: .m4a needs PyAV: pip install av"):
        read_audio(tmp_path / "a.m4a")
    write_audio(tmp_path / "a.wav", torch.zeros(1, 10), 8000)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(VqError, match="audio needs soundfile"):
        read_audio(tmp_path / "a.wav")


def test_wrong_arguments(tmp_path):
    x = torch.zeros(1, 10)
    with pytest.raises(ValueError, match="written as .wav"):
        write_audio(tmp_path / "a.mp3", x, 8000)
    with pytest.raises(ValueError, match="expected shape"):
        write_audio(tmp_path / "a.wav", x[0], 8000)
    with pytest.raises(ValueError, match="subtype"):
        write_audio(tmp_path / "a.wav", x, 8000, "PCM_24")
    with pytest.raises(ValueError, match="finite"):
        write_audio(tmp_path / "a.wav", x / 0, 8000)
    with pytest.raises(ValueError, match="positive Hz"):
        resample(x, 0, 8000)
