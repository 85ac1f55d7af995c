"""Discriminators of images and audio, and what a generator and they minimise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vq.tokenizers.backbones.base import check_whole
from vq.tokenizers.backbones.layers import ChannelNorm
from vq.tokenizers.spectra import frames


@dataclass(frozen=True)
class Verdict:
    """What a discriminator says of a batch.

    Attributes:
        logits: one tensor for each sub-discriminator, a score per patch, above zero for "real".
        features: the hidden activations of each, first layer first.
    """

    logits: tuple[Tensor, ...]
    features: tuple[tuple[Tensor, ...], ...]


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of images ``(B, channels, H, W)``.

    ::

        conv 4x4 stride 2 -> leaky -> [conv 4x4 stride 2 -> norm -> leaky] (layers - 1) -> conv 3x3

    A norm over the channels of each position takes the place of the batch norm, so that a score depends on its patch
    alone and train and eval mode agree.

    Args:
        channels: of the image.
        width: channels after the first layer, doubled by each next one up to eight times.
        layers: strided convolutions; sizes must be at least ``2^layers``.

    Reference:
        P. Isola et al., "Image-to-image translation with conditional adversarial networks" (2017).
    """

    def __init__(self, channels: int = 3, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        check_whole("patch discriminator", channels=channels, width=width, layers=layers)
        widths = [channels, *(width * min(2**i, 8) for i in range(layers))]
        self.least = 2**layers
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 4, stride=2, padding=1),
                ChannelNorm(b) if i else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Verdict:
        """Judge ``(B, channels, H, W)``.

        Raises:
            ValueError: for another number of axes or images that are too small.
        """
        if x.ndim != 4 or min(x.shape[2:]) < self.least:
            raise ValueError(
                f"patch discriminator: expected (B, C, H, W) of at least {self.least} pixels, got {tuple(x.shape)}"
            )
        features = tuple(_through(self.stages, x))
        return Verdict((self.score(features[-1]),), (features,))


class SpectrumDiscriminator(nn.Module):
    """Scores complex spectra of ``(B, channels, T)`` at several resolutions.

    Real and imaginary parts are channels of a picture of time and frequency; convolutions 3 x 9 with stride 2 in
    frequency and growing dilation in time.

    Args:
        channels: of the signal.
        sizes: samples of a frame, one sub-discriminator each; hops are a quarter.
        width: channels.

    Reference:
        A. Defossez, J. Copet, G. Synnaeve, Y. Adi, "High fidelity neural audio compression" (2022), section 3.4.
    """

    def __init__(
        self, channels: int = 1, sizes: Sequence[int] = (1024, 512, 256), width: int = 16
    ) -> None:
        super().__init__()
        check_whole("spectrum discriminator", channels=channels, width=width)
        check_whole("spectrum discriminator", **{f"sizes[{i}]": n for i, n in enumerate(sizes)})
        if not sizes or min(sizes) < 16:
            raise ValueError(f"spectrum discriminator: expected sizes from 16, got {tuple(sizes)}")
        self.sizes = tuple(sizes)
        self.stages = nn.ModuleList(_spectrum_stages(2 * channels, width) for _ in sizes)
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in sizes)

    def forward(self, x: Tensor) -> Verdict:
        """Judge ``(B, channels, T)``."""
        _check_audio("spectrum discriminator", x)
        features = tuple(
            tuple(_through(stages, _picture(x, size)))
            for size, stages in zip(self.sizes, self.stages, strict=True)
        )
        logits = (score(f[-1]) for score, f in zip(self.scores, features, strict=True))
        return Verdict(tuple(logits), features)


class WaveDiscriminator(nn.Module):
    """Scores ``(B, channels, T)`` itself, averaged over 1, 2, 4, ... samples.

    Args:
        channels: of the signal.
        scales: sub-discriminators; the k-th (from 0) sees means of ``2^k`` samples.
        width: channels after the first layer, four times as many after each next one.
        layers: convolutions of stride 4.

    Reference:
        K. Kumar et al., "MelGAN: generative adversarial networks for conditional waveform synthesis" (2019),
        section 2.2.
    """

    def __init__(self, channels: int = 1, scales: int = 3, width: int = 8, layers: int = 3) -> None:
        super().__init__()
        check_whole("wave discriminator", channels=channels, scales=scales)
        check_whole("wave discriminator", width=width, layers=layers)
        self.least = 2 ** (scales - 1)
        widths = [width * 4**i for i in range(layers + 1)]
        self.stages = nn.ModuleList(_wave_stages(channels, widths) for _ in range(scales))
        self.scores = nn.ModuleList(nn.Conv1d(widths[-1], 1, 3, padding=1) for _ in range(scales))

    def forward(self, x: Tensor) -> Verdict:
        """Judge ``(B, channels, T)``.

        Raises:
            ValueError: for another number of axes or signals shorter than the coarsest mean.
        """
        _check_audio("wave discriminator", x, self.least)
        features, logits = [], []
        for k, (stages, score) in enumerate(zip(self.stages, self.scores, strict=True)):
            features.append(tuple(_through(stages, functional.avg_pool1d(x, 2**k))))
            logits.append(score(features[-1][-1]))
        return Verdict(tuple(logits), tuple(features))


class AudioDiscriminator(nn.Module):
    """Spectra and waveform together.

    Args:
        channels: of the signal.
        sizes: as in ``SpectrumDiscriminator``.
        scales: as in ``WaveDiscriminator``.
    """

    def __init__(
        self, channels: int = 1, sizes: Sequence[int] = (1024, 512, 256), scales: int = 3
    ) -> None:
        super().__init__()
        self.spectrum = SpectrumDiscriminator(channels, sizes)
        self.wave = WaveDiscriminator(channels, scales)

    def forward(self, x: Tensor) -> Verdict:
        """Judge ``(B, channels, T)``."""
        a, b = self.spectrum(x), self.wave(x)
        return Verdict(a.logits + b.logits, a.features + b.features)


def discriminator_loss(real: Verdict, fake: Verdict) -> Tensor:
    """Hinge loss ``mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake))``, the mean over sub-discriminators.

    The caller judges the decoder's output detached.

    Reference:
        J. H. Lim and J. C. Ye, "Geometric GAN" (2017).
    """
    parts = [
        (1 - a).relu().mean() + (1 + b).relu().mean()
        for a, b in zip(real.logits, fake.logits, strict=True)
    ]
    return torch.stack(parts).mean()


def generator_loss(fake: Verdict) -> Tensor:
    """``-mean D(fake)``, the mean over sub-discriminators: what the decoder minimises."""
    return torch.stack([-logits.mean() for logits in fake.logits]).mean()


def feature_matching_loss(real: Verdict, fake: Verdict) -> Tensor:
    """``mean |F(real) - F(fake)| / mean |F(real)|`` over all layers; gradients reach the fake side alone.

    Reference:
        A. Defossez et al., "High fidelity neural audio compression" (2022), equation (5).
    """
    parts = []
    for a, b in zip(real.features, fake.features, strict=True):
        for x, y in zip(a, b, strict=True):
            scale = x.detach().abs().mean().clamp(min=1e-6)
            parts.append((x.detach() - y).abs().mean() / scale)
    return torch.stack(parts).mean()


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, weight: nn.Parameter, most: float = 1e4
) -> Tensor:
    """What to multiply the adversarial loss with so that both pull equally hard on the decoder's last layer.

    ``|d reconstruction / d weight| / (|d adversarial / d weight| + 1e-4)``, at most ``most``, without gradient. Both
    graphs are kept for the backward pass that follows.

    Args:
        reconstruction: scalar loss.
        adversarial: scalar loss.
        weight: of the last layer, ``Backbone.last_weight``.
        most: upper limit.

    Reference:
        P. Esser, R. Rombach, B. Ommer, "Taming transformers for high-resolution image synthesis" (2021), equation (7).
    """
    (a,) = torch.autograd.grad(reconstruction, weight, retain_graph=True)
    (b,) = torch.autograd.grad(adversarial, weight, retain_graph=True)
    return (a.norm() / (b.norm() + 1e-4)).clamp(max=most).detach()


def _through(stages: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Output of each stage in turn."""
    assert isinstance(stages, nn.ModuleList)
    for stage in stages:
        x = stage(x)
        yield x


def _picture(x: Tensor, size: int) -> Tensor:
    """Real and imaginary parts ``(B, 2 channels, frames, bins)`` of ``(B, channels, T)``."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        window = torch.hann_window(size, dtype=x.dtype, device=x.device)
        window = window / window.square().sum().sqrt()
        spectrum = torch.fft.rfft(frames(x, size, size // 4) * window)
        return torch.cat([spectrum.real, spectrum.imag], 1)


def _spectrum_stages(inputs: int, width: int) -> nn.ModuleList:
    stages = [nn.Sequential(nn.Conv2d(inputs, width, (3, 9), padding=(1, 4)), nn.LeakyReLU(0.2))]
    for dilation in (1, 2, 4):
        conv = nn.Conv2d(
            width, width, (3, 9), stride=(1, 2), dilation=(dilation, 1), padding=(dilation, 4)
        )
        stages.append(nn.Sequential(conv, nn.LeakyReLU(0.2)))
    return nn.ModuleList(stages)


def _wave_stages(channels: int, widths: Sequence[int]) -> nn.ModuleList:
    stages = [nn.Sequential(nn.Conv1d(channels, widths[0], 15, padding=7), nn.LeakyReLU(0.2))]
    for narrow, wide in itertools.pairwise(widths):
        groups = narrow // 4 if narrow % 4 == 0 else 1
        conv = nn.Conv1d(narrow, wide, 41, stride=4, padding=20, groups=groups)
        stages.append(nn.Sequential(conv, nn.LeakyReLU(0.2)))
    return nn.ModuleList(stages)


def _check_audio(name: str, x: Tensor, least: int = 1) -> None:
    if x.ndim != 3 or x.shape[-1] < least:
        raise ValueError(
            f"{name}: expected signals (B, C, T) of at least {least} samples, got {tuple(x.shape)}"
        )
