"""Measures of reconstruction, one number for each item: PSNR, SSIM, SI-SDR, spectral and mel distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vq.tokenizers.losses import mel_scales
from vq.tokenizers.spectra import magnitudes, mel_spectrum, ssim_map

LIMIT = 100.0  # dB
"""Where decibels are cut off, so that equal signals have a finite score and means stay finite."""


def psnr(
    output: Tensor, target: Tensor, data_range: float = 2.0, sizes: Tensor | None = None
) -> Tensor:
    """Peak signal-to-noise ratio, ``10 log10(range^2 / MSE)`` in dB, at most 100 (for equal images).

    Args:
        output: ``(B, C, *size)``.
        target: the same shape.
        data_range: largest value less smallest: 2 for images in -1..1, 255 for bytes.
        sizes: ``(B, axes)`` or, with one axis, ``(B,)``: what counts of each item, from its start; None counts all.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: for shapes that differ, sizes out of range, or a range that is not positive.
    """
    _check_range(data_range)

    def one(a: Tensor, b: Tensor) -> Tensor:
        return _decibel(torch.full_like(a.flatten()[0], data_range**2), (a - b).square().mean())

    return _each(one, output, target, sizes)


def ssim(
    output: Tensor, target: Tensor, data_range: float = 2.0, sizes: Tensor | None = None
) -> Tensor:
    """Structural similarity, -1 to 1 (equal), with the 11 x 11 Gaussian window of the paper; see ``spectra.ssim_map``.

    The mean over the windows that lie inside of the image, and over channels; the same number as scikit-image gives
    with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False``.

    Args:
        output: ``(B, C, H, W)``, at least 11 x 11 each.
        target: the same shape.
        data_range: largest value less smallest.
        sizes: ``(B, 2)`` height and width that count; None counts all.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: as ``psnr``, and for images smaller than the window.
    """
    _check_range(data_range)

    def one(a: Tensor, b: Tensor) -> Tensor:
        return ssim_map(a[None], b[None], data_range).mean()

    return _each(one, output, target, sizes)


def si_sdr(output: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, -100 to 100 (equal up to scale).

    ``10 log10(|a s|^2 / |y - a s|^2)`` with ``a = <y, s> / <s, s>``, both without their means, channels as one vector.
    If target and output are both silent the score is 100, if one of them is, -100.

    Args:
        output: y, ``(B, C, T)``.
        target: s, the same shape.
        lengths: ``(B,)`` samples that count; None counts all.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: for shapes that differ or lengths out of range.

    Reference:
        J. Le Roux, S. Wisdom, H. Erdogan, J. R. Hershey, "SDR - half-baked or well done?" (2019), equation (5).
    """

    def one(y: Tensor, s: Tensor) -> Tensor:
        """Of one item: the limit where both are silent, its negative where one is."""
        y, s = (_centred(v) for v in (y, s))
        energy = s.square().sum()
        if not (s.any() and y.any()):
            return energy.new_tensor(-LIMIT if s.any() or y.any() else LIMIT)
        fitted = (y * s).sum() / energy * s
        return _decibel(fitted.square().sum(), (y - fitted).square().sum())

    return _each(one, output, target, lengths)


def stft_distance(
    output: Tensor,
    target: Tensor,
    sizes: Sequence[int] = (512, 1024, 2048),
    floor: float = 1e-5,
    lengths: Tensor | None = None,
) -> Tensor:
    """Multi-resolution distance of spectra, ``mean |log10 A - log10 B|`` in decades (1 is 20 dB), from 0 (equal).

    Magnitudes as in ``spectra.magnitudes``, hops of a quarter, the mean over bins, frames, channels and sizes.

    Args:
        output: ``(B, C, T)``.
        target: the same shape.
        sizes: of the frames, in samples.
        floor: magnitudes count as at least about this, so that silence is finite.
        lengths: ``(B,)`` samples that count; None counts all.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: for shapes that differ or lengths out of range.
    """

    def spectrum(x: Tensor, size: int) -> Tensor:
        return magnitudes(x, size, floor=floor)

    return _log_distance(spectrum, sizes, output, target, lengths)


def mel_distance(
    output: Tensor,
    target: Tensor,
    sample_rate: int,
    sizes: Sequence[int] = (128, 512, 2048),
    floor: float = 1e-5,
    lengths: Tensor | None = None,
) -> Tensor:
    """Multi-scale distance of mel spectra, ``mean |log10 A - log10 B|`` in decades (1 is 20 dB), from 0 (equal).

    Five mels to 32 samples of a frame (``losses.mel_scales``), filters of sum 1, the mean over mels, frames, channels
    and sizes.

    Args:
        output: ``(B, C, T)``.
        target: the same shape.
        sample_rate: Hz.
        sizes: of the frames, in samples.
        floor: magnitudes count as at least about this, so that silence is finite.
        lengths: ``(B,)`` samples that count; None counts all.

    Returns:
        ``(B,)`` float64.

    Raises:
        ValueError: for shapes that differ, lengths out of range, or frames too short for a mel.
    """
    mels = dict(mel_scales(sample_rate, sizes))

    def spectrum(x: Tensor, size: int) -> Tensor:
        return mel_spectrum(x, sample_rate, size, mels[size], floor=floor)

    return _log_distance(spectrum, sizes, output, target, lengths)


def _log_distance(
    spectrum: Callable[[Tensor, int], Tensor],
    sizes: Sequence[int],
    output: Tensor,
    target: Tensor,
    lengths: Tensor | None,
) -> Tensor:
    def one(a: Tensor, b: Tensor) -> Tensor:
        parts = [(spectrum(a, n).log10() - spectrum(b, n).log10()).abs().mean() for n in sizes]
        return torch.stack(parts).mean()

    return _each(one, output, target, lengths)


def _each(
    one: Callable[[Tensor, Tensor], Tensor], output: Tensor, target: Tensor, sizes: Tensor | None
) -> Tensor:
    """Apply a measure of ``(C, *size)`` to every item in float64, cut to the size that counts."""
    if output.shape != target.shape or output.ndim < 3 or not output.numel():
        raise ValueError(
            "expected output and target (B, C, *size) of one shape, not empty, got "
            f"{tuple(output.shape)} and {tuple(target.shape)}"
        )
    axes = output.ndim - 2
    if sizes is None:
        limits = [tuple(output.shape[2:])] * len(output)
    else:
        limits = [tuple(row) for row in sizes.reshape(len(sizes), -1).tolist()]
        if len(limits) != len(output) or any(
            len(row) != axes
            or any(not 1 <= n <= m for n, m in zip(row, output.shape[2:], strict=True))
            for row in limits
        ):
            raise ValueError(
                f"expected a size of {axes} axes for each of {len(output)} items, 1 to "
                f"{tuple(output.shape[2:])}, got {limits}"
            )
    found = []
    with torch.no_grad():
        for a, b, row in zip(output, target, limits, strict=True):
            kept = (slice(None), *(slice(n) for n in row))
            found.append(one(a[kept].double(), b[kept].double()))
    return torch.stack(found)


def _decibel(signal: Tensor, noise: Tensor) -> Tensor:
    """``10 log10(signal / noise)`` within -100..100; 100 where both are zero."""
    if noise == 0:
        return noise.new_tensor(LIMIT)
    return (10 * (signal / noise).log10()).clamp(-LIMIT, LIMIT)


def _centred(x: Tensor) -> Tensor:
    """Without the mean over all, scaled to a peak of 1; exactly zero for constants."""
    if not bool((x != x.flatten()[0]).any()):
        return torch.zeros_like(x)
    x = x - x.mean()
    return x / x.abs().max()


def _check_range(data_range: float) -> None:
    if not 0 < data_range < float("inf"):
        raise ValueError(f"expected a data_range above 0, got {data_range}")
