"""Joint least squares for additive codebooks."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.kmeans import KMeans
from vq.kernels.beam import beam_search

PRIOR = 1.0  # how many mean weights the old value of an entry counts for


def sum_of(tables: Tensor, codes: Tensor) -> Tensor:
    """Sums ``(*batch, dim)`` of the entries that codes ``(*batch, stages)`` name, in order of the stages."""
    total = tables[0][codes[..., 0].long()]
    for stage in range(1, codes.shape[-1]):
        total = total + tables[stage][codes[..., stage].long()]
    return total


def start_tables(
    x: Tensor,
    weight: Tensor | None,
    stages: int,
    entries: int,
    beam: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Tables ``(stages, entries, dim)`` by k-means on what the best sums of the stages before leave."""
    tables: list[Tensor] = []
    left = x
    for _ in range(stages):
        stage = KMeans(x.shape[1], entries, iterations=10).fit(left, weight, generator)
        tables.append(stage.table)
        stacked = torch.stack(tables)
        left = x - sum_of(stacked, beam_search(x, stacked, weight, beam))
    return torch.stack(tables)


def least_squares(x: Tensor, codes: Tensor, tables: Tensor, weight: Tensor | None) -> Tensor:
    """Tables that minimise ``Σ weight (x - Σ_s table_s[code_s])² + PRIOR · mean(weight) · ‖table - old‖²``.

    The normal equations have ``stages * entries`` unknowns for each coordinate; without weights their matrix is the
    same for all coordinates. In float64.

    Args:
        x: ``(n, dim)``.
        codes: ``(n, stages)``.
        tables: ``(stages, entries, dim)``, the old values.
        weight: ``(n, dim)`` or None.
    """
    stages, entries, dim = tables.shape
    index = codes.long() + entries * torch.arange(stages, device=codes.device)
    old = tables.reshape(-1, dim).double()
    if weight is None:
        return _solve(_normal(index, len(old), None), _sums(index, x.double(), old), old).reshape(
            tables.shape
        )
    weight = weight.double() / weight.double().mean().clamp_min(1e-300)
    right = _sums(index, weight * x, old)
    columns = [
        _solve(_normal(index, len(old), weight[:, d]), right[:, d : d + 1], old[:, d : d + 1])
        for d in range(dim)
    ]
    return torch.cat(columns, dim=1).reshape(tables.shape)


def _normal(index: Tensor, size: int, mass: Tensor | None) -> Tensor:
    """How often (with what mass) two entries are used together, ``(size, size)`` float64."""
    matrix = torch.zeros(size * size, dtype=torch.float64, device=index.device)
    ones = torch.ones(len(index), dtype=torch.float64, device=index.device)
    for first in range(index.shape[1]):
        for second in range(index.shape[1]):
            pairs = index[:, first] * size + index[:, second]
            matrix.index_add_(0, pairs, ones if mass is None else mass)
    return matrix.reshape(size, size)


def _sums(index: Tensor, x: Tensor, old: Tensor) -> Tensor:
    total = torch.zeros_like(old)
    for stage in range(index.shape[1]):
        total.index_add_(0, index[:, stage], x)
    return total


def _solve(normal: Tensor, right: Tensor, old: Tensor) -> Tensor:
    damped = normal + PRIOR * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    factor = torch.linalg.cholesky(damped)
    return torch.cholesky_solve(right + PRIOR * old, factor).float()


def refill(x: Tensor, codes: Tensor, tables: Tensor) -> Tensor:
    """Tables where an entry that no code names completes the sum of a badly reproduced point."""
    left = x - sum_of(tables, codes)
    worst = left.square().sum(1).argsort(descending=True)
    result, taken = tables.clone(), 0
    for stage in range(tables.shape[0]):
        used = torch.bincount(codes[:, stage].long(), minlength=tables.shape[1])
        empty = (used == 0).nonzero()[:, 0]
        points = worst[taken : taken + len(empty)]
        own = tables[stage][codes[points, stage].long()]
        result[stage, empty[: len(points)]] = left[points] + own
        taken += len(points)
    return result


def normal_form(tables: Tensor, codes: Tensor) -> Tensor:
    """The same sums with one choice of gauge: means in the first table, tables in falling order of energy.

    Any vector may move from one table to another without a change of the sums. With all means in the first table
    a prefix of the stages is the best constant guess of the rest.
    """
    stages, entries, dim = tables.shape
    used = torch.stack([torch.bincount(c.long(), minlength=entries) for c in codes.t()]).double()
    mean = (used[..., None] * tables.double()).sum(1, keepdim=True) / used.sum(1)[:, None, None]
    centred = tables.double() - mean
    energy = (used[..., None] * centred.square()).sum((1, 2))
    centred = centred[energy.argsort(descending=True)]
    centred[0] += mean.sum(0)
    return centred.float().reshape(stages, entries, dim)
