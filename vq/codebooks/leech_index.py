"""Numbers for the points of the Leech lattice in a ball: a rank within a class of points.

Within its class a point is numbered by its codeword, the places of its magnitudes and its free signs, in mixed radix;
see ``vq.codebooks.leech_classes``.

Reference:
    T. M. Cover, "Enumerative source encoding", IEEE Trans. Inf. Theory 19 (1973).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from vq.codebooks.leech_classes import SYMBOLS, WEIGHTS, arrangements, ball_size, classes
from vq.kernels.golay import codewords


class LeechIndex:
    """Numbers of the points with a norm of at most ``2 * shells``, in 64-bit integers.

    Args:
        shells: at most 13, which 48 bits can number.
    """

    def __init__(self, shells: int) -> None:
        assert shells <= 13, "larger magnitudes than SYMBOLS covers"
        all_classes = classes(shells)
        self.shells, self.size = shells, ball_size(shells)
        self.counts = torch.tensor([[c.on, c.off] for c in all_classes])
        self.weight = torch.tensor([c.weight for c in all_classes])
        self.signs = torch.tensor([c.signs for c in all_classes])
        ends = torch.tensor([c.size for c in all_classes]).cumsum(0)
        self.first = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        self.ways = torch.tensor([[arrangements(c.on), arrangements(c.off)] for c in all_classes])
        keys = self._keys(self.weight, self.counts)
        self.keys, self.order = keys.sort()
        self.words = torch.from_numpy(codewords()).long()
        numbers = self.words @ (1 << torch.arange(24))
        self.word_keys, self.word_order = numbers.sort()
        self.word_first = torch.tensor([WEIGHTS[w][0] if w in WEIGHTS else 0 for w in range(25)])
        self.binomials = torch.tensor([[math.comb(n, k) for k in range(26)] for n in range(26)])

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
        # odd magnitudes 1, 5, 9, ... are negative on the codeword, 3, 7, 11, ... off it
        odd_sign = word ^ (symbol & 1)
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
