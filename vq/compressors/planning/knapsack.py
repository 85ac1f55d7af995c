"""Choosing one option for each matrix under a budget of bytes: the multiple-choice knapsack, solved exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vq.errors import VqError

_MAX_UNITS = 1 << 21  # sums of bytes that are told apart before sizes are rounded up


@dataclass(frozen=True)
class Option:
    """One way to store an item.

    Attributes:
        name: what it is called.
        size: bytes.
        loss: what it costs in quality; losses of items add up.
    """

    name: str
    size: int
    loss: float


@dataclass(frozen=True)
class Choice:
    """The best choice for all items.

    Attributes:
        picks: index of each item's option.
        size: bytes of all of them.
        loss: sum of their losses.
        exact: False where sizes had to be rounded up to keep the table small; the budget holds all the same.
    """

    picks: tuple[int, ...]
    size: int
    loss: float
    exact: bool


def choose(items: Sequence[Sequence[Option]], budget: int) -> Choice:
    """Least loss within a budget: dynamic programming over bytes.

    The smallest size of each item is spent in any case; what is left is counted in units of the greatest common divisor
    of all further bytes, so that nothing is lost by it.

    Args:
        items: the options of each.
        budget: bytes for all.

    Raises:
        VqError: if even the smallest options do not fit; the message names the smallest budget.

    Reference:
        H. Kellerer, U. Pferschy and D. Pisinger, "Knapsack Problems", 2004, section 11.5.
    """
    if any(not options for options in items):
        raise VqError("plan: every matrix needs at least one codebook to choose from")
    floor = [min(option.size for option in options) for options in items]
    if sum(floor) > budget:
        raise VqError(
            f"no plan fits {budget} bytes: the smallest possible takes {sum(floor)} bytes; "
            "allow more, or offer codebooks of lower rates"
        )
    extra = [[o.size - low for o in options] for options, low in zip(items, floor, strict=True)]
    room = min(budget - sum(floor), sum(max(sizes) for sizes in extra))
    unit = math.gcd(*(size for sizes in extra for size in sizes)) or 1
    exact = room // unit <= _MAX_UNITS
    if not exact:
        unit = -(-room // _MAX_UNITS)
    picks = _solve(items, [[-(-s // unit) for s in sizes] for sizes in extra], room // unit)
    chosen = [options[i] for options, i in zip(items, picks, strict=True)]
    return Choice(picks, sum(o.size for o in chosen), math.fsum(o.loss for o in chosen), exact)


def _solve(
    items: Sequence[Sequence[Option]], units: Sequence[Sequence[int]], room: int
) -> tuple[int, ...]:
    """Best option of each item where ``units`` of them are spent of ``room``."""
    best = np.zeros(room + 1)
    taken: list[NDArray[np.int16]] = []
    for options, sizes in zip(items, units, strict=True):
        now = np.full(room + 1, np.inf)
        pick = np.zeros(room + 1, dtype=np.int16)
        for index, (option, size) in enumerate(zip(options, sizes, strict=True)):
            if size > room:
                continue
            candidate = best[: room + 1 - size] + option.loss
            better = candidate < now[size:]
            now[size:][better] = candidate[better]
            pick[size:][better] = index
        best = now
        taken.append(pick)
    picks, left = [], room
    for pick, sizes in zip(reversed(taken), reversed(units), strict=True):
        picks.append(int(pick[left]))
        left -= sizes[picks[-1]]
    return tuple(reversed(picks))
