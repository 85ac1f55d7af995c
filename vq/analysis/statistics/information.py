"""Mutual information of two streams of codes, less that of shuffled ones, with its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vq.analysis.statistics.estimators import Z95
from vq.analysis.statistics.intervals import chance_error, half_width

_SHUFFLES = 2


@dataclass(frozen=True, eq=False)
class Pointwise:
    """Two streams position by position, in bits, where both have a code.

    Attributes:
        first: surprise of the first's code, ``-log2 p``.
        second: of the second's.
        joint: of the pair.
        types: how many kinds of codes each has.
    """

    first: np.ndarray
    second: np.ndarray
    joint: np.ndarray
    types: tuple[int, int]

    @property
    def information(self) -> np.ndarray:
        """``log2 p(a, b) / p(a) p(b)``: its mean is the plug-in mutual information."""
        return self.first + self.second - self.joint


@dataclass(frozen=True)
class Information:
    """Mutual information of two streams.

    Attributes:
        value: less chance, bits.
        half: of the 95 % interval.
    """

    value: float
    half: float


def pointwise(a: np.ndarray, b: np.ndarray) -> Pointwise:
    """Surprises of two streams ``(n,)``; positions with -1 in either are left out."""
    kept = (a >= 0) & (b >= 0)
    first, second = (np.unique(x[kept], return_inverse=True)[1].reshape(-1) for x in (a, b))
    if not len(first):
        empty = np.zeros(0)
        return Pointwise(empty, empty, empty, (0, 0))
    types = int(first.max()) + 1, int(second.max()) + 1
    joint = first.astype(np.int64) * types[1] + second
    return Pointwise(surprise(first), surprise(second), surprise(joint), types)


def surprise(keys: np.ndarray) -> np.ndarray:
    """``-log2`` of the share of each position's key ``(n,)``; the mean is the plug-in entropy."""
    if not len(keys):
        return np.zeros(0)
    if np.issubdtype(keys.dtype, np.signedinteger) and int(keys.max()) < max(
        4 * len(keys), 1 << 16
    ):
        counts, where = np.bincount(keys), keys
    else:
        _, where, counts = np.unique(keys, return_inverse=True, return_counts=True)
    logs = math.log2(len(keys)) - np.log2(np.maximum(counts, 1))
    found: np.ndarray = logs[where.reshape(-1)]
    return found


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Plug-in mutual information in bits of two streams ``(n,)``; -1 in either counts nothing."""
    found = pointwise(a, b).information
    return max(float(found.mean()), 0.0) if len(found) else 0.0


def corrected(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> Information:
    """Mutual information less the mean of that with one stream shuffled: near 0 for independent streams.

    The interval has the sampling error of the mean over positions and that of what is taken off.
    """
    whole = pointwise(a, b)
    each = whole.information
    if not len(each):
        return Information(0.0, math.nan)
    chance = [mutual_information(a, generator.permutation(b)) for _ in range(_SHUFFLES)]
    value = max(float(each.mean()), 0.0) - float(np.mean(chance))
    noise = Z95 * chance_error(*whole.types, len(each)) * math.sqrt(1 + 1 / _SHUFFLES)
    return Information(value, math.hypot(half_width(each), noise))


def corrected_information(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> float:
    """Value of ``corrected``."""
    return corrected(a, b, generator).value
