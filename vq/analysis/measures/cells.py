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
_CELLS, _RAYS = 64, 1024
_NEAR, _NEAR_WIDE = 1024, 4096  # entries that are looked at first, from 8 dimensions on the second
_FIRST = 32  # rays of a cell that are tried against all entries before the others are


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
    table = table - table.mean(0)
    lengths = table.square().sum(1)
    log_volume, log_moment, bounded = [], [], []
    for pick in picks.tolist():
        walls = _walls(table, lengths, pick, rays, generator)
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


def _walls(
    table: Tensor, lengths: Tensor, pick: int, rays: int, generator: torch.Generator
) -> Tensor | None:
    """Distances to the walls of one cell ``(rays,)``; None where it does not end, or hardly.

    Args:
        table: ``(entries, dim)``.
        lengths: squared lengths of its rows ``(entries,)``.
        pick: row of the cell.
        rays: how many.
        generator: of their directions.
    """
    centre = table[pick]
    rough = lengths - 2 * (table @ centre)  # squared distances less a constant, up to rounding
    rough[pick] = math.inf
    most = _NEAR if table.shape[1] < 8 else _NEAR_WIDE
    near = rough.topk(min(most, len(table) - 1), largest=False).indices
    inverse, squares = _inverse(table[near], centre)
    direction = torch.randn(rays // 2, table.shape[1], generator=generator)
    direction /= direction.norm(dim=1, keepdim=True)
    direction = torch.cat([direction, -direction])
    cuts = (direction @ inverse.T).amax(1)
    reach = float(squares.max().sqrt()) * (1 - 1e-3)
    beyond = cuts * reach < 2  # an entry farther away could cut it
    limit = _reach(table.shape[1]) * float(torch.where(cuts > 0, 1 / cuts, math.inf).median())
    if bool(beyond.any()) and len(near) < len(table) - 1:
        if reach / 2 > limit:  # the walls of those rays are farther than half the reach
            return None
        others = _inverse(torch.cat([table[:pick], table[pick + 1 :]]), centre)[0]
        rows = beyond.nonzero()[:, 0]
        for some in (rows[:_FIRST], rows[_FIRST:]):
            cuts[some] = (direction[some] @ others.T).amax(1) if len(some) else cuts[some]
            if bool((cuts[some] * limit < 1).any()):
                return None
    if not bool((cuts > 0).all()):
        return None
    walls = 1 / cuts
    return walls if float(walls.max()) <= _reach(table.shape[1]) * float(walls.median()) else None


def _inverse(entries: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """``2 (b - c) / |b - c|^2``: an entry cuts a ray u at 1 / (u . inverse); and the squared distances."""
    away = entries - centre
    squares = torch.einsum("nd,nd->n", away, away)
    return 2 * away / squares[:, None], squares


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
