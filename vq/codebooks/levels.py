"""Codebooks of one number: a sorted table of levels, nearest by boundaries; N(0, 1) in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from vq.codebooks.base import Codebook

_SQRT2 = math.sqrt(2)
_GOLDEN = (math.sqrt(5) - 1) / 2


class Levels(Codebook):
    """Base of the families whose vectors are single numbers.

    Subclasses call ``_install`` once, with ascending levels in units of N(0, 1).

    Attributes:
        levels: float32 ``(entries,)``, ascending.
    """

    levels: Tensor

    def _install(self, levels: Iterable[float]) -> None:
        """Keep ascending levels, and their distortion."""
        table = torch.tensor(list(levels), dtype=torch.float64)
        assert bool((table[1:] > table[:-1]).all()), f"{self.family}: levels must ascend"
        self._distortion = gaussian_mse(table)
        self.register_buffer("levels", table.float())

    @property
    def dim(self) -> int:
        """1."""
        return 1

    @property
    def entries(self) -> int:
        """Number of levels."""
        return int(self.levels.numel())

    @property
    def code_bits(self) -> int:
        """Bits of an index: ``ceil(log2(entries))``."""
        return (self.entries - 1).bit_length()

    @property
    def distortion(self) -> float:
        """Mean squared error on N(0, 1), in closed form."""
        return self._distortion

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Index of the nearest level, ascending; a boundary belongs to the lower one, what lies outside saturates.

        ``weight`` is checked and changes nothing: one number has one nearest level.

        Returns:
            ``(*batch,)`` int64 for x of shape ``(*batch, 1)``.

        Raises:
            ValueError: for a wrong shape or a number that is not finite.
        """
        self._check_vectors(x, weight)
        return self._nearest(x[..., 0])

    def decode(self, codes: Tensor) -> Tensor:
        """Levels ``(*batch, 1)`` float32."""
        return self.levels[codes.long()].unsqueeze(-1)

    def _nearest(self, x: Tensor) -> Tensor:
        """Indices of the nearest levels of numbers of any shape."""
        bounds = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.bucketize(x.float().contiguous(), bounds)


def check_whole(family: str, name: str, value: object, low: int, high: int) -> int:
    """``value``, if it is a whole number from ``low`` to ``high``.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(
            f"{family}: {name} must be a whole number from {low} to {high}, got {value!r}"
        )
    return value


def check_positive(family: str, name: str, value: object) -> float:
    """``value`` as a float, if it is a finite positive number.

    Raises:
        ValueError: otherwise.
    """
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{family}: {name} must be a positive number, got {value!r}")
    return float(value)  # type: ignore[arg-type]


def density(x: Tensor) -> Tensor:
    """Density of N(0, 1); 0 at infinity."""
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def midpoints(levels: Tensor) -> Tensor:
    """Edges of the cells of nearest points, with both infinities: float64 ``(entries + 1,)``."""
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    return torch.cat([-infinity, (levels[1:] + levels[:-1]) / 2, infinity])


def gaussian_cells(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Probability and mean of N(0, 1) in each cell.

    Args:
        edges: ascending float64 ``(cells + 1,)``, infinities allowed.

    Returns:
        Two float64 ``(cells,)``. A tail is computed from its own side, so that small masses keep their digits.
    """
    low, high = edges[:-1], edges[1:]
    flip = low >= 0
    upper = torch.where(flip, -low, high)
    lower = torch.where(flip, -high, low)
    mass = (torch.special.erfc(-upper / _SQRT2) - torch.special.erfc(-lower / _SQRT2)) / 2
    mean = (density(low) - density(high)) / mass.clamp_min(1e-300)
    middle = torch.where(torch.isfinite(low), low, high)
    return mass, torch.where(mass > 1e-280, mean, middle)


def gaussian_mse(levels: Tensor) -> float:
    """Mean squared error of the nearest of ascending float64 levels on N(0, 1).

    The second moment of a cell is ``mass + a phi(a) - b phi(b)`` for edges a and b.
    """
    mass, mean = gaussian_cells(midpoints(levels))
    return float(1 + (mass * levels * (levels - 2 * mean)).sum())


def lloyd(levels: Tensor, steps: int = 400) -> Tensor:
    """Lloyd's fixed point from ascending float64 levels, near enough to start from; see ``scalar`` for exact tables."""
    for _ in range(steps):
        levels = gaussian_cells(midpoints(levels))[1]
    return levels


def best_scale(shape: Tensor, low: float = 0.1, high: float = 20.0) -> float:
    """The factor that makes ascending levels best for N(0, 1), to six digits.

    A search over a logarithmic grid of the largest magnitude, then golden sections. Six digits make the table the
    same on every machine.

    Args:
        shape: ascending float64 levels.
        low: smallest magnitude of the outermost level tried.
        high: largest.
    """
    peak = float(shape.abs().max())
    grid = torch.logspace(math.log10(low), math.log10(high), 241, dtype=torch.float64) / peak
    return round_digits(
        minimise(lambda factor: gaussian_mse(factor * shape), [float(g) for g in grid])
    )


def minimise(function: Callable[[float], float], grid: list[float]) -> float:
    """Where a function of one number is least: the best of a grid, then golden sections around it."""
    values = [function(at) for at in grid]
    best = values.index(min(values))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    for _ in range(60):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def round_digits(value: float, digits: int = 6) -> float:
    """``value`` with so many significant digits."""
    return float(f"{value:.{digits - 1}e}")
