"""Mean squared distances between vectors and the rows that stand for them, in few passes over memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Distances(torch.autograd.Function):
    """The same mean twice, with gradients to the points and to the rows; and the differences."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, rows: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        away = (points - rows).mul_(valid[:, None])
        factor = 1 / (valid.sum().clamp_min(1) * points.shape[1])
        ctx.save_for_backward(away, factor)
        ctx.mark_non_differentiable(away)
        mean = torch.linalg.vector_norm(away, dim=1).square().sum() * factor
        return mean, mean.clone(), away

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        away, factor = ctx.saved_tensors
        to_points = away * (2 * factor * grads[0]) if ctx.needs_input_grad[0] else None
        to_rows = away * (-2 * factor * grads[1]) if ctx.needs_input_grad[1] else None
        return to_points, to_rows, None


def distances(points: Tensor, rows: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the valid vectors and over coordinates of ``(point - row)²``, and the differences.

    Args:
        points: ``(n, dim)`` finite.
        rows: ``(n, dim)`` finite.
        valid: ``(n,)`` bool.

    Returns:
        The mean with a gradient to points alone, the same with a gradient to rows alone, and ``points - rows``
        without gradient, zero where not valid.
    """
    found: tuple[Tensor, Tensor, Tensor] = _Distances.apply(points, rows, valid)
    return found
