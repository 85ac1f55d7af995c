"""From vectors to rows that stand for them: values forward, gradients back, distances; in few passes over memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vq.quantizers.estimators import turned


def everything(valid: Tensor) -> bool:
    """Whether all of a mask counts, where that is known without waiting for a device or cutting a compiled graph.

    False says that some may not count, and only costs time.
    """
    if torch.compiler.is_compiling() or valid.device.type != "cpu":
        return False
    return bool(valid.all())


@dataclass(frozen=True)
class Gap:
    """How far rows are from their points; no gradient.

    Attributes:
        away: ``(n, dim)`` points - rows, zero where not valid.
        mean: ``()`` mean over valid vectors and coordinates of ``away²``.
        factor: ``()`` one over how many numbers that is.
    """

    away: Tensor
    mean: Tensor
    factor: Tensor


@torch.no_grad()
def measure(points: Tensor, rows: Tensor, valid: Tensor, whole: bool) -> Gap:
    """The gap between points ``(n, dim)`` and their rows; ``whole`` says that all of ``valid`` ``(n,)`` count."""
    away = points.detach() - rows.detach()
    if not whole:
        away.mul_(valid[:, None])
    factor = 1 / (valid.sum().clamp_min(1) * points.shape[1])
    return Gap(away, torch.linalg.vector_norm(away, dim=1).square().sum() * factor, factor)


class _Pass(torch.autograd.Function):
    """Values forward; backward the estimator's gradient and those of all mean squared distances, in one go."""

    @staticmethod
    def forward(
        ctx: Any,
        points: Tensor,
        lane: Tensor | None,
        values: Tensor,
        means: Tensor,
        factors: Tensor,
        rotate: bool,
        aways: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_compiling():  # dynamo does not always know it
            ctx.set_materialize_grads(False)
        ctx.rotate, ctx.shared = rotate, lane is None
        turn = (points if lane is None else lane, values) if rotate else ()
        ctx.save_for_backward(factors, *turn, *aways)
        return values.detach(), means.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        to_values, to_means = grads
        factors, *saved = ctx.saved_tensors
        estimate = to_values
        if ctx.rotate:
            lane, values, *saved = saved
            estimate = None if to_values is None else turned(to_values, lane, values)
        total, own = (estimate, ctx.rotate) if ctx.shared else (None, False)
        if to_means is not None and ctx.needs_input_grad[0]:
            for away, scale in zip(saved, (2 * factors * to_means).unbind(), strict=True):
                if total is None:
                    total = away * scale
                else:
                    total = total.addcmul_(away, scale) if own else total.addcmul(away, scale)
                own = True
        return total, None if ctx.shared else estimate, None, None, None, None, None


def passed(
    points: Tensor, lane: Tensor | None, values: Tensor, gaps: Sequence[Gap], estimator: str
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The bits of values, and the mean of each gap, with gradients.

    Args:
        points: ``(n, dim)`` where the gradient of the means goes, of each ``2 away / numbers``.
        lane: the same numbers, where the gradient of the values goes by the estimator; None for ``points``.
        values: ``(n, dim)``, which get no gradient; nothing may write to them afterwards.
        gaps: of the rows that values are the sum of.
        estimator: ``straight`` or ``rotation``.
    """
    means, factors = torch.stack([g.mean for g in gaps]), torch.stack([g.factor for g in gaps])
    aways = [gap.away for gap in gaps]
    found, losses = _Pass.apply(
        points, lane, values.detach(), means, factors, estimator == "rotation", aways
    )
    return found, losses.unbind()


class _Pull(torch.autograd.Function):
    """The mean squared distance, with its gradient to the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, away: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(away, factor)
        return mean.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        away, factor = ctx.saved_tensors
        return away * (-2 * factor * grads[0]), None, None, None


def pull(rows: Tensor, gap: Gap) -> Tensor:
    """The mean of a gap, with its gradient to the rows ``(n, dim)`` alone: what brings them to their points."""
    found: Tensor = _Pull.apply(rows, gap.away, gap.mean, gap.factor)
    return found
