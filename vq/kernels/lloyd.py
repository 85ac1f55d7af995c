"""Sums over the cells of codewords: what one step of Lloyd's algorithm needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vq.kernels import dispatch
from vq.kernels.search import nearest

_NATIVE_ROWS = 64  # of a codeword in the compiled search
_BLOCK = 1 << 16  # points between two accumulations; the compiled kernel's too
_SUM_BLOCK = 4096  # points of one partial sum of distances


@dataclass(frozen=True)
class CellSums:
    """Sums over the points nearest to each codeword, in float64.

    Attributes:
        total: ``(problems, entries, dim)``, of weight times point.
        mass: ``(problems, entries, dim or 1)``, of weights.
        error: ``(problems, entries)``, of weighted squared distances.
        members: ``(problems, entries)`` int64, number of points.
        reach: ``(problems, entries)``, largest weighted squared distance; -1 for an empty cell.
        farthest: ``(problems, entries)`` int64, the first point that has it.
    """

    total: Tensor
    mass: Tensor
    error: Tensor
    members: Tensor
    reach: Tensor
    farthest: Tensor


def cell_sums(
    x: Tensor, table: Tensor, weight: Tensor | None = None, penalty: Tensor | None = None
) -> CellSums:
    """Assign points to codewords and sum over the cells, for independent problems at once.

    The same bits for any number of threads. Extra memory: the sums, and 256 KiB a thread.

    Args:
        x: ``(problems, n, dim)`` float32.
        table: ``(problems, entries, dim)`` float32.
        weight: ``(problems, n, dim)`` or ``(problems, n, 1)``, not negative, or None.
        penalty: ``(problems, entries)``, added to the cost of a codeword, or None.

    Raises:
        ValueError: for shapes that do not fit.
    """
    if x.ndim != 3 or table.ndim != 3 or x.shape[::2] != table.shape[::2] or not table.shape[1]:
        raise ValueError(
            "cell_sums: expected x (problems, n, dim) and table (problems, entries, dim), "
            f"got {tuple(x.shape)} and {tuple(table.shape)}"
        )
    allowed = (x.shape, (*x.shape[:2], 1))
    if weight is not None and weight.shape not in allowed:
        raise ValueError(
            f"cell_sums: expected weight {allowed[0]} or {allowed[1]}, got {weight.shape}"
        )
    tensors = [None if t is None else t.float().contiguous() for t in (x, table, weight, penalty)]
    return CellSums(*_step(*tensors))


def _reference(
    x: Tensor, table: Tensor, weight: Tensor | None, penalty: Tensor | None
) -> tuple[Tensor, ...]:
    sums = _empty(x, table, weight)
    for problem in range(len(x)):
        for start in range(0, x.shape[1], _BLOCK):
            part = (problem, slice(start, start + _BLOCK))
            own = None if weight is None else weight[part]
            cost = None if penalty is None else penalty[problem]
            codes = nearest(x[part], table[problem], own, cost).long()
            _add(sums, problem, x[part], own, codes, table[problem], start)
    return sums


def _add(
    sums: tuple[Tensor, ...],
    problem: int,
    x: Tensor,
    weight: Tensor | None,
    codes: Tensor,
    table: Tensor,
    start: int,
) -> None:
    total, mass, error, members, reach, farthest = (tensor[problem] for tensor in sums)
    x = x.double()
    full = torch.ones_like(x[:, :1]) if weight is None else weight.double()
    total.index_add_(0, codes, full * x)
    mass.index_add_(0, codes, full)
    own = (full * (x - table[codes].double()).square()).sum(1)
    error.index_add_(0, codes, own)
    members += torch.bincount(codes, minlength=len(table))
    found = torch.full_like(reach, -1.0).scatter_reduce_(0, codes, own, "amax")
    first = torch.full_like(farthest, len(x))
    peaks = (own == found[codes]).nonzero()[:, 0]
    first.scatter_reduce_(0, codes[peaks], peaks, "amin")
    farthest.copy_(torch.where(found > reach, first + start, farthest))
    reach.copy_(torch.maximum(found, reach))


def _empty(x: Tensor, table: Tensor, weight: Tensor | None) -> tuple[Tensor, ...]:
    problems, entries, dim = table.shape
    masses = 1 if weight is None else weight.shape[2]
    shapes = ((problems, entries, dim), (problems, entries, masses), (problems, entries))
    sums = [x.new_zeros(shape, dtype=torch.float64) for shape in shapes]
    counts = [x.new_zeros((problems, entries), dtype=torch.int64) for _ in range(2)]
    return (*sums, counts[0], torch.full_like(sums[2], -1.0), counts[1])


def _cpu(
    x: Tensor, table: Tensor, weight: Tensor | None, penalty: Tensor | None
) -> tuple[Tensor, ...]:
    native = dispatch.native()
    assert native is not None
    problems, count, dim = x.shape
    weights = 0 if weight is None else weight.shape[2]
    rows = dim if weights in (0, 1) and penalty is None else 2 * dim
    sums = _empty(x, table, weight)
    codes = None
    if rows > _NATIVE_ROWS:
        codes = torch.empty(problems, count, dtype=torch.int32)
        for p in range(problems):
            own = None if weight is None else weight[p]
            codes[p] = nearest(x[p], table[p], own, None if penalty is None else penalty[p])
    optional = [0 if t is None else t.data_ptr() for t in (weight, penalty, codes)]
    native.lloyd_step(
        x.data_ptr(),
        table.data_ptr(),
        *optional,
        problems,
        count,
        dim,
        table.shape[1],
        weights,
        *(tensor.data_ptr() for tensor in sums),  # in the order of CellSums
        dispatch.threads(),
    )
    return sums


def _fake(
    x: Tensor, table: Tensor, weight: Tensor | None, penalty: Tensor | None
) -> tuple[Tensor, ...]:
    return _empty(x, table, weight)


_step = dispatch.declare(
    "cell_sums(Tensor x, Tensor table, Tensor? weight, Tensor? penalty)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
)


def lower_distances(
    x: Tensor, weight: Tensor | None, centre: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor]:
    """Distances to the nearest of the centres so far, one more centre counted; the inner step of k-means++.

    Args:
        x: ``(n, dim)`` float32.
        weight: ``(n, dim)`` or ``(n, 1)``, or None.
        centre: ``(dim,)``.
        distances: ``(n,)`` float32, weighted squared distances before.

    Returns:
        Distances after, and their float64 sums over blocks of 4096 points.
    """
    return _lower(x, weight, centre, distances)


def _lower_reference(
    x: Tensor, weight: Tensor | None, centre: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor]:
    off = (x - centre).square()
    found = torch.minimum(distances, (off if weight is None else off * weight).sum(1))
    padded = torch.nn.functional.pad(found.double(), (0, -len(found) % _SUM_BLOCK))
    return found, padded.reshape(-1, _SUM_BLOCK).sum(1)


def _lower_cpu(
    x: Tensor, weight: Tensor | None, centre: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor]:
    native = dispatch.native()
    assert native is not None
    x, centre, found = x.contiguous(), centre.contiguous(), distances.clone()
    weight = None if weight is None else weight.contiguous()
    sums = torch.zeros(-(-len(x) // _SUM_BLOCK), dtype=torch.float64)
    native.lower_distances(
        x.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        *x.shape,
        0 if weight is None else weight.shape[1],
        centre.data_ptr(),
        found.data_ptr(),
        sums.data_ptr(),
        dispatch.threads(),
    )
    return found, sums


def _lower_fake(
    x: Tensor, weight: Tensor | None, centre: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor]:
    sums = x.new_empty(-(-x.shape[0] // _SUM_BLOCK), dtype=torch.float64)
    return torch.empty_like(distances), sums


_lower = dispatch.declare(
    "lower_distances(Tensor x, Tensor? weight, Tensor centre, Tensor distances) -> (Tensor, Tensor)",
    fake=_lower_fake,
    reference=_lower_reference,
    cpu=_lower_cpu,
)
