"""Optimal scalar codebooks for given numbers: weighted k-means in one dimension, solved exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vq.kernels.kmeans1d import optimal_levels


@dataclass(frozen=True)
class Levels:
    """Scalar codebooks, one a row.

    Attributes:
        table: ``(rows, levels)`` float32, ascending.
        error: ``(rows,)`` float64, weighted squared error of the row it was fitted to.
    """

    table: Tensor
    error: Tensor


def fit(x: Tensor, levels: int, weight: Tensor | None = None, bins: int = 1024) -> Levels:
    """The levels that minimise ``sum weight (x - level)^2``, for every row by itself.

    Sorted numbers are split into intervals by a dynamic programme. Rows of at most ``bins`` distinct numbers get the
    global optimum. Longer rows first choose among ``bins`` interval ends; then all ends move together,
    by the same programme over 17 places around each, until none moves.

    Args:
        x: ``(rows, n)`` or ``(n,)`` finite numbers.
        levels: 1 to 65536; rows with fewer distinct numbers repeat the last level.
        weight: broadcastable to x, not negative, or None; numbers of weight 0 are left out.
        bins: at least 2.

    Raises:
        ValueError: for wrong shapes or numbers out of range.

    Reference:
        H. Wang, M. Song, "Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming", The R
        Journal 3 (2011), equation (1); monotone ends: A. Grønlund et al., "Fast exact k-means, k-medians and Bregman
        divergence clustering in 1D" (2017), section 2.
    """
    if x.ndim not in (1, 2) or not x.is_floating_point():
        raise ValueError(
            f"kmeans1d: expected floats (rows, n) or (n,), got {x.dtype} {tuple(x.shape)}"
        )
    if not 1 <= levels <= 65536 or bins < 2:
        raise ValueError(
            f"kmeans1d: expected levels from 1 to 65536 and bins of at least 2, got {levels}, {bins}"
        )
    rows = x.reshape(-1, x.shape[-1]) if x.ndim == 2 else x[None]
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("kmeans1d: x holds numbers that are not finite")
    if weight is not None:
        weight = weight.expand(x.shape).reshape(rows.shape)
        if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
            raise ValueError("kmeans1d: weight must be finite and not negative")
    table, error = optimal_levels(rows, levels, weight, bins)
    return Levels(table, error)


def assign(x: Tensor, table: Tensor) -> Tensor:
    """Index of the nearest level, the lower one of two as near.

    Args:
        x: ``(rows, n)``.
        table: ``(rows, levels)`` ascending.

    Returns:
        ``(rows, n)`` int64.
    """
    bounds = (table[:, 1:].double() + table[:, :-1].double()) / 2
    return torch.searchsorted(bounds, x.double().contiguous())
