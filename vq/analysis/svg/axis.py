"""Scales: from values to pixels, with round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic axis.

    Attributes:
        low: value at ``start``.
        high: value at ``end``; above ``low``.
        start: pixel.
        end: pixel.
        log: whether equal ratios take equal room; ``low`` is positive then.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        assert self.high > self.low, (self.low, self.high)
        assert not self.log or self.low > 0, self.low

    def __call__(self, value: float) -> float:
        """Pixel of a value; of one outside, the pixel of the nearer end."""
        inside = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(inside / self.low) / math.log(self.high / self.low)
        else:
            part = (inside - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies on the axis."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 7) -> list[float]:
        """Round values on the axis, at most about ``most``."""
        if self.log and self.high / self.low >= 20:
            return self._powers(most)
        step = _round_step((self.high - self.low) / max(most - 1, 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]

    def _powers(self, most: int) -> list[float]:
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        every = max(math.ceil((last - first + 1) / most), 1)
        found = [10.0**i for i in range(first, last + 1, every)]
        if len(found) < 4:  # few powers of ten: 2 and 5 times them too
            near = [m * 10.0**i for i in range(first - 1, last + 1) for m in (1, 2, 5)]
            found = [v for v in near if self.holds(v)]
        return found


def _round_step(step: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def span(
    values: Iterable[float | None], *, log: bool = False, zero: bool = False, room: float = 0.05
) -> tuple[float, float]:
    """Ends of an axis that shows all values, with room at the ends.

    Args:
        values: those that are None or not finite (or not positive, on a logarithmic axis) are left out.
        log: for a logarithmic axis.
        zero: whether a straight axis begins (or ends) at 0.
        room: share of the length that stays free at each end.
    """
    kept = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not log)]
    if not kept:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(kept), max(kept)
    if log:
        stretch = (high / low) ** room if high > low else 2.0
        return low / stretch, high * stretch
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(high), abs(low)):  # all alike, up to rounding
        wide = abs(high) * 0.1 or 1.0
        return (0.0, high + wide) if zero and high > 0 else (low - wide, high + wide)
    free = (high - low) * room
    return (
        low if zero and low == 0 else low - free,
        high if zero and high == 0 else high + free,
    )
