"""Mean and scale of each channel between features and the units of a codebook."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vq.quantizers.usage import sum_over_ranks

MODES = ("running", "learned", "fixed")
_FLOOR = 1e-5  # of a scale: a channel without variance stays finite


class Affine(nn.Module):
    """Brings features to mean 0 and variance 1 in each channel, and back.

    ``running`` follows the features by exponential averages (plain averages at first); as everywhere, a batch is
    collected by one training forward and counts from the next one on. ``learned`` makes both parameters. ``fixed``
    keeps what ``start`` found, 0 and 1 before it.

    Args:
        dim: channels.
        mode: ``running``, ``learned`` or ``fixed``.
        decay: of the averages, in [0, 1).

    Attributes:
        center: ``(dim,)``.
        scale: ``(dim,)``; where it is learned, ``log_scale`` stands in its place and keeps it positive.

    Raises:
        ValueError: for an unknown mode or a decay out of range.

    Reference:
        S. Ioffe, C. Szegedy, "Batch normalization" (2015), with the running statistics in training too, so that a code
        means the same in training and evaluation.
    """

    center: Tensor
    scale: Tensor
    steps: Tensor
    collected: Tensor

    def __init__(self, dim: int, mode: str = "running", decay: float = 0.99) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"scale must be one of {', '.join(MODES)}, got {mode!r}")
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be from 0 to below 1, got {decay!r}")
        self.mode, self.decay = mode, decay
        if mode == "learned":
            self.center = nn.Parameter(torch.zeros(dim))
            self.log_scale = nn.Parameter(torch.zeros(dim))
            return
        self.register_buffer("center", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        if mode == "running":
            self.register_buffer("steps", torch.zeros(()))
            self.register_buffer("collected", torch.zeros(2 * dim + 1))

    def _spread(self) -> Tensor:
        return self.log_scale.exp() if self.mode == "learned" else self.scale

    def into(self, h: Tensor) -> Tensor:
        """Features ``(n, dim)`` in units of the codebook; differentiable in h alone."""
        return (h - self.center.detach()) / self._spread().detach()

    def out(self, z: Tensor) -> Tensor:
        """Inverse of ``into``; differentiable in all."""
        return z * self._spread() + self.center

    def out_held(self, z: Tensor) -> Tensor:
        """The same bits as ``out``, differentiable in z alone."""
        return z * self._spread().detach() + self.center.detach()

    @torch.no_grad()
    def collect(self, h: Tensor, valid: Tensor) -> None:
        """Keep the sums of a batch ``(n, dim)`` of all ranks for ``advance``; rows that are not valid count nothing."""
        if self.mode != "running":
            return
        away = torch.where(valid[:, None], h - self.center, 0.0)
        sums = torch.cat([valid.sum()[None].float(), away.sum(0), away.square().sum(0)])
        self.collected.copy_(sum_over_ranks(sums))

    @torch.no_grad()
    def advance(self) -> None:
        """Let the statistics move by what was collected."""
        if self.mode != "running":
            return
        count = self.collected[0]
        first, second = (self.collected[1:] / count.clamp_min(1)).chunk(2)
        some = (count > 0).float()
        rate = some * (1 / (self.steps + 1)).clamp_min(1 - self.decay)
        variance = (1 - rate) * self.scale.square() + rate * (second - first.square())
        self.scale.copy_(variance.clamp_min(_FLOOR**2).sqrt())
        self.center.add_(rate * first)
        self.steps.add_(some)
        self.collected.zero_()

    @torch.no_grad()
    def start(self, h: Tensor) -> None:
        """Take mean and standard deviation of features ``(n, dim)``."""
        exact = h.double()
        self.center.copy_(exact.mean(0))
        spread = exact.var(0, correction=0).sqrt().clamp_min(_FLOOR)
        if self.mode == "learned":
            self.log_scale.copy_(spread.log())
        else:
            self.scale.copy_(spread)
        if self.mode == "running":
            self.steps.fill_(1 / (1 - self.decay))
            self.collected.zero_()
