"""Voronoi cells by rays: how large they are, and how well they are shaped."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

CUBE = 1 / 12
LATTICES = {
    "Z": (1, CUBE),
    "A2": (2, 5 / (36 * math.sqrt(3))),
    "D4": (4, 0.076603),
    "E8": (8, 0.071682),
    "Leech": (24, 0.065771),
}
"""Dimension and normalised second moment. J. Conway, N. Sloane, "Sphere packings, lattices and groups", table 2.3."""
MOST_DIM = 24
_CELLS, _RAYS, _NEAR = 64, 1024, 1024


@dataclass(frozen=True)
class Cells:
    """What rays from sampled entries found.

    Attributes:
        second_moment: median over the bounded cells; None where there is none.
        low: lower end of its 95 % interval, over cells.
        high: upper end.
        bounded: how many cells.
        sampled: of how many.
        spread: standard deviation of log2 volume over the bounded cells.
        picks: rows of the bounded cells.
        volumes: log2 of their volumes.
    """

    second_moment: float | None
    low: float | None
    high: float | None
    bounded: int
    sampled: int
    spread: float | None
    picks: tuple[int, ...] = ()
    volumes: tuple[float, ...] = ()


def ball_moment(dim: int) -> float:
    """Normalised second moment of a ball, ``Gamma(d/2 + 1)^(2/d) / ((d + 2) pi)``: no body has less."""
    return math.exp(2 / dim * math.lgamma(dim / 2 + 1)) / ((dim + 2) * math.pi)


def measure_cells(
    table: Tensor, generator: torch.Generator, cells: int = _CELLS, rays: int = _RAYS
) -> Cells:
    """Shoot rays from sampled entries to the walls of their cells.

    In direction u the wall of the cell of c is at ``t = min |b - c|^2 / 2 u.(b - c)`` over entries b ahead. Volume and
    second moment are surface integrals of ``t^d / d`` and ``t^(d+2) / (d+2)``.

    Args:
        table: ``(entries, dim)``, no two rows equal, dim at most ``MOST_DIM``.
        generator: of entries and directions.
        cells: entries that are looked at.
        rays: for each; antipodal pairs.
    """
    entries, dim = table.shape
    picks = torch.randperm(entries, generator=generator)[:cells]
    log_volume, log_moment, bounded = [], [], []
    for pick in picks.tolist():
        walls = _walls(table, pick, rays, generator)
        if walls is None:
            continue
        bounded.append(pick)
        log_t = walls.double().log()
        surface = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        log_volume.append(surface - math.log(dim) + _log_mean(dim * log_t))
        log_moment.append(surface - math.log(dim + 2) + _log_mean((dim + 2) * log_t))
    found = _summary(torch.tensor(log_volume), torch.tensor(log_moment), dim, len(picks))
    volumes = tuple(volume / math.log(2) for volume in log_volume)
    return replace(found, picks=tuple(bounded), volumes=volumes)


def _walls(table: Tensor, pick: int, rays: int, generator: torch.Generator) -> Tensor | None:
    """Distances to the walls of one cell ``(rays,)``; None where it does not end, or hardly."""
    away = table - table[pick]
    squares = away.square().sum(1)
    squares[pick] = math.inf
    inverse = 2 * away / squares[:, None]  # an entry cuts a ray u at 1 / (u . inverse)
    near = squares.topk(min(_NEAR, len(table) - 1), largest=False).indices
    direction = torch.randn(rays // 2, table.shape[1], generator=generator)
    direction /= direction.norm(dim=1, keepdim=True)
    direction = torch.cat([direction, -direction])
    cuts = (direction @ inverse[near].T).amax(1)
    beyond = cuts * squares[near].max().sqrt() < 2  # an entry farther away could cut it
    if bool(beyond.any()) and len(near) < len(table) - 1:
        cuts[beyond] = (direction[beyond] @ inverse.T).amax(1)
    if not bool((cuts > 0).all()):
        return None
    walls = 1 / cuts
    return walls if float(walls.max()) <= _reach(table.shape[1]) * float(walls.median()) else None


def _reach(dim: int) -> float:
    """How many times farther than the median wall the farthest one may be: cells at the border end far out, or not.

    The walls of E8's cell lie between 0.71 and 1 packing radii times the square root of 2, those of a long cell in the
    plane much farther apart.
    """
    return 4.0 if dim <= 4 else 2.0 if dim < 8 else 1.7


def _log_mean(values: Tensor) -> float:
    return float(torch.logsumexp(values, 0)) - math.log(len(values))


def _summary(volume: Tensor, moment: Tensor, dim: int, sampled: int) -> Cells:
    count = len(volume)
    if not count:
        return Cells(None, None, None, 0, sampled, None)
    # each cell by itself: cells of different size would otherwise look worse than they are shaped
    each = ((moment - (1 + 2 / dim) * volume).exp() / dim).sort().values
    rank = 0.98 * math.sqrt(count)  # binomial interval of a median
    low, high = max(int(count / 2 - rank), 0), min(math.ceil(count / 2 + rank), count - 1)
    spread = float((volume / math.log(2)).std()) if count > 1 else None
    middle = float(each[count // 2] + each[(count - 1) // 2]) / 2
    return Cells(middle, float(each[low]), float(each[high]), count, sampled, spread)
