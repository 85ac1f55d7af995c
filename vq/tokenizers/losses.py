"""Reconstruction losses: samples, structure, spectra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks.spec import nearest_names
from vq.tokenizers.spectra import magnitudes, mel_filters, mel_spectrum, ssim_map

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class LossParts:
    """Value of a loss made of parts.

    Attributes:
        total: sum of the parts by their weights, a scalar.
        parts: each part before its weight; detached, for logs.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


def l1_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference."""
    _check_pair("l1", output, target)
    return (output - target).abs().mean()


def l2_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference."""
    _check_pair("l2", output, target)
    return (output - target).square().mean()


def rmse_loss(output: Tensor, target: Tensor, floor: float = 1e-3) -> Tensor:
    """Root of each item's mean squared difference, averaged over items: ``sqrt(mse + floor²) - floor``.

    PSNR is a logarithm of each image's error: where the mean square lets the busiest images decide and the logarithm
    the smoothest, the root lies between.
    """
    _check_pair("rmse", output, target)
    errors = (output - target).square().flatten(1).mean(1)
    return ((errors + floor**2).sqrt() - floor).mean()


def ssim_loss(output: Tensor, target: Tensor, data_range: float = 2.0) -> Tensor:
    """``1 - SSIM`` of images ``(B, C, H, W)``, 0 to 2; at least 11 x 11 pixels.

    Args:
        output: of the decoder.
        target: the images.
        data_range: largest value less smallest: 2 for images in -1..1.
    """
    _check_pair("ssim", output, target)
    return 1 - ssim_map(output, target, data_range).mean()


def stft_loss(
    output: Tensor, target: Tensor, sizes: Sequence[int] = (256, 512, 1024), floor: float = 1e-4
) -> Tensor:
    """Linear plus logarithmic distance of magnitude spectra, averaged over resolutions.

    ``mean |A - B| + mean |ln A - ln B|`` for each size, hop a quarter of it, magnitudes as in ``spectra.magnitudes``
    with a floor that bounds the logarithm (1e-4 is -80 dB below noise of variance 1).

    Args:
        output: of the decoder, ``(B, C, T)``.
        target: the signals.
        sizes: of the frames, in samples.
        floor: smallest magnitude.

    Reference:
        R. Yamamoto, E. Song, J.-M. Kim, "Parallel WaveGAN" (2020), section 2.2, L1 for its Frobenius ratio.
    """
    _check_pair("stft", output, target)
    total = output.new_zeros(())
    for size in sizes:
        a = magnitudes(output, size, floor=floor)
        b = magnitudes(target, size, floor=floor)
        total = total + (a - b).abs().mean() + (a.log() - b.log()).abs().mean()
    return total / len(sizes)


def mel_loss(
    output: Tensor,
    target: Tensor,
    sample_rate: int,
    scales: Sequence[tuple[int, int]],
    floor: float = 1e-4,
) -> Tensor:
    """Mean absolute difference of log10 mel magnitudes, averaged over scales.

    Args:
        output: of the decoder, ``(B, C, T)``.
        target: the signals.
        sample_rate: Hz.
        scales: samples of a frame and number of mels, one pair each; see ``mel_scales``.
        floor: smallest magnitude.

    Reference:
        R. Kumar et al., "High-fidelity audio compression with improved RVQGAN" (2023), section 3.4.
    """
    _check_pair("mel", output, target)
    total = output.new_zeros(())
    for size, mels in scales:
        a = mel_spectrum(output, sample_rate, size, mels, floor=floor)
        b = mel_spectrum(target, sample_rate, size, mels, floor=floor)
        total = total + (a.log10() - b.log10()).abs().mean()
    return total / len(scales)


def mel_scales(
    sample_rate: int, sizes: Sequence[int] = (64, 128, 256, 512, 1024, 2048)
) -> list[tuple[int, int]]:
    """Frame sizes with 5 mels to 32 samples, or as many as have a frequency each at this rate.

    Raises:
        ValueError: for a size that leaves no filter at all.
    """
    return [(size, _most_mels(sample_rate, size)) for size in sizes]


def _most_mels(sample_rate: int, size: int) -> int:
    for mels in range(size * 5 // 32, 0, -1):
        try:
            mel_filters(sample_rate, size, mels)
        except ValueError:
            continue
        return mels
    raise ValueError(f"mel: a frame of {size} samples at {sample_rate} Hz is too short for a mel")


class ReconstructionLoss(nn.Module):
    """A weighted sum of named losses, for instance ``ReconstructionLoss({"l1": 1.0, "ssim": 0.1})``.

    Args:
        weights: "l1", "l2", "rmse", "ssim" (images), "stft" and "mel" (audio) with what each counts; at least one.
        sample_rate: Hz; "mel" needs it.
        options: further arguments of a part by its name, for instance ``{"stft": {"sizes": [512]}}``; for "mel" the
            ``sizes`` of ``mel_scales`` and ``floor``.

    Raises:
        ValueError: for no or an unknown part, a weight below zero or not finite, options of a part that is not there,
            an unknown option, or "mel" without a sample rate.
    """

    KNOWN: Mapping[str, tuple[Loss, tuple[str, ...]]] = {
        "l1": (l1_loss, ()),
        "l2": (l2_loss, ()),
        "rmse": (rmse_loss, ("floor",)),
        "ssim": (ssim_loss, ("data_range",)),
        "stft": (stft_loss, ("sizes", "floor")),
        "mel": (mel_loss, ("sizes", "floor")),
    }

    def __init__(
        self,
        weights: Mapping[str, float],
        sample_rate: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.options = {name: dict(values) for name, values in (options or {}).items()}
        self.weights = dict(weights)
        self.sample_rate = sample_rate
        self._check()
        if "mel" in self.weights:
            if sample_rate is None:
                raise ValueError("reconstruction loss: 'mel' needs sample_rate, in Hz")
            mel = self.options.setdefault("mel", {})
            sizes = {"sizes": mel.pop("sizes")} if "sizes" in mel else {}
            mel.update(sample_rate=sample_rate, scales=mel_scales(sample_rate, **sizes))

    def _check(self) -> None:
        if not self.weights:
            raise ValueError(
                f"reconstruction loss: expected at least one of {', '.join(self.KNOWN)}"
            )
        for name, weight in self.weights.items():
            if name not in self.KNOWN:
                raise ValueError(f"unknown loss {name!r}; {nearest_names(name, self.KNOWN)}")
            if not 0 <= weight < float("inf"):
                raise ValueError(f"loss {name!r}: expected a weight from 0, got {weight}")
        for name, values in self.options.items():
            if name not in self.weights:
                raise ValueError(
                    f"options for {name!r}, which is not among the weights {list(self.weights)}"
                )
            for key in values:
                if key not in self.KNOWN[name][1]:
                    known = nearest_names(key, self.KNOWN[name][1])
                    raise ValueError(f"loss {name!r} has no option {key!r}; {known}")

    def forward(self, output: Tensor, target: Tensor) -> LossParts:
        """The loss of a decoder's output against the signals, both ``(B, C, *size)``; computed in float32.

        Raises:
            ValueError: for shapes that differ or do not fit a part.
        """
        total = torch.zeros((), device=output.device)
        parts: dict[str, Tensor] = {}
        with torch.autocast(output.device.type, enabled=False):
            output, target = output.float(), target.float()
            for name, weight in self.weights.items():
                value = self.KNOWN[name][0](output, target, **self.options.get(name, {}))
                parts[name] = value.detach()
                total = total + weight * value
        return LossParts(total, parts)


def _check_pair(name: str, output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise ValueError(
            f"{name}: expected output and target of one shape, got {tuple(output.shape)} and {tuple(target.shape)}"
        )
