"""Numbering the points of a pyramid: whole vectors of ``dim`` numbers whose magnitudes sum to ``pulses``.

Vectors are in the order of their first number, 0, +1, -1, +2, -2 ..., then of the rest. With V(n, k) vectors of n
numbers and k pulses, the vectors before first number ±m are ``V(n-1, k) + 2 sum_{0<j<m} V(n-1, k-j)``, and V(n-1, k-m)
more for the negative one.

Reference:
    T. R. Fischer, "A pyramid vector quantizer", IEEE Trans. Inf. Theory 32 (1986), section III.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MAX_BITS = 62


@functools.cache
def pyramid_points(dim: int, pulses: int) -> int:
    """V(dim, pulses), exactly: ``V(n, k) = V(n-1, k) + V(n-1, k-1) + V(n, k-1)``.

    Raises:
        ValueError: beyond 2^62, the longest index.
    """
    return _counts(dim, pulses)[dim][pulses]


def _counts(dim: int, pulses: int) -> list[list[int]]:
    """V(n, k) for all n up to dim and k up to pulses."""
    rows = [[1] + [0] * pulses]
    for n in range(1, dim + 1):
        row, before = [1], rows[-1]
        for k in range(1, pulses + 1):
            row.append(before[k] + before[k - 1] + row[k - 1])
            if row[-1] > 2**MAX_BITS:
                raise ValueError(
                    f"pvq: {dim} numbers with {pulses} pulses have more than 2^{MAX_BITS} points (so have "
                    f"{n} with {k}); use fewer pulses, or shorter vectors"
                )
        rows.append(row)
    return rows


@functools.cache
def _sums(dim: int, pulses: int) -> tuple[Tensor, Tensor]:
    """Tables int64 ``(dim, pulses + 1)``: V(n, k) for n below dim, and its sums over k from 0."""
    counts = torch.tensor(_counts(dim, pulses)[:dim])
    return counts, counts.cumsum(1)


def to_index(points: Tensor, pulses: int) -> Tensor:
    """Number of each point.

    Args:
        points: integers ``(*batch, dim)``, magnitudes of each row summing to ``pulses``.
        pulses: that sum.

    Returns:
        int64 ``(*batch,)`` in ``[0, V(dim, pulses))``.
    """
    dim = points.shape[-1]
    counts, sums = (t.to(points.device) for t in _sums(dim, pulses))
    flat = points.reshape(-1, dim).long()
    index = torch.zeros_like(flat[:, 0])
    left = torch.full_like(index, pulses)
    for i in range(dim - 1):
        rest, total = counts[dim - 1 - i], sums[dim - 1 - i]
        value = flat[:, i]
        after = left - value.abs()
        before = rest[left] + 2 * (total[(left - 1).clamp_min(0)] - total[after])
        before = before + torch.where(value < 0, rest[after], 0)
        index += torch.where(value == 0, 0, before)
        left = after
    index += ((flat[:, -1] < 0) & (left > 0)).long()
    return index.reshape(points.shape[:-1])


def from_index(index: Tensor, dim: int, pulses: int) -> Tensor:
    """Inverse of ``to_index``: int64 ``(*batch, dim)``."""
    counts, sums = (t.to(index.device) for t in _sums(dim, pulses))
    rest = index.reshape(-1).clone()
    left = torch.full_like(rest, pulses)
    points = torch.zeros(len(rest), dim, dtype=torch.int64, device=index.device)
    for i in range(dim - 1):
        each, total = counts[dim - 1 - i], sums[dim - 1 - i]
        offset = rest - each[left]
        moved = offset >= 0
        # the largest m with 2 (sum_{k-m < j < k} V) <= offset: the first k - m whose sum reaches the bound
        bound = total[(left - 1).clamp_min(0)] - torch.div(offset, 2, rounding_mode="floor")
        after = torch.where(moved, torch.searchsorted(total, bound), left)
        inside = offset - 2 * (total[(left - 1).clamp_min(0)] - total[after])
        negative = moved & (inside >= each[after])
        rest = torch.where(moved, inside - torch.where(negative, each[after], 0), rest)
        points[:, i] = torch.where(negative, after - left, left - after)
        left = after
    points[:, -1] = torch.where(rest > 0, -left, left)
    return points.reshape(*index.shape, dim)
