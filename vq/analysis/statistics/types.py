"""Counts of types too many to list, in one pass and bounded memory.

All types are counted exactly while they fit. Beyond, a fixed random subset of the types is (those whose hash ends in
zeros: exact counts of each, whatever the length of the stream), and frequent types are counted apart, so that sums over
types can be estimated with a known error.

Reference:
    P. Gibbons, "Distinct sampling for highly-accurate answers to distinct values queries" (2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vq.analysis.statistics.estimators import Spectrum

MOST_TYPES = 1 << 22
_BUFFER = 1 << 23  # keys that are sorted at once
_HEAVY = 2.0**-15  # share of the tokens from which a type counts as frequent
_PROBE, _SEEN = 16, 8  # every 16th key is looked at; 8 times in a buffer is frequent
_MAP_BITS = 18
_RARE = 8  # times


@dataclass(frozen=True, eq=False)
class TypeCounts:
    """What a counter found.

    Attributes:
        spectrum: of the types; weights above 1 where types were sampled.
        share: of the types that were followed; 1 where all counts are exact.
        sampling_error: standard error in bits that sampling types adds to a plug-in entropy.
        keys: of the types listed, the most frequent first; all types where ``share`` is 1.
        counts: of these.
    """

    spectrum: Spectrum
    share: float
    sampling_error: float
    keys: np.ndarray
    counts: np.ndarray


class TypeCounter:
    """Counts types named by whole numbers.

    Args:
        wide: keys have up to 64 bits; else 32, which is faster.
        most: types that are followed at once.
    """

    def __init__(self, wide: bool = False, most: int = MOST_TYPES) -> None:
        self.dtype = np.dtype(np.uint64 if wide else np.uint32)
        self.most, self.n, self._level = most, 0, 0
        self._table = _Table(self.dtype)
        self._heavy = _Table(self.dtype)
        self._waiting: list[np.ndarray] = []
        self._size = 0

    def add(self, keys: np.ndarray) -> None:
        """Count keys ``(n,)``."""
        keys = keys.astype(self.dtype, copy=False)
        self.n += len(keys)
        self._waiting.append(keys)
        self._size += len(keys)
        if self._size >= _BUFFER:
            self._flush()

    def _sift(self, keys: np.ndarray) -> np.ndarray:
        """Keys of the types followed; frequent others are counted here."""
        sampled = (_hash(keys) & np.uint32((1 << self._level) - 1)) == 0
        others = keys[~sampled]
        probe, seen = _runs(np.sort(others[::_PROBE]))
        found = (seen >= _SEEN) & (seen * _PROBE >= _HEAVY * len(keys))
        fresh = probe[found][~self._heavy.has(probe[found])]
        if len(self._heavy.keys) + len(fresh) < 4 / _HEAVY:
            self._heavy.merge(fresh, np.zeros(len(fresh), np.int64))
        maybe = others[self._heavy.bitmap()[_slot(others)]]
        names, times = _runs(np.sort(maybe))
        known = self._heavy.has(names)
        self._heavy.merge(names[known], times[known])
        return keys[sampled]

    def _flush(self) -> None:
        if not self._waiting:
            return
        keys = np.concatenate(self._waiting)
        self._waiting, self._size = [], 0
        if self._level:
            keys = self._sift(keys)
        self._table.merge(*_runs(np.sort(keys)))
        while len(self._table.keys) > self.most:
            self._level += 1
            mask = np.uint32((1 << self._level) - 1)
            kept = (_hash(self._table.keys) & mask) == 0
            often = ~kept & (self._table.counts >= max(_HEAVY / 4 * self.n, 8))
            self._heavy.merge(self._table.keys[often], self._table.counts[often])
            self._table.keep(kept)

    def result(self) -> TypeCounts:
        """Counts so far."""
        self._flush()
        table, heavy = self._table, self._heavy
        if not self._level:
            order = np.argsort(-table.counts, kind="stable")
            spectrum = Spectrum.of(table.counts)
            return TypeCounts(spectrum, 1.0, 0.0, table.keys[order], table.counts[order])
        bound = _HEAVY * self.n
        big_here, big_there = table.counts >= bound, heavy.counts >= bound
        big = np.concatenate([table.counts[big_here], heavy.counts[big_there]])
        keys = np.concatenate([table.keys[big_here], heavy.keys[big_there]])
        light = table.counts[~big_here].astype(np.float64)
        mass = max(self.n - float(big.sum()), 0.0)
        weights = np.concatenate([np.ones(len(big)), _weights(light, mass, 2.0**self._level)])
        spectrum = Spectrum.of(np.concatenate([big, light]), weights)
        error = _sampling_error(light, self.n, mass, 2.0**-self._level)
        order = np.argsort(-big, kind="stable")
        return TypeCounts(spectrum, 2.0**-self._level, error, keys[order], big[order])


class _Table:
    """Sorted keys and their counts."""

    def __init__(self, dtype: np.dtype) -> None:
        self.keys = np.zeros(0, dtype)
        self.counts = np.zeros(0, np.int64)
        self._map: np.ndarray | None = None

    def has(self, keys: np.ndarray) -> np.ndarray:
        """Which keys are in the table."""
        if not len(self.keys):
            return np.zeros(len(keys), bool)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return self.keys[place] == keys

    def merge(self, keys: np.ndarray, counts: np.ndarray) -> None:
        """Add counts of sorted, different keys."""
        known = self.has(keys)
        if known.any():
            self.counts[np.searchsorted(self.keys, keys[known])] += counts[known]
        fresh = keys[~known]
        if not len(fresh):
            return
        total = len(self.keys) + len(fresh)
        at = np.searchsorted(self.keys, fresh) + np.arange(len(fresh))
        old = np.ones(total, bool)
        old[at] = False
        merged, sums = np.empty(total, self.keys.dtype), np.empty(total, np.int64)
        merged[at], sums[at] = fresh, counts[~known]
        merged[old], sums[old] = self.keys, self.counts
        self.keys, self.counts, self._map = merged, sums, None

    def keep(self, kept: np.ndarray) -> None:
        """Forget the others."""
        self.keys, self.counts, self._map = self.keys[kept], self.counts[kept], None

    def bitmap(self) -> np.ndarray:
        """Which slots of a small map some key falls into: a quick first look."""
        if self._map is None:
            self._map = np.zeros(1 << _MAP_BITS, bool)
            self._map[_slot(self.keys)] = True
        return self._map


def _runs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different keys of a sorted array and how often each stands there."""
    if not len(keys):
        return keys, np.zeros(0, np.int64)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    return keys[first], np.diff(first, append=len(keys))


def _hash(keys: np.ndarray) -> np.ndarray:
    """32 mixed bits of each key (the finaliser of MurmurHash3)."""
    if keys.dtype == np.uint64:
        keys = (keys ^ (keys >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        keys = (keys >> np.uint64(32)).astype(np.uint32)
    h = keys ^ (keys >> np.uint32(16))
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def _slot(keys: np.ndarray) -> np.ndarray:
    return (keys * keys.dtype.type(0x9E3779B1)) >> keys.dtype.type(8 * keys.itemsize - _MAP_BITS)


def _weights(light: np.ndarray, mass: float, factor: float) -> np.ndarray:
    """How many types each sampled one stands for.

    The rare ones, of which there are many, for 1 over their share; the others so that all tokens are accounted for.
    """
    weights = np.full(len(light), factor)
    rare = light <= _RARE
    rest, left = float(light[~rare].sum()), mass - factor * float(light[rare].sum())
    if rest > 0 and left > 0:
        weights[~rare] = left / rest
    elif len(light):
        weights[:] = mass / float(light.sum())
    return weights


def _sampling_error(light: np.ndarray, n: int, mass: float, share: float) -> float:
    """Standard error of a ratio estimate: mean surprise of the rare types, by mass, from a sample of them."""
    if not len(light) or mass <= 0:
        return 0.0
    surprise = -np.log2(light / n)
    mean = (light * surprise).sum() / light.sum()
    spread = (1 - share) * (light**2 * (surprise - mean) ** 2).sum() / light.sum() ** 2
    return float(math.sqrt(spread) * mass / n)
