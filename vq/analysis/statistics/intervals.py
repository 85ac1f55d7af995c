"""Intervals of 95 %: of means, medians, spreads and ratios, and of whatever is nearly linear in its observations.

The delta method: a statistic's standard error is the standard deviation of its *influence*, by how much one observation
moves it, over the square root of N.

Reference:
    F. Hampel, "The influence curve and its role in robust estimation" (1974); L. Paninski, "Estimation of entropy and
    mutual information" (2003), section 4.
"""

from __future__ import annotations

import math

import numpy as np

from vq.analysis.statistics.estimators import LOG2, Z95

Interval = tuple[float, float]


def around(
    value: float, half: float, low: float = -math.inf, high: float = math.inf
) -> Interval | None:
    """``value`` plus and minus ``half``, within what the value can be; None where the half is not a number."""
    if not (math.isfinite(value) and math.isfinite(half)):
        return None
    return min(max(value - half, low), value), max(min(value + half, high), value)


def half_width(influence: np.ndarray) -> float:
    """Half of the interval of a statistic with these influences ``(n,)``, one an observation."""
    n = len(influence)
    return Z95 * float(np.std(influence, ddof=1)) / math.sqrt(n) if n > 1 else math.nan


def of_median(values: np.ndarray) -> Interval | None:
    """Interval of a median by ranks, whatever the distribution; None for fewer than six values.

    Reference:
        W. Conover, "Practical nonparametric statistics" (1999), section 3.2.
    """
    n = len(values)
    if n < 6:
        return None
    order = np.sort(values)
    half = Z95 * math.sqrt(n) / 2
    low, high = math.floor(n / 2 - half), math.ceil(n / 2 + half)
    return float(order[max(low, 0)]), float(order[min(high, n - 1)])


def of_deviation(values: np.ndarray) -> float:
    """Half of the interval of a standard deviation."""
    centred = values - values.mean()
    deviation = float(np.std(values))
    return half_width(centred**2 / (2 * deviation)) if deviation > 0 else 0.0


def of_variation(values: np.ndarray) -> float:
    """Half of the interval of standard deviation over mean."""
    mean, deviation = float(values.mean()), float(np.std(values))
    if mean == 0 or deviation == 0:
        return 0.0
    centred = values - mean
    return half_width(centred**2 / (2 * deviation * mean) - deviation * centred / mean**2)


def of_ratio(top: np.ndarray, bottom: np.ndarray) -> float:
    """Half of the interval of the ratio of two means over the same observations."""
    below = float(bottom.mean())
    if below == 0:
        return math.nan
    return half_width((top - float(top.mean()) / below * bottom) / below)


def of_decibels(first: np.ndarray, second: np.ndarray) -> float:
    """Half of the interval, in dB, of the ratio of two mean squared errors over the same vectors."""
    a, b = float(first.mean()), float(second.mean())
    if a <= 0 or b <= 0:
        return math.nan
    return 10 / math.log(10) * half_width(first / a - second / b)


def chance_error(a: int, b: int, n: int) -> float:
    """Standard deviation in bits of the plug-in information of two streams that know nothing of each other.

    ``2 n ln 2`` times it is chi-square with (a - 1)(b - 1) degrees of freedom; no more than n can be told apart.

    Args:
        a: types of the first.
        b: types of the second.
        n: positions.
    """
    degrees = min((a - 1) * (b - 1), n)
    return math.sqrt(2 * degrees) / (2 * n * LOG2) if n else 0.0
