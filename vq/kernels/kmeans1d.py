"""Optimal k-means in one dimension, many rows at once."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vq.kernels import dispatch

_REACH = 8  # steps that an end may move to either side at once

NDArray = npt.NDArray[np.float64]


def optimal_levels(
    x: Tensor, levels: int, weight: Tensor | None = None, bins: int = 1024
) -> tuple[Tensor, Tensor]:
    """Levels that minimise ``sum weight (x - level)^2`` in every row, and that sum.

    Args:
        x: ``(rows, n)`` finite numbers.
        levels: at least 1.
        weight: like x, not negative, or None.
        bins: rows with more distinct numbers choose among so many interval ends first; all ends are then moved
            together until nothing improves.

    Returns:
        ``(rows, levels)`` float32 ascending, ``(rows,)`` float64.
    """
    if weight is not None:
        weight = weight.float().contiguous()
    return _op(x.float().contiguous(), weight, levels, bins)


def _cpu(x: Tensor, weight: Tensor | None, levels: int, bins: int) -> tuple[Tensor, Tensor]:
    native = dispatch.native()
    assert native is not None
    table = torch.empty(len(x), levels)
    errors = torch.empty(len(x), dtype=torch.float64)
    native.kmeans1d(
        x.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        *x.shape,
        levels,
        bins,
        table.data_ptr(),
        errors.data_ptr(),
        dispatch.threads(),
    )
    return table, errors


def _reference(x: Tensor, weight: Tensor | None, levels: int, bins: int) -> tuple[Tensor, Tensor]:
    table, errors = [], []
    for row in range(len(x)):
        values = x[row].cpu().double().numpy()
        own = np.ones_like(values) if weight is None else weight[row].cpu().double().numpy()
        found, error = _solve(values, own, levels, bins)
        table.append(torch.from_numpy(found).float())
        errors.append(error)
    if not table:
        return x.new_empty(0, levels), x.new_empty(0, dtype=torch.float64)
    return torch.stack(table).to(x.device), torch.tensor(errors, device=x.device).double()


def _solve(values: NDArray, weights: NDArray, levels: int, bins: int) -> tuple[NDArray, float]:
    values, weights = values[weights > 0], weights[weights > 0]
    if not len(values):
        return np.zeros(levels), 0.0
    mean = float(np.average(values, weights=weights))
    distinct, at = np.unique(values - mean, return_inverse=True)
    mass = np.bincount(at, weights)
    sums = np.zeros((2, len(distinct) + 1))
    sums[0, 1:], sums[1, 1:] = np.cumsum(mass), np.cumsum(mass * distinct)
    count = len(distinct)
    if count <= levels:
        ends = np.minimum(np.arange(levels + 1), count)
    else:
        places = _spread(distinct, min(count, max(bins, levels)))
        ends = _choose(sums, [places[:1]] + [places] * (levels - 1) + [places[-1:]])
        step = -(-count // (len(places) - 1))
        while step:
            ends = _settle(sums, ends, step)
            step //= 4
    low, high = sums[:, ends[:-1]], sums[:, ends[1:]]
    means = (high[1] - low[1]) / np.maximum(high[0] - low[0], 1e-300)
    filled = np.where(high[0] > low[0], means, distinct[-1])
    explained = ((high[1] - low[1]) * means)[high[0] > low[0]].sum()
    return filled + mean, max(0.0, float((mass * distinct**2).sum() - explained))


def _spread(distinct: NDArray, bins: int) -> npt.NDArray:
    """Ends of bins as wide as each other on a scale that grows by the square root of a gap between numbers."""
    count = len(distinct)
    if bins == count:
        return np.arange(count + 1)
    gaps = np.diff(distinct.astype(np.float32)).astype(np.float64)
    scale = np.concatenate([[0.0], np.cumsum(np.sqrt(gaps))])
    places = np.searchsorted(scale, scale[-1] * np.arange(bins + 1) / bins)
    for b in range(1, bins):
        places[b] = min(max(places[b], places[b - 1] + 1), count - (bins - b))
    places[bins] = count
    return places


def _gain(sums: NDArray, low: npt.NDArray, high: npt.NDArray) -> NDArray:
    """What cells from every low end (rows) to every high end (columns) explain; -inf where there is no cell."""
    mass = sums[0, high] - sums[0, low][:, None]
    value = sums[1, high] - sums[1, low][:, None]
    return np.where(mass > 0, value**2 / np.where(mass > 0, mass, 1), -np.inf)


def _choose(sums: NDArray, candidates: list[npt.NDArray]) -> npt.NDArray:
    """The best end out of every list of candidates."""
    best, chosen = np.zeros(1), []
    for low, high in itertools.pairwise(candidates):
        found = best[:, None] + _gain(sums, low, high)
        chosen.append(found.argmax(0))
        best = found.max(0)
    at, ends = 0, [candidates[-1][0]]
    for low, choice in zip(candidates[-2::-1], chosen[::-1], strict=True):
        at = choice[at]
        ends.append(low[at])
    return np.array(ends[::-1])


def _explained(sums: NDArray, ends: npt.NDArray) -> float:
    return float(
        sum(_gain(sums, ends[k : k + 1], ends[k + 1 : k + 2])[0, 0] for k in range(len(ends) - 1))
    )


def _settle(sums: NDArray, ends: npt.NDArray, step: int) -> npt.NDArray:
    offsets = np.arange(-_REACH, _REACH + 1) * step
    for _ in range(50):
        inner = [np.unique(np.clip(end + offsets, 0, ends[-1])) for end in ends[1:-1]]
        moved = _choose(sums, [ends[:1], *inner, ends[-1:]])
        if not _explained(sums, moved) > _explained(sums, ends) * (1 + 1e-13):
            break
        ends = moved
    return ends


def _fake(x: Tensor, weight: Tensor | None, levels: int, bins: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[0], levels), x.new_empty(x.shape[0], dtype=torch.float64)


_op = dispatch.declare(
    "kmeans1d(Tensor x, Tensor? weight, int levels, int bins) -> (Tensor, Tensor)",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
)
