"""Framing, spectra and mel filters against second formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers import spectra


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [16, 64])
def test_magnitudes_equal_torch_stft(size):
    x = noise(3, 200)
    window = torch.hann_window(size, dtype=x.dtype)
    expected = torch.stft(
        x, size, size // 4, window=window, center=True, pad_mode="reflect", return_complex=True
    ).abs()
    assert_close(spectra.magnitudes(x, size), expected / window.square().sum().sqrt())


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_reflection_of_any_length_is_numpys(length):
    x = noise(length)
    expected = np.pad(x.numpy(), (20, 20), mode="reflect" if length > 1 else "edge")
    index = torch.arange(-20, length + 20)
    assert np.array_equal(x[spectra.reflected(index, length)].numpy(), expected)
    assert spectra.frames(x, 16, 4).shape == (length // 4 + 1, 16)


def test_white_noise_has_power_one_at_every_size():
    x = noise(200_000)
    for size in (32, 256):
        power = spectra.magnitudes(x, size).square().mean(-1)[1:-1]
        assert_close(power.mean(), torch.tensor(1.0, dtype=x.dtype), rtol=0.03, atol=0)


def test_floor_keeps_gradients_finite():
    x = torch.zeros(64, requires_grad=True)
    spectra.magnitudes(x, 16, floor=1e-3).log().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_mel_scale_inverts_and_knows_its_anchors():
    hz = torch.tensor([0.0, 100, 999, 1000, 1001, 6400, 20000], dtype=torch.float64)
    assert_close(spectra.mel_to_hz(spectra.hz_to_mel(hz)), hz)
    anchors = spectra.hz_to_mel(torch.tensor([1000.0, 6400.0], dtype=torch.float64))
    assert_close(anchors, torch.tensor([15.0, 42.0], dtype=torch.float64))


def test_filters_in_the_linear_range_are_triangles_by_hand():
    """At 2 kHz the scale is linear: 4 mels have corners 0, 200, ... 1000 Hz; 20-sample bins are 100 Hz."""
    filters = spectra.mel_filters(2000, 20, 4)
    expected = torch.zeros(4, 11, dtype=torch.float64)
    for row in range(4):
        expected[row, 2 * row + 1 : 2 * row + 4] = torch.tensor([0.25, 0.5, 0.25])
    assert_close(filters, expected)


@pytest.mark.parametrize(("rate", "size", "mels"), [(16000, 512, 80), (24000, 1024, 100)])
def test_filters_equal_another_implementation(rate, size, mels):
    audio = pytest.importorskip("transformers.audio_utils")
    other = audio.mel_filter_bank(size // 2 + 1, mels, 0, rate / 2, rate, None, "slaney").T
    other = torch.from_numpy(np.ascontiguousarray(other)).double()
    assert_close(spectra.mel_filters(rate, size, mels), other / other.sum(1, keepdim=True))


def test_mel_spectrum_of_a_tone_peaks_at_the_tone():
    rate, hz = 16000, 2000.0
    x = torch.sin(2 * math.pi * hz * torch.arange(8000, dtype=torch.float64) / rate)
    mel = spectra.mel_spectrum(x, rate, 1024, 80).mean(-1)
    top = spectra.hz_to_mel(torch.tensor(rate / 2, dtype=torch.float64))
    middles = spectra.mel_to_hz(torch.linspace(0, 1, 82, dtype=torch.float64)[1:-1] * top)
    assert abs(float(middles[mel.argmax()]) - hz) < 100


def test_too_many_mels_are_refused():
    with pytest.raises(ValueError, match="filters .* hold no frequency"):
        spectra.mel_filters(16000, 64, 60)


def test_filters_made_without_gradient_serve_with_one():
    spectra.mel_filters.cache_clear()
    x = noise(200).requires_grad_()
    with torch.inference_mode():
        spectra.mel_spectrum(x, 16000, 64, 8)
    spectra.mel_spectrum(x, 16000, 64, 8).sum().backward()
    assert x.grad is not None


def brute_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    """Window by window, of one channel."""
    at = np.arange(11) - 5
    taps = np.exp(-(at**2) / (2 * 1.5**2))
    weight = np.outer(taps, taps) / taps.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (weight * a).sum(), (weight * b).sum()
            va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
            cov = (weight * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + c1) * (2 * cov + c2)
            values.append(top / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return float(np.mean(values))


def test_ssim_equals_brute_force():
    x = noise(2, 1, 14, 16)
    y = x + 0.3 * noise(2, 1, 14, 16, seed=1)
    found = spectra.ssim_map(x, y, 2.0)
    assert found.shape == (2, 1, 4, 6)
    for i in range(2):
        expected = brute_ssim(x[i, 0].numpy(), y[i, 0].numpy(), 2.0)
        assert float(found[i].mean()) == pytest.approx(expected, rel=1e-9)


def test_ssim_wants_images():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        spectra.ssim_map(noise(1, 1, 10, 20), noise(1, 1, 10, 20), 1.0)
