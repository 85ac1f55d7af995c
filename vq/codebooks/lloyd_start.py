"""Where k-means starts: random points, or points spread by k-means++."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels.lloyd import lower_distances
from vq.kernels.search import nearest

_EXACT = 1024  # entries up to which k-means++ draws one point at a time
_ROUNDS = 64  # draws above that
_POINTS = 16  # points of an entry that are looked at above that
_SUM_BLOCK = 4096  # of lower_distances


def random_rows(
    x: Tensor, weight: Tensor | None, entries: int, generator: torch.Generator
) -> Tensor:
    """Distinct rows ``(entries, dim)``, drawn in proportion to the sum of their weights.

    Reference:
        P. S. Efraimidis, P. G. Spirakis, "Weighted random sampling with a reservoir" (2006), algorithm A.
    """
    if weight is None:
        return x[torch.randperm(len(x), generator=generator, device=x.device)[:entries]]
    uniform = torch.rand(len(x), generator=generator, device=x.device, dtype=torch.float64)
    keys = uniform.clamp_min(1e-300).log() / weight.double().sum(1).clamp_min(1e-30)
    return x[keys.sort(descending=True, stable=True).indices[:entries]]


def spread_rows(
    x: Tensor, weight: Tensor | None, entries: int, generator: torch.Generator
) -> Tensor:
    """Rows ``(entries, dim)`` drawn in proportion to their weighted squared distance from those drawn before.

    Above 1024 entries, entries / 64 rows are drawn before distances are taken anew, out of at most 16 rows an entry.
    """
    if entries <= _EXACT:
        return _one_by_one(x, weight, entries, generator)
    if len(x) > _POINTS * entries:
        rows = torch.randperm(len(x), generator=generator, device=x.device)[: _POINTS * entries]
        x, weight = x[rows], None if weight is None else weight[rows]
    return _by_rounds(x, weight, entries, generator)


def _one_by_one(
    x: Tensor, weight: Tensor | None, entries: int, generator: torch.Generator
) -> Tensor:
    chosen = [random_rows(x, weight, 1, generator)[0]]
    draws = torch.rand(entries, generator=generator, device=x.device, dtype=torch.float64)
    distances = torch.full((len(x),), float("inf"), device=x.device)
    for i in range(1, entries):
        distances, sums = lower_distances(x, weight, chosen[-1], distances)
        ends = sums.cumsum(0)
        if not float(ends[-1]) > 0:  # every point is drawn already
            return torch.cat([torch.stack(chosen), x[: entries - i]])
        target = draws[i] * ends[-1]
        block = min(int(torch.searchsorted(ends, target, right=True)), len(ends) - 1)
        before = ends[block - 1] if block else 0.0
        inside = distances[block * _SUM_BLOCK : (block + 1) * _SUM_BLOCK].double().cumsum(0)
        at = int(torch.searchsorted(inside, target - before, right=True))
        chosen.append(x[block * _SUM_BLOCK + min(at, len(inside) - 1)])
    return torch.stack(chosen)


def _by_rounds(
    x: Tensor, weight: Tensor | None, entries: int, generator: torch.Generator
) -> Tensor:
    size = -(-entries // _ROUNDS)
    table = random_rows(x, weight, size, generator)
    distances = torch.full((len(x),), float("inf"), device=x.device)
    latest = table
    while len(table) < entries:
        off = (x - latest[nearest(x, latest, weight).long()]).square()
        own = off.sum(1) if weight is None else (off * weight).sum(1)
        distances = torch.minimum(distances, own)
        latest = random_rows(x, distances[:, None], min(size, entries - len(table)), generator)
        table = torch.cat([table, latest])
    return table
