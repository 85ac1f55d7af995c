from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers import measures
from vq.tokenizers.measures import mel_distance, psnr, si_sdr, ssim, stft_distance
from vq.tokenizers.spectra import mel_filters

RATE = 16000


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mel(output: torch.Tensor, target: torch.Tensor, **more) -> torch.Tensor:
    return mel_distance(output, target, RATE, **more)


IDEAL = [(psnr, 100.0), (ssim, 1.0), (si_sdr, 100.0), (stft_distance, 0.0), (mel, 0.0)]
IDS = ["psnr", "ssim", "si_sdr", "stft", "mel"]
MEASURES = pytest.mark.parametrize(("measure", "ideal"), IDEAL, ids=IDS)


def sample(measure, seed: int = 0) -> torch.Tensor:
    return (
        noise(3, 2, 16, 20, seed=seed) if measure in (psnr, ssim) else noise(3, 1, 3000, seed=seed)
    )


@MEASURES
def test_equal_signals_have_the_ideal_value(measure, ideal):
    x = sample(measure)
    found = measure(x, x)
    assert found.shape == (3,) and found.dtype == torch.float64
    assert_close(found, torch.full((3,), ideal, dtype=torch.float64), rtol=0, atol=1e-12)
    assert_close(measure(x.bfloat16(), x.bfloat16()), found, rtol=0, atol=1e-12)


@MEASURES
def test_silence_is_finite(measure, ideal):
    x = sample(measure)
    zero = torch.zeros_like(x)
    assert_close(measure(zero, zero), torch.full((3,), ideal, dtype=torch.float64))
    for found in (measure(x, zero), measure(zero, x)):
        assert torch.isfinite(found).all() and (found != ideal).all()
        if measure is si_sdr:
            assert (found == -100).all()


@MEASURES
def test_more_noise_is_worse(measure, ideal):
    x, other = sample(measure), sample(measure, seed=1)
    distance = [(measure(x + s * other, x) - ideal).abs() for s in (0.01, 0.1, 1.0)]
    assert (distance[0] < distance[1]).all() and (distance[1] < distance[2]).all()


@MEASURES
def test_items_do_not_see_each_other_nor_what_is_beyond_their_size(measure, ideal):
    x, y = sample(measure), sample(measure, seed=1)
    full = list(x.shape[2:])
    rows = [full, [n - 3 for n in full], [n - 1 for n in full]]
    sizes = torch.tensor(rows) if len(full) > 1 else torch.tensor(rows)[:, 0]
    keyword = "sizes" if measure in (psnr, ssim) else "lengths"
    found = measure(y, x, **{keyword: sizes})
    for i, row in enumerate(rows):
        cut = (slice(i, i + 1), slice(None), *(slice(n) for n in row))
        assert_close(found[i : i + 1], measure(y[cut], x[cut]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_and_ssim_equal_scikit_image(data_range):
    metrics = pytest.importorskip("skimage.metrics")
    x = data_range * torch.rand(2, 3, 24, 31, generator=torch.Generator().manual_seed(0)).double()
    y = (x + 0.1 * data_range * noise(2, 3, 24, 31)).clamp(0, data_range)
    for i in range(2):
        a, b = (v[i].movedim(0, -1).numpy() for v in (x, y))
        expected = metrics.structural_similarity(
            a,
            b,
            data_range=data_range,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(ssim(y, x, data_range)[i]) == pytest.approx(expected, abs=1e-9)
        expected = metrics.peak_signal_noise_ratio(a, b, data_range=data_range)
        assert float(psnr(y, x, data_range)[i]) == pytest.approx(expected, abs=1e-9)


def test_psnr_by_hand():
    x = torch.zeros(1, 1, 4, 4)
    assert float(psnr(x + 0.2, x)[0]) == pytest.approx(20.0, abs=1e-5)  # 4 / 0.04
    assert float(psnr(x + 0.2, x, data_range=0.02)[0]) == pytest.approx(-20.0, abs=1e-5)
    assert float(psnr(x + 1e-9, x)[0]) == 100


def test_si_sdr_by_hand():
    """An error at right angles to the target with a hundredth of its energy: 20 dB, whatever the scale."""
    t = torch.arange(1000.0) / 1000
    s = torch.sin(2 * math.pi * 5 * t)[None, None]
    e = torch.sin(2 * math.pi * 9 * t)[None, None]
    for scale, shift in ((1.0, 0.7), (-0.01, 0.1), (300.0, -1.0), (1e-30, 0.0)):
        y = scale * (s + 0.1 * e) + shift
        assert float(si_sdr(y, s)[0]) == pytest.approx(20.0, abs=1e-3)
    assert float(si_sdr(e, s)[0]) == pytest.approx(-100.0, abs=1)
    assert float(si_sdr(-3 * s.double(), s.double())[0]) == 100


def test_si_sdr_equals_a_projection():
    x, y = (noise(1, 2, 500, seed=i).double() for i in (0, 1))
    s, z = (v.numpy().ravel() - v.numpy().mean() for v in (x, x + y))
    q = s / np.linalg.norm(s)
    along = (q @ z) ** 2
    expected = 10 * math.log10(along / (z @ z - along))
    assert float(si_sdr(x + y, x)[0]) == pytest.approx(expected, abs=1e-9)


def test_a_louder_copy_is_so_many_decades_away():
    x = noise(2, 1, 4000)
    expected = torch.full((2,), math.log10(2), dtype=torch.float64)
    assert_close(stft_distance(2 * x, x), expected, rtol=1e-4, atol=0)
    assert_close(mel(2 * x, x), expected, rtol=1e-4, atol=0)


def test_spectral_distances_equal_a_second_formula():
    """From torch.stft and an explicit sum over filters."""
    x, y = (noise(1, 1, 2000, seed=i).double() for i in (0, 1))
    size, floor = 512, 1e-5
    window = torch.hann_window(size, dtype=torch.float64)
    spectra = []
    for v in (y, x):
        found = torch.stft(v[0], size, size // 4, window=window, return_complex=True).abs()
        spectra.append((found.square() / window.square().sum() + floor**2).sqrt()[0])
    expected = (spectra[0].log10() - spectra[1].log10()).abs().mean()
    assert_close(stft_distance(y, x, sizes=(size,))[0], expected)
    filters = mel_filters(RATE, size, 80)
    rows = [torch.stack([(f[:, None] * s).sum(0) for f in filters]) for s in spectra]
    expected = (rows[0].log10() - rows[1].log10()).abs().mean()
    assert_close(mel(y, x, sizes=(size,))[0], expected)


def test_the_floor_bounds_silence():
    """Noise of power 1 against nothing: at most log10(1 / floor) and some, in decades."""
    x = noise(1, 1, 8000)
    assert float(mel(x, 0 * x, floor=1e-3)[0]) == pytest.approx(3.0, abs=0.15)


def test_short_signals_have_measures_too():
    x, y = noise(1, 1, 3), noise(1, 1, 3, seed=1)
    for measure in (si_sdr, stft_distance, mel):
        assert torch.isfinite(measure(y, x)).all()


def test_wrong_arguments():
    x = noise(2, 1, 30)
    with pytest.raises(ValueError, match="of one shape"):
        psnr(x, x[..., 1:])
    with pytest.raises(ValueError, match="of one shape"):
        si_sdr(x[0], x[0])
    with pytest.raises(ValueError, match="size of 1 axes for each of 2"):
        si_sdr(x, x, lengths=torch.tensor([30]))
    with pytest.raises(ValueError, match=r"1 to \(30,\)"):
        si_sdr(x, x, lengths=torch.tensor([30, 31]))
    with pytest.raises(ValueError, match="above 0"):
        psnr(x, x, data_range=0)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(noise(1, 1, 9, 9), noise(1, 1, 9, 9))
    with pytest.raises(ValueError, match="too short for a mel"):
        mel(x, x, sizes=(4,))


def test_measures_need_no_gradient():
    x = noise(1, 1, 400).requires_grad_()
    assert not si_sdr(x, x).requires_grad
    assert measures.LIMIT == 100
