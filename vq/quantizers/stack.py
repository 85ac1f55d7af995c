"""Residual stages of plain tables as one node of the gradient's graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.passing import Gap, everything, passed
from vq.quantizers.vector import VectorQuantizer


def plain_tables(parts: Sequence[Quantizer]) -> list[VectorQuantizer] | None:
    """The parts, if all are tables of moving means in the input's own space; else None.

    Then nothing in a stage has a gradient but the losses, and what a stage leaves over is its gradient.
    """
    plain = [
        part
        for part in parts
        if isinstance(part, VectorQuantizer)
        and part.projection.identity
        and (part.learn, part.lookup) == ("ema", "euclidean")
    ]
    return plain if len(plain) == len(parts) else None


def run_tables(
    parts: Sequence[VectorQuantizer],
    x: Tensor,
    lane: Tensor | None,
    masks: Sequence[Tensor],
    estimator: str,
) -> tuple[list[Quantized], Tensor]:
    """What the stages of ``residual`` find, and the sum of their values.

    The same numbers as stage by stage. Beside what each stage leaves over, which is its gradient, nothing of x's size
    is kept, and the backward pass reads each of these once.

    Args:
        parts: stages.
        x: ``(*batch, dim)`` float32, zero where it does not count; the losses' gradients go here.
        lane: the same numbers, for the gradient of the values; None for x.
        masks: bool ``(*batch,)`` for each stage; what does not count in one does not count in those after it.
        estimator: from the lane to the sum.

    Returns:
        Codes, losses and statistics of each stage, with values left empty, and the sum ``(*batch, dim)``.
    """
    points = x.reshape(-1, x.shape[-1])
    left, total = points.detach(), torch.zeros_like(points, requires_grad=False)
    gaps, stages = [], []
    for part, own in zip(parts, masks, strict=True):
        codes, stats, gap = _stage(part, left, own.reshape(-1), total)
        left = gap.away
        gaps.append(gap)
        stages.append((codes.reshape(own.shape), stats))
    through = None if lane is None else lane.reshape(points.shape)
    values, losses = passed(points, through, total, gaps, estimator)
    found = [
        Quantized(
            x.new_empty(0), codes, {"commitment": loss}, {"commitment": part.commitment}, stats
        )
        for (codes, stats), loss, part in zip(stages, losses, parts, strict=True)
    ]
    return found, values.reshape(x.shape)


@torch.no_grad()
def _stage(
    part: VectorQuantizer, left: Tensor, valid: Tensor, total: Tensor
) -> tuple[Tensor, dict[str, Tensor], Gap]:
    """Codes, statistics and gap of one stage, which is what it leaves over; adds its rows to ``total``."""
    whole = everything(valid)
    codes, rows, gap = part.match(left, valid, whole)
    none = torch.zeros((), dtype=torch.int64, device=left.device)
    stats = part.observe(left, codes, valid, gap, nonfinite=none)
    total.add_(rows)
    return codes if whole else torch.where(valid, codes, -1), stats, gap
