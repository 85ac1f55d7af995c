"""Nearest lattice points in plain torch, vectors side by side; the compiled kernels do the same arithmetic.

Every sum runs in a fixed order over coordinates, so that the results equal the compiled ones bit for bit.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from vq.kernels.golay import columns, hexacode

CHUNK = 1024  # vectors of a Leech search held at a time


def nearest_dn(x: Tensor) -> Tensor:
    """Nearest points of Dn (integers with an even sum) for columns of ``(n, count)``.

    Round; where the sum is odd, round the coordinate with the largest error (the first of equals) the other way.
    """
    rounded = x.round()
    error = x - rounded
    worst = error.abs().max(0, keepdim=True)
    index = (error.abs() == worst.values).int().argmax(0, keepdim=True)
    step = torch.where(error.gather(0, index) < 0, -1.0, 1.0)
    odd = rounded.remainder(2).sum(0, keepdim=True).remainder(2)
    return rounded.scatter_add(0, index, step * odd)


def nearest_e8(x: Tensor) -> Tensor:
    """Nearest points of E8 = D8 and D8 + 1/2 for vectors ``(count, 8)``; among equals, the integer one."""
    across = x.t().contiguous()
    whole = nearest_dn(across)
    half = nearest_dn(across - 0.5) + 0.5
    closer = squared_norm(across - half) < squared_norm(across - whole)
    return torch.where(closer, half, whole).t().contiguous()


def squared_norm(x: Tensor) -> Tensor:
    """Squared norms of columns ``(n, count)``, added in order of the coordinates."""
    total = x[0] * x[0]
    for row in x[1:]:
        total = total + row * row
    return total


def nearest_leech(x: Tensor) -> Tensor:
    """Nearest points of the Leech lattice times sqrt(8) for ``(count, 24)``; see ``vq.kernels.lattice``."""
    parts = []
    for i in range(0, len(x), CHUNK):
        across = x[i : i + CHUNK].t().contiguous()
        costs, scores = _kinds(across)
        best = (scores == scores.amin(0)).int().argmax(0)
        parts.append(_nearest_of_kind(across, costs, best).t())
    return torch.cat(parts).contiguous() if parts else x.clone()


def leech_in_ball(x: Tensor, wanted: Tensor, limit: float, top: int) -> Tensor:
    """Points ``(count, 24)`` of squared norm up to limit near ``wanted``; see ``vq.kernels.lattice``."""
    parts = []
    for i in range(0, len(x), CHUNK):
        across, aim = (v[i : i + CHUNK].t().contiguous() for v in (x, wanted))
        costs, scores = _kinds(across)
        kinds = scores.argsort(dim=0, stable=True)[:top]
        point = torch.full_like(across, float("inf"))
        least = point[0].clone()
        for kind in kinds:
            trial = _nearest_of_kind(across, costs, kind)
            distance = squared_norm(aim - trial)
            better = (squared_norm(trial) <= limit) & (distance < least)
            least = torch.where(better, distance, least)
            point = torch.where(better, trial, point)
        parts.append(point.t())
    return torch.cat(parts).contiguous() if parts else x.clone()


def _kinds(x: Tensor) -> tuple[Tensor, Tensor]:
    """Column costs, and least cost ``(256, count)`` of each half, parity of columns and hexacode word."""
    words = torch.from_numpy(hexacode()).long().to(x.device)
    costs = torch.stack([_column_costs(x, half) for half in (0, 1)])
    scores = [
        _word_scores(costs[half, :, parity], words, 2 * parity + half)
        for half in (0, 1)
        for parity in (0, 1)
    ]
    return costs, torch.cat(scores)


def _nearest_of_kind(x: Tensor, costs: Tensor, kind: Tensor) -> Tensor:
    """Nearest point ``(24, count)`` of one kind for each column."""
    half, parity = kind // 128, kind // 64 % 2
    word = torch.from_numpy(hexacode()).long().to(x.device)[kind % 64]
    lane = torch.arange(x.shape[1], device=x.device)
    chosen = [costs[half, c, parity, word[:, c], :, lane].t() for c in range(6)]
    return _points(x, half, parity, word, _way_back(chosen, 2 * parity + half))


def _coordinate_costs(x: Tensor, offset: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """Steps of four from the offset, squared error and extra cost of the second nearest, over 16."""
    t = (x - offset) * 0.25
    k = t.round()
    r = t - k
    return k, r, 1.0 - 2.0 * r.abs()


def _column_costs(x: Tensor, half: int) -> Tensor:
    """Cost ``(column, parity, element, 4, count)`` of columns by state 2 * (bit of row 0) + parity of steps."""
    cost, odd, extra = [], [], []
    for own in (0, 1):
        k, left, more = _coordinate_costs(x, float(2 * own + half))
        cost.append((left * left).reshape(6, 4, -1))
        odd.append(k.remainder(2).reshape(6, 4, -1).bool())
        extra.append(more.reshape(6, 4, -1))
    out = x.new_empty(6, 2, 4, 4, x.shape[1])
    for parity, element, top in itertools.product(range(2), range(4), range(2)):
        bits = int(columns()[parity, element, top])
        pick = [bits >> r & 1 for r in range(4)]
        total, flips, more = cost[pick[0]][:, 0], odd[pick[0]][:, 0], extra[pick[0]][:, 0]
        for r in (1, 2, 3):
            total = total + cost[pick[r]][:, r]
            flips = flips ^ odd[pick[r]][:, r]
            more = torch.minimum(more, extra[pick[r]][:, r])
        changed = total + more
        out[:, parity, element, 2 * top] = torch.where(flips, changed, total)
        out[:, parity, element, 2 * top + 1] = torch.where(flips, total, changed)
    return out


def _join(left: Tensor, right: Tensor) -> Tensor:
    """Minimum over v of ``left[v] + right[u ^ v]``, states on axis -2."""
    sums = [
        torch.stack([left[..., v, :] + right[..., u ^ v, :] for u in range(4)], dim=-2)
        for v in range(4)
    ]
    return torch.minimum(torch.minimum(sums[0], sums[1]), torch.minimum(sums[2], sums[3]))


def _word_scores(costs: Tensor, words: Tensor, target: int) -> Tensor:
    """Smallest cost ``(64, count)`` of each hexacode word with the states' sum equal to target."""
    pairs = [_join(costs[c][:, None], costs[c + 1][None]) for c in (0, 2, 4)]
    front = _join(pairs[0][words[:, 0], words[:, 1]], pairs[1][words[:, 2], words[:, 3]])
    last = pairs[2][words[:, 4], words[:, 5]]
    sums = [front[:, v] + last[:, target ^ v] for v in range(4)]
    return torch.minimum(torch.minimum(sums[0], sums[1]), torch.minimum(sums[2], sums[3]))


def _way_back(chosen: list[Tensor], target: Tensor) -> list[Tensor]:
    """States of the six columns on the cheapest way; ``chosen`` six of ``(4, count)``."""
    pairs = [_join(chosen[c], chosen[c + 1]) for c in (0, 2, 4)]
    front, last = _split(_join(pairs[0], pairs[1]), pairs[2], target)
    first, second = _split(pairs[0], pairs[1], front)
    states: list[Tensor] = []
    for pair, total in ((0, first), (1, second), (2, last)):
        states.extend(_split(chosen[2 * pair], chosen[2 * pair + 1], total))
    return states


def _split(left: Tensor, right: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """States of two parts whose exclusive or is ``total``, at the smallest cost."""
    other = torch.arange(4, device=total.device)[:, None] ^ total
    sums = left + right.gather(0, other)
    state = (sums == sums.amin(0)).int().argmax(0)
    return state, state ^ total


def _points(x: Tensor, half: Tensor, parity: Tensor, word: Tensor, states: list[Tensor]) -> Tensor:
    """Integer coordinates ``(24, count)`` from half, parity, hexacode word and the columns' states."""
    table = torch.from_numpy(columns()).long().to(x.device)
    parts = []
    for c in range(6):
        column = table[parity, word[:, c], states[c] >> 1]
        bit = column >> torch.arange(4, device=x.device)[:, None] & 1
        offset = (2 * bit + half).float()
        k, r, extra = _coordinate_costs(x[4 * c : 4 * c + 4], offset)
        wrong = k.remainder(2).sum(0).remainder(2) != (states[c] & 1)
        flip = (extra == extra.amin(0)).int().argmax(0, keepdim=True)
        step = torch.where(r < 0, -1.0, 1.0).gather(0, flip) * wrong
        parts.append(4.0 * k.scatter_add(0, flip, step) + offset)
    return torch.cat(parts)
