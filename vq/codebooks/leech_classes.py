"""Classes of the points of the Leech lattice in a ball: which there are, and how many points each has.

A class holds the points of one shell, one weight of the Golay codeword and one multiset of magnitudes. Points are
integers times 1 / sqrt(8) in the coordinates of ``vq.kernels.golay``. Even points ``2 g + 4 k`` have magnitudes 2, 6,
10, ... on the codeword g and 0, 4, 8, ... off it; the signs off it are free, one sign on it follows from the sum. Odd
points ``2 g + 4 k + 1`` have any codeword and no free sign: the codeword says which residue modulo 4 each coordinate
has.

Reference:
    J. H. Conway, N. J. A. Sloane, "Sphere Packings, Lattices and Groups", chapter 4, section 11.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

WEIGHTS = {0: (0, 1), 8: (1, 759), 12: (760, 2576), 16: (3336, 759), 24: (4095, 1)}  # first, count
SYMBOLS = 7  # magnitudes of one kind: odd ones up to 13 occur in 13 shells


@dataclass(frozen=True)
class PointClass:
    """Points that differ by codeword, places and signs only.

    Attributes:
        shell: half the norm, ``sum v^2 / 16``.
        weight: of the codeword, or -1 for odd points.
        on: how often each of 2, 6, 10, ... (odd points: 1, 3, 5, ...) occurs on the codeword (odd: anywhere).
        off: how often each of 0, 4, 8, ... occurs off the codeword.
    """

    shell: int
    weight: int
    on: tuple[int, ...]
    off: tuple[int, ...]

    @property
    def signs(self) -> int:
        """Free sign bits."""
        if self.weight < 0:
            return 0
        return sum(self.off[1:]) + max(self.weight - 1, 0)

    @property
    def size(self) -> int:
        """Number of points."""
        words = 4096 if self.weight < 0 else WEIGHTS[self.weight][1]
        return words * arrangements(self.on) * arrangements(self.off) << self.signs


def arrangements(counts: tuple[int, ...]) -> int:
    """Orders of a multiset whose members occur so often."""
    return math.factorial(sum(counts)) // math.prod(math.factorial(c) for c in counts)


def _counts(values: list[int], places: int, energy: int) -> Iterator[tuple[int, ...]]:
    """Ways to fill ``places`` with values (ascending) whose squares add up to at most ``energy``."""
    if len(values) == 1:
        if places * values[0] ** 2 <= energy:
            yield (places,)
        return
    largest = values[-1]
    for count in range(min(places, energy // largest**2) + 1):
        for rest in _counts(values[:-1], places - count, energy - count * largest**2):
            yield (*rest, count)


@functools.cache
def classes(shells: int) -> tuple[PointClass, ...]:
    """All classes with a norm of at most ``2 * shells``, by shell."""
    energy, found = 16 * shells, []
    odd = [v for v in range(1, 15, 2) if v * v <= energy]
    for on in _counts(odd, 24, energy):
        total = sum(c * v * v for c, v in zip(on, odd, strict=True))
        changed = sum(c for c, v in zip(on, odd, strict=True) if v % 8 in (3, 5))
        if total % 16 == 0 and changed % 2 == 1:
            found.append(PointClass(total // 16, -1, _pad(on), _pad(())))
    for weight in WEIGHTS:
        found.extend(_even_classes(weight, energy))
    return tuple(sorted(found, key=lambda c: (c.shell, c.weight, c.on, c.off)))


def _even_classes(weight: int, energy: int) -> Iterator[PointClass]:
    twos, fours = [2, 6, 10, 14], [0, 4, 8, 12]
    for on in _counts(twos, weight, energy):
        used = sum(c * v * v for c, v in zip(on, twos, strict=True))
        for off in _counts(fours, 24 - weight, energy - used):
            total = used + sum(c * v * v for c, v in zip(off, fours, strict=True))
            if total % 16 == 0 and (weight or (off[1] + off[3]) % 2 == 0):
                yield PointClass(total // 16, weight, _pad(on), _pad(off))


def _pad(counts: tuple[int, ...]) -> tuple[int, ...]:
    return counts + (0,) * (SYMBOLS - len(counts))


def ball_size(shells: int) -> int:
    """Number of points with a norm of at most ``2 * shells``."""
    return sum(c.size for c in classes(shells))


def shells_for(bits: int) -> int:
    """Most whole shells that ``bits`` bits can number."""
    shells = 0
    while ball_size(shells + 1) <= 1 << bits:
        shells += 1
    return shells
