"""Nearest codeword by matrix products in tiles: for every device, and for vectors longer than the kernel's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ENTRIES = 4096  # codewords of a tile
_SCORES = 1 << 20  # of a tile: 4 MiB, which stay in cache
_SHORT = 48  # entries of a table that is searched column by column


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
    table = table - shift
    half = 0.5 * table.square()
    if weight is None:
        columns, bias = table.t(), half.sum(1)
    else:
        columns, bias = torch.cat([table, half], 1).t(), torch.zeros_like(half[:, 0])
    if penalty is not None:
        bias = bias + 0.5 * penalty
    columns = columns.contiguous()
    keep = max(top, 2) if margin else top
    codes = torch.empty(len(x), top, dtype=torch.int32, device=x.device)
    margins = torch.full((len(x) if margin else 0,), float("inf"), device=x.device)
    step = max(256, min(1 << 14, _SCORES // len(table)))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        points = shift - x[part]
        if weight is not None:
            own = weight.expand(x.shape)[part]
            points = torch.cat([own * points, own], 1)
        scores, found = _best_of_tiles(points, columns, bias, min(keep, len(table)))
        codes[part] = found[:, :top]
        if margin and len(table) > 1:
            margins[part] = 2 * (scores[:, 1] - scores[:, 0])
    return codes, margins


def _best_of_tiles(
    points: Tensor, columns: Tensor, bias: Tensor, keep: int
) -> tuple[Tensor, Tensor]:
    """Scores and indices ``(points, keep)`` of the smallest ``bias + points @ columns``."""
    entries = len(bias)
    buffer = points.new_empty(len(points), min(_ENTRIES, entries))
    best = found = None
    for start in range(0, entries, _ENTRIES):
        end = min(start + _ENTRIES, entries)
        scores = buffer[:, : end - start]
        torch.addmm(bias[start:end], points, columns[:, start:end], out=scores)
        values, index = _smallest(scores, min(keep, end - start))
        if best is None or found is None:
            best, found = values, index
            continue
        best, order = torch.cat([best, values], 1).sort(dim=1, stable=True)
        found = torch.cat([found, index + start], 1).gather(1, order)[:, :keep]
        best = best[:, :keep]
    assert best is not None and found is not None
    return best, found


def _smallest(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """The smallest of every row and where, ``(points, keep)``; the lowest index among equals. Overwrites scores."""
    if scores.shape[1] <= _SHORT and keep == 1:
        return _smallest_of_few(scores)
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


def _smallest_of_few(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Column by column: for short rows a call a row costs more than the search."""
    columns = scores.t().contiguous()
    best, index = (
        columns[0].clone(),
        torch.zeros(len(scores), dtype=torch.long, device=scores.device),
    )
    for k in range(1, len(columns)):
        index.masked_fill_(columns[k] < best, k)
        torch.minimum(best, columns[k], out=best)
    return best[:, None], index[:, None]
