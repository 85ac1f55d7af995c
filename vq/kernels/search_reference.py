"""Nearest codeword by matrix products in tiles: for every device, and for vectors longer than the kernel's."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

_ENTRIES = 4096  # codewords of a tile
_SCORES = 1 << 18  # of a tile: 1 MiB, which stays in cache
_ENTRIES_LONG = 1024  # both for long vectors, whose product takes longer than the search:
_SCORES_LONG = 1 << 20  # it wants many points
_LONG = 32  # coordinates from which a vector is long
_SHORT = 64  # entries of a table that is searched with the points side by side
_local = threading.local()


def table_shift(table: Tensor) -> Tensor:
    """What is taken off points and table, ``(dim,)``: the middle where it is far from zero, else 0.

    Rounded to 8 bits, so that taking it off is exact.
    """
    low, high = table.amin(0), table.amax(0)
    middle = 0.5 * low + 0.5 * high
    mantissa, exponent = torch.frexp(middle)
    rounded = torch.ldexp((mantissa * 256).round(), exponent - 8)
    return torch.where(middle.abs() > 4 * (0.5 * high - 0.5 * low), rounded, torch.zeros_like(low))


def find_in_tiles(
    x: Tensor,
    table: Tensor,
    weight: Tensor | None,
    penalty: Tensor | None,
    top: int,
    margin: bool,
) -> tuple[Tensor, Tensor]:
    """The ``top`` nearest codewords of every point and, if asked for, the margins; see ``search``."""
    shift = table_shift(table)
    columns, bias = _columns(table, shift, weight is not None)
    if penalty is not None:
        bias = bias + 0.5 * penalty
    keep = max(top, 2) if margin else top
    codes = torch.empty(len(x), top, dtype=torch.int32, device=x.device)
    margins = torch.full((len(x) if margin else 0,), float("inf"), device=x.device)
    if len(table) <= _SHORT and keep == 1 and x.device.type == "cpu":
        codes[:, 0] = torch.from_numpy(_find_in_few(x, weight, shift, columns.t(), bias))
        return codes, margins
    scores = _SCORES if len(columns) <= _LONG else _SCORES_LONG
    wide = scores == _SCORES or x.device.type != "cpu"
    entries = min(_ENTRIES if wide else _ENTRIES_LONG, len(table))
    step = max(64, min(1 << 14, scores // entries))
    buffer = _scratch(x, step * entries)[: step * entries].view(step, entries)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        points = _negated(x, weight, shift, part)
        keep = min(keep, len(table))
        best, found = _best_of_tiles(points, columns, bias, keep, buffer, entries)
        codes[part] = found[:, :top]
        if margin and len(table) > 1:
            margins[part] = 2 * (best[:, 1] - best[:, 0])
    return codes, margins


def _columns(table: Tensor, shift: Tensor, weighted: bool) -> tuple[Tensor, Tensor]:
    """The matrix that points are multiplied with, a codeword a column, and what is added.

    One copy of the table, or none where long vectors are taken as they are.
    """
    entries, dim = table.shape
    if dim > _LONG and not weighted and table.device.type == "cpu" and not bool(shift.any()):
        half = torch.cat([0.5 * part.square().sum(1) for part in table.split(_ENTRIES)])
        return table.t(), half
    columns = table.new_empty(2 * dim if weighted else dim, entries)
    bias = table.new_zeros(entries)
    for start in range(0, entries, _ENTRIES):
        part = slice(start, start + _ENTRIES)
        moved = table[part] - shift
        columns[:dim, part] = moved.t()
        half = 0.5 * moved.square()
        if weighted:
            columns[dim:, part] = half.t()
        else:
            bias[part] = half.sum(1)
    return columns, bias


def _scratch(like: Tensor, count: int) -> Tensor:
    """At least ``count`` numbers to overwrite; a thread keeps up to 4 MiB, for fresh pages cost as much as a search."""
    if like.device.type != "cpu" or count > _SCORES_LONG:
        return like.new_empty(count)
    kept: Tensor | None = getattr(_local, "scratch", None)
    if kept is None or len(kept) < count:
        kept = _local.scratch = torch.empty(count)
    return kept


def _negated(x: Tensor, weight: Tensor | None, shift: Tensor, part: slice) -> Tensor:
    """What is multiplied with the table: minus the points, or ``[-weight x, weight]`` with weights."""
    points = shift - x[part]
    if weight is None:
        return points
    own = weight.expand(x.shape)[part]
    return torch.cat([own * points, own], 1)


def _find_in_few(
    x: Tensor, weight: Tensor | None, shift: Tensor, rows: Tensor, bias: Tensor
) -> np.ndarray:
    """Indices ``(n,)`` in a short table: a call a point costs more than the search, so points lie side by side.

    The lowest index among equals is the largest of ``entries - index`` where the score is the smallest.
    """
    entries = len(bias)
    falling = np.arange(entries, 0, -1, dtype=np.uint8)[:, None]
    found = np.empty(len(x), dtype=np.uint8)
    step = max(64, _SCORES // entries)
    buffer = _scratch(x, entries * step)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        points = _negated(x, weight, shift, part)
        scores = buffer[: entries * len(points)].view(entries, len(points))
        torch.addmm(bias[:, None], rows, points.t(), out=scores)
        array = scores.numpy()
        first = (array == array.min(0)).view(np.uint8)
        first *= falling
        first.max(0, out=found[part])
    return entries - found.astype(np.int32)


def _best_of_tiles(
    points: Tensor, columns: Tensor, bias: Tensor, keep: int, buffer: Tensor, tile: int
) -> tuple[Tensor, Tensor]:
    """Scores and indices ``(points, keep)`` of the smallest ``bias + points @ columns``.

    A tile, which the buffer holds, has ``tile`` columns.
    """
    entries = len(bias)
    best = found = None
    for start in range(0, entries, tile):
        end = min(start + tile, entries)
        scores = buffer[: len(points), : end - start]
        torch.addmm(bias[start:end], points, columns[:, start:end], out=scores)
        values, index = _smallest(scores, min(keep, end - start))
        if best is None or found is None:
            best, found = values, index
            continue
        if keep == 1:  # the earlier one among equals, as a stable order has it
            nearer = values < best
            best, found = (
                torch.minimum(values, best),
                torch.where(nearer, index + start, found),
            )
            continue
        best, order = torch.cat([best, values], 1).sort(dim=1, stable=True)
        found = torch.cat([found, index + start], 1).gather(1, order)[:, :keep]
        best = best[:, :keep]
    assert best is not None and found is not None
    return best, found


def _smallest(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The smallest of every row and where, ``(points, keep)``; the lowest index among equals. Overwrites scores."""
    values, places = [], []
    for turn in range(keep):
        if scores.device.type == "cpu":  # torch's own argmin is an order of magnitude slower
            index = torch.from_numpy(np.argmin(scores.numpy(), 1))[:, None]
        else:
            index = scores.argmin(1, keepdim=True)
        values.append(scores.gather(1, index))
        places.append(index)
        if turn + 1 < keep:
            scores.scatter_(1, index, float("inf"))
    return torch.cat(values, 1), torch.cat(places, 1)
