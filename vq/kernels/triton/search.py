"""Nearest codeword on a GPU: tiles of points x entries with a running best, never n x entries in memory.

A tile keeps, for each of its points and each of its columns, the best score so far and the tile it came
from; one reduction at the end finds the best column, so the inner loop is multiply-add, compare, select.
Short vectors multiply column by column with the points in registers; long ones go through ``tl.dot`` in
float32 (never TF32). Few points and a long table are split over the table.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from vq.kernels.search_reference import find_in_tiles, table_shift

_SHORT = 16  # coordinates that stay in registers
_PROGRAMS = 1024  # wanted at once: fewer points than that fill split the table
_FAR = tl.constexpr(2147483647)


def find(
    x: Tensor,
    table: Tensor,
    weight: Tensor | None,
    penalty: Tensor | None,
    top: int,
    margin: bool,
) -> tuple[Tensor, Tensor]:
    """Operation ``nearest``; more than two neighbours are left to the reference.

    Args:
        x: ``(n, dim)`` float32, contiguous.
        table: ``(entries, dim)`` float32, contiguous.
        weight: ``(n or 1, dim)`` float32, or None.
        penalty: ``(entries,)`` float32, or None.
        top: how many neighbours.
        margin: also the distance of the second.

    Returns:
        int32 ``(n, top)`` and float32 ``(n,)``, or ``(0,)`` without margins.
    """
    if top > 2 or x.shape[1] == 0:
        return find_in_tiles(x, table, weight, penalty, top, margin)
    keep = 2 if margin or top == 2 else 1
    if len(x) == 0:
        return x.new_empty((0, top), dtype=torch.int32), x.new_empty(0)
    shift = table_shift(table)
    columns, bias = _columns(table - shift, weight, penalty)
    own = weight if weight is not None and weight.shape[0] != 1 else None
    with torch.cuda.device_of(x):
        scores, places = _merge(*_launch(x, shift, columns, bias, own, keep))
    codes = places[:, :top].contiguous()
    if not margin:
        return codes, x.new_empty(0)
    if len(table) == 1:
        return codes, torch.full_like(scores[:, 0], float("inf"))
    return codes, 2 * (scores[:, 1] - scores[:, 0])


def _columns(
    centred: Tensor, weight: Tensor | None, penalty: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The table by columns ``(dim, entries)`` and the part of the score that no point changes ``(entries,)``.

    Weights that all points share go into both; weights of each point leave the squares to the kernel.
    """
    half = 0.5 * centred.square()
    if weight is None:
        bias = half.sum(1)
    elif weight.shape[0] == 1:
        bias, centred = (weight * half).sum(1), weight * centred
    else:
        bias = torch.zeros_like(half[:, 0])
    if penalty is not None:
        bias = bias + 0.5 * penalty
    return centred.t().contiguous(), bias


def tile_shape(dim: int, entries: int, weighted: bool, keep: int) -> tuple[int, int, int]:
    """Points and entries of a tile, and warps: chosen so that a tile stays in registers.

    Args:
        dim: coordinates.
        entries: of the table.
        weighted: whether each point has weights of its own.
        keep: best scores kept, 1 or 2.
    """
    width = min(64, max(16, triton.next_power_of_2(entries)))
    if dim > _SHORT:
        return max(16, 64 // keep // (2 if weighted else 1)), width, 4
    values = triton.next_power_of_2(dim) * (2 if weighted else 1)
    rows = max(2, min(16 // keep, 128 // values))  # of one thread
    return 4 * rows, width, 8


def _launch(
    x: Tensor, shift: Tensor, columns: Tensor, bias: Tensor, own: Tensor | None, keep: int
) -> tuple[Tensor, Tensor]:
    """Best scores and places ``(splits, n, keep)``; a split is a run of the table."""
    count, dim = x.shape
    entries = len(bias)
    height, width, warps = tile_shape(dim, entries, own is not None, keep)
    tiles, blocks = triton.cdiv(entries, width), triton.cdiv(count, height)
    each = triton.cdiv(tiles, min(tiles, max(1, _PROGRAMS // blocks)))
    splits = triton.cdiv(tiles, each)
    scores = x.new_empty((splits, count, keep))
    places = x.new_empty((splits, count, keep), dtype=torch.int32)
    short = dim <= _SHORT
    kernel = short_kernel if short else long_kernel
    kernel[(blocks, splits)](
        x,
        shift,
        columns,
        bias,
        x if own is None else own,
        scores,
        places,
        count,
        entries,
        each,
        dim,
        WEIGHTED=own is not None,
        KEEP=keep,
        HEIGHT=height,
        WIDTH=width,
        num_warps=warps,
        enable_fp_fusion=True,
    )
    return scores, places


def _merge(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The best ``(n, keep)`` of all splits, which are in the order of the table: a stable sort keeps ties right."""
    if len(scores) == 1:
        return scores[0], places[0]
    keep = scores.shape[2]
    scores, order = scores.transpose(0, 1).flatten(1).sort(dim=1, stable=True)
    places = places.transpose(0, 1).flatten(1).gather(1, order)
    return scores[:, :keep], places[:, :keep]


@triton.jit
def _update(score, tile, best, at, second, second_at, KEEP: tl.constexpr):
    """Running best of every column, and the second best if asked for; among equals the first tile stays."""
    closer = score < best
    if KEEP == 2:
        near = score < second
        second_at = tl.where(closer, at, tl.where(near, tile, second_at))
        second = tl.where(closer, best, tl.where(near, score, second))
    at = tl.where(closer, tile, at)
    best = tl.where(closer, score, best)
    return best, at, second, second_at


@triton.jit
def _first_smallest(values, index):
    """Smallest of each row, and the lowest index among equals."""
    low = tl.min(values, axis=1)
    return low, tl.min(tl.where(values == low[:, None], index, _FAR), axis=1)


@triton.jit
def _write(
    best, at, second, second_at, scores, places, count, entries,
    KEEP: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Reduce the columns of a tile and store the best of each point."""
    rows = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)
    out = (tl.program_id(1).to(tl.int64) * count + rows) * KEEP
    lane = tl.arange(0, WIDTH)[None, :]
    index = at * WIDTH + lane
    low, place = _first_smallest(best, index)
    tl.store(scores + out, low, mask=rows < count)
    tl.store(places + out, tl.minimum(place, entries - 1), mask=rows < count)
    if KEEP == 2:
        winner = index == place[:, None]
        index = tl.where(winner, second_at * WIDTH + lane, index)
        low, place = _first_smallest(tl.where(winner, second, best), index)
        tl.store(scores + out + 1, low, mask=rows < count)
        tl.store(places + out + 1, tl.minimum(place, entries - 1), mask=rows < count)


@triton.jit
def short_kernel(
    x, shift, columns, bias, own, scores, places, count, entries, each, DIM: tl.constexpr,
    WEIGHTED: tl.constexpr, KEEP: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Scores by outer products, coordinate by coordinate; the points stay in registers."""
    rows = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    here = rows < count
    offset = rows.to(tl.int64) * DIM
    best = tl.full([HEIGHT, WIDTH], float("inf"), tl.float32)
    second = tl.full([HEIGHT, WIDTH], float("inf"), tl.float32)
    first = tl.program_id(1) * each
    at = tl.zeros([HEIGHT, WIDTH], tl.int32) + first
    second_at = tl.zeros([HEIGHT, WIDTH], tl.int32) + first
    for tile in range(first, tl.minimum(first + each, tl.cdiv(entries, WIDTH))):
        column = tile * WIDTH + tl.arange(0, WIDTH)[None, :]
        inside = column < entries
        score = tl.zeros([HEIGHT, WIDTH], tl.float32)
        score += tl.load(bias + column, mask=inside, other=float("inf"))
        for d in tl.static_range(DIM):
            point = tl.load(shift + d) - tl.load(x + offset + d, mask=here, other=0.0)
            code = tl.load(columns + d * entries + column, mask=inside, other=0.0)
            if WEIGHTED:
                factor = tl.load(own + offset + d, mask=here, other=0.0)
                score += (factor * point) * code
                score += factor * (0.5 * code * code)
            else:
                score += point * code
        best, at, second, second_at = _update(score, tile, best, at, second, second_at, KEEP)
    _write(best, at, second, second_at, scores, places, count, entries, KEEP, HEIGHT, WIDTH)


@triton.jit
def long_kernel(
    x, shift, columns, bias, own, scores, places, count, entries, each, dim,
    WEIGHTED: tl.constexpr, KEEP: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Scores by matrix products over 16 coordinates at a time."""
    rows = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    here = rows < count
    offset = rows.to(tl.int64) * dim
    best = tl.full([HEIGHT, WIDTH], float("inf"), tl.float32)
    second = tl.full([HEIGHT, WIDTH], float("inf"), tl.float32)
    first = tl.program_id(1) * each
    at = tl.zeros([HEIGHT, WIDTH], tl.int32) + first
    second_at = tl.zeros([HEIGHT, WIDTH], tl.int32) + first
    for tile in range(first, tl.minimum(first + each, tl.cdiv(entries, WIDTH))):
        column = tile * WIDTH + tl.arange(0, WIDTH)[None, :]
        inside = column < entries
        score = tl.zeros([HEIGHT, WIDTH], tl.float32)
        score += tl.load(bias + column, mask=inside, other=float("inf"))
        for start in range(0, dim, 16):
            across = start + tl.arange(0, 16)[None, :]
            down = start + tl.arange(0, 16)[:, None]
            known = here & (across < dim)
            point = tl.load(x + offset + across, mask=known, other=0.0)
            point = tl.load(shift + across, mask=across < dim, other=0.0) - point
            place = down.to(tl.int64) * entries + column
            code = tl.load(columns + place, mask=inside & (down < dim), other=0.0)
            if WEIGHTED:
                factor = tl.load(own + offset + across, mask=known, other=0.0)
                score = tl.dot(factor, 0.5 * code * code, score, input_precision="ieee")
                point = factor * point
            score = tl.dot(point, code, score, input_precision="ieee")
        best, at, second, second_at = _update(score, tile, best, at, second, second_at, KEEP)
    _write(best, at, second, second_at, scores, places, count, entries, KEEP, HEIGHT, WIDTH)
