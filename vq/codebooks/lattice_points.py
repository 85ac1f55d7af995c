"""Lists of the shortest points of lattices and their cosets, in units of one half."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def _vectors(dim: int, odd: bool, energy: int) -> Ints:
    """All vectors of odd (or even) integers with squares adding up to at most ``energy``, lexicographically."""
    reach = int(energy**0.5)
    values = [v for v in range(-reach, reach + 1) if v % 2 == odd]
    found, left = np.zeros((1, 0), dtype=np.int64), np.array([energy])
    for d in range(dim):
        rest = (dim - d - 1) * int(odd)
        grown = left[:, None] - np.array(values) ** 2
        row, column = np.nonzero(grown >= rest)
        found = np.concatenate([found[row], np.array(values)[column][:, None]], 1)
        left = grown[row, column]
    return found


@functools.cache
def shortest(dim: int, even_sum: bool, entries: int) -> Ints:
    """The ``entries`` shortest points of ``Z^n + (1/2, ..., 1/2)`` or ``Dn + (1/2, ..., 1/2)``, doubled.

    They are ordered by norm, then lexicographically. Of the last shell, if it does not fit, as many points as fit are
    taken at even distances in that order, from both ends alike.

    Args:
        dim: length, at least 1.
        even_sum: whether the lattice is Dn (integers with an even sum).
        entries: how many.

    Returns:
        int64 ``(entries, dim)`` of odd integers.
    """
    energy = dim
    while True:
        points = _vectors(dim, True, energy)
        if even_sum:
            points = points[(points.sum(1) - dim) % 4 == 0]
        if len(points) >= entries:
            break
        energy += 8
    norm = (points**2).sum(1)
    points, norm = points[np.argsort(norm, kind="stable")], np.sort(norm)
    edge = norm[entries - 1]
    inside, shell = points[norm < edge], points[norm == edge]
    room = entries - len(inside)
    spread = (2 * np.arange(room // 2) + 1) * len(shell) // (2 * room)
    middle = [len(shell) // 2] * (room % 2)
    return np.concatenate([inside, shell[spread], shell[middle], shell[::-1][spread]])


@functools.cache
def e8_ball(limit: int) -> tuple[Ints, Ints]:
    """Points of E8 in a ball that holds at most ``limit`` of them, and the leaders of their orbits, doubled.

    An orbit is what permutations and changes of an even number of signs make of one point; its leader has ``c1 >= c2
    >= ... >= |c8|``. Shells are taken whole while they fit; of the next one the orbits that fit, largest first.

    Args:
        limit: at least 1.

    Returns:
        int64 ``(entries, 8)`` and ``(orbits, 8)``, both by norm, then lexicographically.
    """
    energy = 0
    while len(_e8_points(energy)) <= limit:
        energy += 8
    points = _e8_points(energy)
    norm = (points**2).sum(1)
    leaders, orbit, size = np.unique(
        _chamber(points[norm == energy]), axis=0, return_inverse=True, return_counts=True
    )
    room = limit - int((norm < energy).sum())
    taken = np.zeros(len(leaders), dtype=bool)
    for i in np.argsort(-size, kind="stable"):
        taken[i] = size[i] <= room
        room -= int(size[i]) * int(taken[i])
    keep = norm < energy
    keep[norm == energy] = taken[orbit.reshape(-1)]
    points = _by_norm(points[keep])
    return points, _by_norm(np.unique(_chamber(points), axis=0))


def _e8_points(energy: int) -> Ints:
    """Doubled points of E8 with squares adding up to at most ``energy``."""
    both = np.concatenate([_vectors(8, False, energy), _vectors(8, True, energy)])
    return both[both.sum(1) % 4 == 0]


def _chamber(points: Ints) -> Ints:
    """The leader of each point's orbit."""
    leader = -np.sort(-np.abs(points), axis=1)
    leader[:, 7] *= 1 - 2 * ((points < 0).sum(1) % 2)
    return leader


def _by_norm(points: Ints) -> Ints:
    return points[np.lexsort((*points.T[::-1], (points**2).sum(1)))]
