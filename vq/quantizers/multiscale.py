"""Residual stages over time, each at its own pace."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vq.quantizers.base import Quantized, check_input
from vq.quantizers.compose import carry, clean, run_part
from vq.quantizers.compound import Part, is_there, merge_losses
from vq.quantizers.registry import register
from vq.quantizers.residual import Staged
from vq.quantizers.table import check_features


@register("multiscale")
class MultiscaleQuantizer(Staged):
    """Residual stages over sequences: stage s quantizes the mean of each block of ``strides[s]`` frames.

    The last batch axis is time: vectors are ``(*batch, time, dim)``; ``(dim,)`` is a single frame. Codes stand at full
    resolution, ``(*batch, time, stages, ...)``, the same for all frames of a block, and -1 where masked; a file stores
    one of each block. ``decode`` takes the largest in a block, so a block counts as long as one of its frames does.
    Means are over the frames that count, also in a last block that is cut short.

    Gradients, losses and dropout are those of ``residual``; a sample of dropout is a sequence.

    Args:
        of: a part ``{"kind": ..., **arguments}``, or a list with one for each stride.
        strides: frames of a block, 1 or more, for each stage; usually falling, and the last 1.
        dropout: share of training sequences that keep a random number of stages.
        estimator: ``straight`` or ``rotation``, from x to the sum.
        seed: of stages without one of their own, and of dropout.

    Reference:
        H. Siuzdak, F. Grötschla, L. Lanzendörfer, "SNAC: multi-scale neural audio codec" (2024), section 3.1.
    """

    def __init__(
        self,
        of: Part | Sequence[Part],
        strides: Sequence[int] = (4, 2, 1),
        dropout: float = 0.0,
        estimator: str = "straight",
        seed: int = 0,
    ) -> None:
        if not strides or not all(isinstance(n, int) and n >= 1 for n in strides):
            raise ValueError(
                f"multiscale: strides must be whole numbers, 1 or more, got {strides!r}"
            )
        super().__init__(of, len(strides), dropout, estimator, seed)
        self.strides = tuple(strides)

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        return {"strides": list(self.strides), **super().config()}

    def run(self, x: Tensor, through: Tensor, mask: Tensor | None = None) -> Quantized:
        """As ``forward``, with gradients in two lanes; see ``Composable``."""
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        with torch.autocast(x.device.type, enabled=False):
            full, wide, nonfinite = clean(x, mask)
            left, valid = _sequences(full, 1), _sequences(wide, 0)
            found, codes, total = [], [], torch.zeros_like(left)
            stages = zip(self.each(), self.strides, self._stage_masks(valid), strict=True)
            for part, stride, own in stages:
                means, some = pool(left, own, stride)
                found.append(run_part(part, means, means.detach(), some))
                values = _repeat(found[-1].values, stride, left.shape[1])
                values = torch.where(own[..., None], values, 0.0)
                codes.append(_spread(found[-1].codes, stride, own))
                total = total + values
                left = left - values.detach()
            lane = clean(through, mask)[0]
            values = carry(self.estimator, lane, total.reshape(lane.shape))
            values = torch.where(wide[..., None], values, 0.0)
        losses, weights, stats = merge_losses(found, "stage")
        stats["nonfinite"] = nonfinite
        joined = self.layout.join(codes).reshape((*x.shape[:-1], *self.codes_shape))
        return Quantized(values.to(x.dtype), joined, losses, weights, stats)

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        full, wide, _ = clean(x, mask)
        left, valid, codes = _sequences(full, 1), _sequences(wide, 0), []
        for part, stride in zip(self.each(), self.strides, strict=True):
            own = part.encode(*pool(left, valid, stride))
            values = _repeat(part.decode(own), stride, left.shape[1])
            left = left - torch.where(valid[..., None], values, 0.0)
            codes.append(_spread(own, stride, valid))
        return self.layout.join(codes).reshape((*x.shape[:-1], *self.codes_shape))

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Values ``(*batch, time, dim)`` float32: the sum of the first stages, each repeated; -1 adds nothing.

        Raises:
            ValueError: for codes out of range, a number of stages there is not, or a quantizer that is not ready.
        """
        count = self._check_stages(stages)
        pieces = self._split_codes(codes)
        batch = codes.shape[: codes.ndim - len(self.codes_shape)]
        total = torch.zeros((), device=codes.device)
        for i, (part, stride) in enumerate(zip(self.each(), self.strides, strict=True)):
            if i == count:
                break
            depth = len(part.codes_shape)
            piece = _sequences(pieces[i], depth)
            values = part.decode(_gather(piece, stride))
            values = _repeat(values, stride, piece.shape[1])
            total = total + torch.where(is_there(piece, depth)[..., None], values, 0.0)
        return total.reshape(*batch, self.dim)

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start stage after stage on what the stages before leave.

        Args:
            x: features ``(n, dim)``, taken as one sequence in the order of time, or sequences ``(n, time, dim)``.
            generator: handed to the stages.

        Raises:
            ValueError: as the stages raise it.
        """
        check_input(self.kind, x, self.dim)
        left = _sequences(x, 1)
        left = check_features(self.kind, left.reshape(-1, self.dim), self.dim, 1).reshape(
            left.shape
        )
        valid = torch.ones(left.shape[:-1], dtype=torch.bool, device=x.device)
        for part, stride in zip(self.each(), self.strides, strict=True):
            means, some = pool(left, valid, stride)
            part.start(means.reshape(-1, self.dim), generator)
            left = left - _repeat(part.decode(part.encode(means, some)), stride, left.shape[1])


def pool(x: Tensor, valid: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Means of the frames that count in each block, and whether any does.

    Args:
        x: ``(n, time, dim)``, zero where it does not count.
        valid: bool ``(n, time)``.
        stride: frames of a block.

    Returns:
        ``(n, blocks, dim)`` and bool ``(n, blocks)`` with ``ceil(time / stride)`` blocks.
    """
    if stride == 1:
        return x, valid
    extra = -x.shape[1] % stride
    x = functional.pad(torch.where(valid[..., None], x, 0.0), (0, 0, 0, extra))
    count = functional.pad(valid, (0, extra)).unflatten(1, (-1, stride)).sum(2)
    means = x.unflatten(1, (-1, stride)).sum(2) / count.clamp_min(1)[..., None]
    return means, count > 0


def _sequences(x: Tensor, depth: int) -> Tensor:
    """``(*batch, time, *own)`` with ``depth`` own axes as ``(n, time, *own)``."""
    own = x.shape[x.ndim - depth :]
    batch = x.shape[: x.ndim - depth]
    time = batch[-1] if batch else 1
    return x.reshape((math.prod(batch[:-1]), time, *own))


def _repeat(x: Tensor, stride: int, time: int) -> Tensor:
    """Blocks ``(n, blocks, ...)`` as frames ``(n, time, ...)``."""
    return x if stride == 1 else x.repeat_interleave(stride, dim=1)[:, :time]


def _spread(codes: Tensor, stride: int, valid: Tensor) -> Tensor:
    """Codes of blocks at full resolution, -1 where a frame does not count."""
    full = _repeat(codes, stride, valid.shape[1])
    return torch.where(valid.reshape((*valid.shape, *[1] * (full.ndim - 2))), full, -1)


def _gather(codes: Tensor, stride: int) -> Tensor:
    """Inverse of ``_spread``: the largest code of each block, -1 where there is none."""
    if stride == 1:
        return codes
    extra = codes.new_full((len(codes), -codes.shape[1] % stride, *codes.shape[2:]), -1)
    return torch.cat([codes, extra], dim=1).unflatten(1, (-1, stride)).amax(2)
