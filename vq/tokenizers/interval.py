"""Means over files with their confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t, 97.5 %, for 1 to 10 degrees of freedom; above, an expansion around the normal quantile.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_Z = 1.959964


@dataclass(frozen=True)
class Interval:
    """A mean over files with its 95 % confidence interval (Student's t).

    Attributes:
        mean: over the files.
        low: lower end; equal to the mean for a single file, which says nothing about others.
        high: upper end.
        files: how many.
    """

    mean: float
    low: float
    high: float
    files: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """The interval of a value for each file.

        Raises:
            ValueError: for no values.
        """
        n = len(values)
        if not n:
            raise ValueError("interval: expected at least one file")
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, mean, mean, 1)
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
        half = student_t(n - 1) * deviation / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)


def student_t(freedom: int) -> float:
    """97.5 % quantile of Student's t.

    Reference:
        M. Abramowitz, I. Stegun, "Handbook of mathematical functions" (1964), equation 26.7.5.
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    first = (_Z**3 + _Z) / 4
    second = (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    third = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    return _Z + first / freedom + second / freedom**2 + third / freedom**3
