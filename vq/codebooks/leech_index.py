"""Numbers for the points of the Leech lattice in a ball: shells, classes, and a rank within a class.

Points are integers times 1 / sqrt(8) in the coordinates of ``vq.kernels.golay``. A class holds the points of one shell,
one weight of the Golay codeword and one multiset of magnitudes. Within it a point is numbered by its codeword, the
places of its magnitudes and its free signs, in mixed radix.

Even points ``2 g + 4 k`` have magnitudes 2, 6, 10, ... on the codeword g and 0, 4, 8, ... off it; the signs off it are
free, one sign on it follows from the sum. Odd points ``2 g + 4 k + 1`` have any codeword and no free sign: the
codeword says which residue modulo 4 each coordinate has.

Reference:
    J. H. Conway, N. J. A. Sloane, "Sphere Packings, Lattices and Groups", chapter 4, section 11 (shells and their
    sizes); T. M. Cover, "Enumerative source encoding", IEEE Trans. Inf. Theory 19 (1973).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vq.kernels.golay import codewords

WEIGHTS = {0: (0, 1), 8: (1, 759), 12: (760, 2576), 16: (3336, 759), 24: (4095, 1)}  # first, count
SYMBOLS = 7  # magnitudes of one kind: the largest is 14, beyond what 60 bits can number


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
        return words * _arrangements(self.on) * _arrangements(self.off) << self.signs


def _arrangements(counts: tuple[int, ...]) -> int:
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


def _binomials() -> Tensor:
    return torch.tensor([[math.comb(n, k) for k in range(26)] for n in range(26)])


class LeechIndex:
    """Numbers of the points with a norm of at most ``2 * shells``, in 64-bit integers.

    Args:
        shells: at most 24.
    """

    def __init__(self, shells: int) -> None:
        all_classes = classes(shells)
        self.shells, self.size = shells, ball_size(shells)
        self.counts = torch.tensor([[c.on, c.off] for c in all_classes])
        self.weight = torch.tensor([c.weight for c in all_classes])
        self.signs = torch.tensor([c.signs for c in all_classes])
        ends = torch.tensor([c.size for c in all_classes]).cumsum(0)
        self.first = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        self.ways = torch.tensor([[_arrangements(c.on), _arrangements(c.off)] for c in all_classes])
        keys = self._keys(self.weight, self.counts)
        self.keys, self.order = keys.sort()
        self.words = torch.from_numpy(codewords()).long()
        numbers = self.words @ (1 << torch.arange(24))
        self.word_keys, self.word_order = numbers.sort()
        self.word_first = torch.tensor([WEIGHTS[w][0] if w in WEIGHTS else 0 for w in range(25)])
        self.binomials = _binomials()

    @staticmethod
    def _keys(weight: Tensor, counts: Tensor) -> Tensor:
        """One integer for the weight and the counts ``(n, 2, SYMBOLS)`` of a class."""
        key = (weight + 1) // 4
        for column in (*counts[:, 0, 1:].unbind(1), *counts[:, 1, 1:4].unbind(1)):
            key = key * 25 + column
        return key

    def rank(self, points: Tensor) -> Tensor:
        """Numbers int64 ``(n,)`` of integer points ``(n, 24)`` of the ball."""
        odd = points[:, :1] & 1
        word = ((points - odd) >> 1) & 1
        at = self.word_order[torch.searchsorted(self.word_keys, word @ (1 << torch.arange(24)))]
        on = torch.where(odd == 1, 1, word)
        size = points.abs()
        symbol = torch.where(odd == 1, size >> 1, size >> 2)
        counts = torch.stack([_histogram(symbol, on), _histogram(symbol, 1 - on)], 1)
        weight = torch.where(odd[:, 0] == 1, -1, word.sum(1))
        own = self.order[torch.searchsorted(self.keys, self._keys(weight, counts))]
        number = torch.where(weight < 0, at, at - self.word_first[weight])
        for group, member in enumerate((on, 1 - on)):
            number = number * self.ways[own, group] + self._rank_places(
                symbol, member, counts[:, group]
            )
        free = self._free_signs(odd, on, symbol)
        bits = ((points < 0).long() & free) << (free.cumsum(1) - free)
        return self.first[own] + (number << self.signs[own]) + bits.sum(1)

    def unrank(self, numbers: Tensor) -> Tensor:
        """Inverse of ``rank``: int64 ``(n, 24)``."""
        own = torch.searchsorted(self.first, numbers, right=True) - 1
        rest = numbers - self.first[own]
        bits = rest & ((1 << self.signs[own]) - 1)
        rest, weight = rest >> self.signs[own], self.weight[own]
        ranks = []
        for group in (1, 0):
            ranks.append(rest % self.ways[own, group])
            rest = rest // self.ways[own, group]
        word = self.words[torch.where(weight < 0, rest, rest + self.word_first[weight])]
        odd = (weight < 0).long()[:, None]
        on = torch.where(odd == 1, 1, word)
        counts = self.counts[own]
        symbol = self._places(ranks[1], on, counts[:, 0], SYMBOLS)
        symbol = symbol + self._places(ranks[0], 1 - on, counts[:, 1], 4)
        return self._signed(odd, word, on, symbol, bits)

    @staticmethod
    def _free_signs(odd: Tensor, on: Tensor, symbol: Tensor) -> Tensor:
        """1 where a coordinate of an even point has a free sign: not zero, not the first of the codeword."""
        first = (on == 1) & (on.cumsum(1) == 1)
        zero = (on == 0) & (symbol == 0)
        return (~first & ~zero & (odd == 0)).long()

    def _signed(
        self, odd: Tensor, word: Tensor, on: Tensor, symbol: Tensor, bits: Tensor
    ) -> Tensor:
        """Points from magnitudes and sign bits."""
        size = torch.where(odd == 1, 2 * symbol + 1, 4 * symbol + 2 * on)
        free = self._free_signs(odd, on, symbol)
        negative = (bits[:, None] >> (free.cumsum(1) - free)) & free
        wanted = (size.sum(1, keepdim=True) >> 2) & 1
        parity = ((negative & on).sum(1, keepdim=True) + wanted) & 1
        first = ((on == 1) & (on.cumsum(1) == 1)).long()
        even_sign = negative | (first & parity)
        odd_sign = word ^ (
            symbol & 1
        )  # magnitudes 1, 5, 9: negative on the codeword; 3, 7, 11: off it
        return torch.where(torch.where(odd == 1, odd_sign, even_sign) == 1, -size, size)

    def _rank_places(self, symbol: Tensor, member: Tensor, counts: Tensor) -> Tensor:
        """Rank of the places of symbols among the members, largest symbol first."""
        total = torch.zeros_like(counts[:, 0])
        left = member
        for s in range(SYMBOLS - 1, 0, -1):
            if not bool(counts[:, s].any()):
                continue
            here = left * (symbol == s)
            slot, which = left.cumsum(1) - left, here.cumsum(1)
            rank = (self.binomials[slot, which] * here).sum(1)
            total = total * self.binomials[left.sum(1), counts[:, s]] + rank
            left = left - here
        return total

    def _places(self, rank: Tensor, member: Tensor, counts: Tensor, symbols: int) -> Tensor:
        """Inverse of ``_rank_places``: symbols at the members, 0 elsewhere."""
        used = [s for s in range(1, symbols) if bool(counts[:, s].any())]
        size, ranks = member.sum(1), {}
        remaining = {s: size - counts[:, s + 1 :].sum(1) for s in used}
        for s in used:
            ways = self.binomials[remaining[s], counts[:, s]]
            ranks[s], rank = rank % ways, rank // ways
        symbol, left = torch.zeros_like(member), member.clone()
        for s in reversed(used):
            slot, need, value = remaining[s], counts[:, s].clone(), ranks[s]
            for place in range(23, -1, -1):
                slot = slot - left[:, place]
                ways = self.binomials[slot, need]
                take = (left[:, place] == 1) & (need > 0) & (value >= ways)
                value = torch.where(take, value - ways, value)
                need = need - take.long()
                symbol[:, place] += s * take
                left[:, place] -= take.long()
        return symbol


def _histogram(symbol: Tensor, member: Tensor) -> Tensor:
    """How often each symbol occurs among the members: ``(n, SYMBOLS)``."""
    zero = torch.zeros(len(symbol), SYMBOLS, dtype=torch.int64, device=symbol.device)
    return zero.scatter_add(1, symbol, member)


@functools.cache
def leech_index(shells: int) -> LeechIndex:
    """The numbering of a ball, made once."""
    return LeechIndex(shells)
