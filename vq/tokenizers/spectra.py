"""Short-time spectra and mel filters, shared by losses and measures."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

SLANEY_STEP = 200 / 3  # Hz per mel below 1 kHz
SLANEY_LOG = math.log(6.4) / 27  # per mel above


def frames(x: Tensor, size: int, hop: int) -> Tensor:
    """Frames ``(*batch, n, size)`` of signals ``(*batch, T)``, the k-th centred on sample ``k hop``.

    Beyond both ends the signal is continued by reflection, again and again where it is short, so that every T from 1
    works; n = floor(T / hop) + 1.
    """
    length = x.shape[-1]
    count = length // hop + 1
    index = torch.arange((count - 1) * hop + size, device=x.device) - size // 2
    return x[..., reflected(index, length)].unfold(-1, size, hop)


def reflected(index: Tensor, length: int) -> Tensor:
    """Indices of any value folded into 0..length - 1 as by mirrors on the first and last sample."""
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def magnitudes(x: Tensor, size: int, hop: int | None = None, floor: float = 0.0) -> Tensor:
    """Magnitude spectra ``(*batch, size // 2 + 1, n)`` of signals ``(*batch, T)``.

    Hann window (periodic) divided by the root of its energy, so that white noise of variance 1 has an expected power
    of 1 in each bin whatever the size.

    Args:
        x: signals.
        size: samples of a frame.
        hop: samples between frames; a quarter of the size by default.
        floor: added under the root, ``sqrt(re^2 + im^2 + floor^2)``: keeps the gradient finite at zero.
    """
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    window = window / window.square().sum().sqrt()
    spectrum = torch.fft.rfft(frames(x, size, hop or max(size // 4, 1)) * window)
    power = spectrum.real.square() + spectrum.imag.square() + floor**2
    return power.sqrt().transpose(-1, -2)


def hz_to_mel(hz: Tensor) -> Tensor:
    """Slaney's mel scale: linear below 1000 Hz, logarithmic above with 27 mels to each factor of 6.4."""
    above = 1000 / SLANEY_STEP + (hz.clamp(min=1000) / 1000).log() / SLANEY_LOG
    return torch.where(hz < 1000, hz / SLANEY_STEP, above)


def mel_to_hz(mel: Tensor) -> Tensor:
    """Inverse of ``hz_to_mel``."""
    knee = 1000 / SLANEY_STEP
    above = 1000 * ((mel - knee).clamp(min=0) * SLANEY_LOG).exp()
    return torch.where(mel < knee, mel * SLANEY_STEP, above)


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for later calls, which may want gradients
def mel_filters(sample_rate: int, size: int, mels: int) -> Tensor:
    """Triangular filters ``(mels, size // 2 + 1)`` float64 from 0 Hz to half the sample rate.

    Corners are evenly spaced in mels; the filter of corners (a, b, c) in Hz is
    ``max(0, min((f - a) / (b - a), (c - f) / (c - b)))`` divided by its sum, so that a flat spectrum stays flat.

    Args:
        sample_rate: Hz.
        size: of the Fourier transform, in samples.
        mels: number of filters.

    Raises:
        ValueError: for a filter so narrow that no frequency of the transform falls into it.

    Reference:
        M. Slaney, "Auditory toolbox" (1998), with rows of sum 1.
    """
    nyquist = torch.tensor(sample_rate / 2, dtype=torch.float64)
    corners = mel_to_hz(torch.linspace(0, 1, mels + 2, dtype=torch.float64) * hz_to_mel(nyquist))
    hz = torch.arange(size // 2 + 1, dtype=torch.float64) * sample_rate / size
    low, mid, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    filters = torch.minimum((hz - low) / (mid - low), (high - hz) / (high - mid)).clamp(min=0)
    total = filters.sum(1, keepdim=True)
    empty = (total < 1e-6).flatten().nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"mel_filters: {len(empty)} of {mels} filters (first: {empty[0]}) hold no frequency of a transform of "
            f"{size} samples at {sample_rate} Hz; use fewer mels or a longer transform"
        )
    return filters / total


def mel_spectrum(
    x: Tensor, sample_rate: int, size: int, mels: int, hop: int | None = None, floor: float = 0.0
) -> Tensor:
    """Mel magnitudes ``(*batch, mels, n)`` of signals ``(*batch, T)``; see ``magnitudes`` and ``mel_filters``."""
    filters = mel_filters(sample_rate, size, mels).to(x)
    return filters @ magnitudes(x, size, hop, floor)


def gaussian_window(size: int, sigma: float) -> Tensor:
    """``size`` taps of a Gaussian, float64, of sum 1."""
    at = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = (-0.5 * (at / sigma).square()).exp()
    return taps / taps.sum()


def ssim_map(x: Tensor, y: Tensor, data_range: float, size: int = 11, sigma: float = 1.5) -> Tensor:
    """Local structural similarity ``(B, C, H - size + 1, W - size + 1)`` of images ``(B, C, H, W)``.

    ``(2 mx my + c1)(2 sxy + c2) / ((mx^2 + my^2 + c1)(sx + sy + c2))`` with means, variances and covariance under a
    Gaussian window, c1 = (0.01 range)^2, c2 = (0.03 range)^2; windows stay inside of the image.

    Raises:
        ValueError: for images smaller than the window.

    Reference:
        Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment: from error visibility to structural
        similarity" (2004), equation (13).
    """
    if x.ndim != 4 or min(x.shape[-2:]) < size:
        raise ValueError(
            f"ssim: expected images (B, C, H, W) of at least {size} x {size} pixels, got {tuple(x.shape)}"
        )
    taps = gaussian_window(size, sigma).to(x)
    maps = torch.cat([x, y, x * x, y * y, x * y])
    flat = maps.flatten(0, 1).unsqueeze(1)
    flat = functional.conv2d(flat, taps.reshape(1, 1, -1, 1))
    flat = functional.conv2d(flat, taps.reshape(1, 1, 1, -1))
    mx, my, xx, yy, xy = flat.reshape(5, *x.shape[:2], *flat.shape[-2:])
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    covariance = xy - mx * my
    variances = (xx - mx * mx) + (yy - my * my)
    return (
        (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (variances + c2))
    )
