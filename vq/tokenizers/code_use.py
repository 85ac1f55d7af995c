"""How often codes are used: utilization with its ceiling, perplexity, entropy in bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LARGE = 1 << 20  # entries


@dataclass(frozen=True)
class CodeUse:
    """Use of one code of a position, over all tokens counted.

    Attributes:
        entries: K, values the code can take.
        tokens: N, how many were counted; -1 (nothing) is not.
        used: how many of the K values occurred.
        entropy: of the values, in bits; an estimate from N tokens, too low where N is not many times K.
    """

    entries: int
    tokens: int
    used: int
    entropy: float

    @property
    def utilization(self) -> float:
        """Share of the values that occurred; says nothing without N/K and the ceiling."""
        return self.used / self.entries

    @property
    def tokens_per_entry(self) -> float:
        """N/K."""
        return self.tokens / self.entries

    @property
    def ceiling(self) -> float:
        """Utilization that N tokens of perfectly even use are expected to show, ``1 - exp(-N/K)``."""
        return -math.expm1(-self.tokens / self.entries)

    @property
    def perplexity(self) -> float:
        """``2^entropy``: as many values used evenly have the same entropy; at most K."""
        return 2.0**self.entropy

    @property
    def nominal(self) -> float:
        """``log2 K``, in bits."""
        return math.log2(self.entries)


class CodeCounts:
    """Counts every value of every code, over any number of signals.

    Args:
        entries: values of each of the Q codes of a position.
    """

    def __init__(self, entries: Sequence[int]) -> None:
        self.entries = tuple(entries)
        # Large tables as pairs of a value and its count: only what occurs takes memory.
        self._large = [k > _LARGE for k in self.entries]
        self._counts = [
            torch.zeros(0 if large else k, dtype=torch.int64)
            for k, large in zip(self.entries, self._large, strict=True)
        ]
        self._values = [torch.zeros(0, dtype=torch.int64) for _ in self.entries]

    def add(self, codes: Tensor) -> None:
        """Count codes ``(Q, *positions)``; -1 counts nothing.

        Raises:
            ValueError: for another number of codes, or values out of range.
        """
        if codes.shape[0] != len(self.entries):
            raise ValueError(f"expected {len(self.entries)} codes a position, got {codes.shape[0]}")
        for q, row in enumerate(codes.flatten(1)):
            valid = row[row >= 0].cpu()
            if valid.numel() and int(valid.max()) >= self.entries[q]:
                raise ValueError(f"code {int(valid.max())} is not below {self.entries[q]} entries")
            if self._large[q]:
                self._merge(q, valid)
            else:
                self._counts[q].add_(torch.bincount(valid, minlength=self.entries[q]))

    def _merge(self, q: int, valid: Tensor) -> None:
        fresh, times = valid.unique(return_counts=True)
        values, place = torch.cat([self._values[q], fresh]).unique(return_inverse=True)
        counts = torch.cat([self._counts[q], times])
        self._values[q] = values
        self._counts[q] = torch.zeros_like(values).index_add_(0, place, counts)

    def use(self) -> list[CodeUse]:
        """Use of each code so far."""
        found = []
        for entries, counts in zip(self.entries, self._counts, strict=True):
            total = int(counts.sum())
            share = counts.double() / max(total, 1)
            entropy = float(-torch.special.xlogy(share, share).sum()) / math.log(2)
            found.append(CodeUse(entries, total, int((counts > 0).sum()), max(entropy, 0.0)))
        return found
