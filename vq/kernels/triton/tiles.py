"""Trellis tiles on a GPU: states cut out of the packed words, values by the hash or from a table.

A program owns a band of 64 rows and a run of columns. It loads, for every trellis step of its tile, the two 32-bit
pieces that the step's window touches (neighbours read the same ones, which the cache merges), shifts the window out,
and turns it into the step's symbols; symbol v of all steps is one operand of a matrix product with the columns of x
that it belongs to. Levels of the hash code are integers below 128, exact in float16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vq.kernels.formats import HASH_CODE, TILE_COLUMNS, PackedHeader
from vq.kernels.triton.common import (
    FEW,
    HEIGHT,
    activations,
    payload,
    shape_for,
    splits_of,
    store_partial,
)

_EXACT = 64.0  # levels are divided by it where they are stored in float16: then they are of the size of their values


def serves(header: PackedHeader) -> bool:
    """Whether a step's symbols lie in one row of a tile, and offsets fit 32 bits."""
    return header.symbols in (1, 2, 4) and header.payload_bytes < 1 << 33


def fits(header: PackedHeader, table: Tensor) -> bool:
    """Whether a table is one of this format."""
    if header.code == HASH_CODE:
        return table.shape == (64,) and table.dtype == torch.int8
    return table.is_floating_point() and table.shape == (1 << header.memory, header.symbols)


def key_of(header: PackedHeader) -> tuple[object, ...]:
    """What the best launch shape may depend on."""
    return ("tiles", *_format(header).values(), header.out_features, header.in_features)


def vector_of(header: PackedHeader) -> int:
    """Matrix products of one step: symbols."""
    return header.symbols


def _format(header: PackedHeader) -> dict[str, int | bool]:
    """What a kernel is compiled for."""
    return {
        "BITS": header.code_bits,
        "MEMORY": header.memory,
        "SYMBOLS": header.symbols,
        "PIECES": 2 * header.words,
        "HASH": header.code == HASH_CODE,
    }


def factor_of(header: PackedHeader, stored: bool = False) -> float:
    """What products with the kernels' numbers (or stored ones) are multiplied by to be in units of the codebook."""
    if header.code != HASH_CODE:
        return 1.0
    return header.step * (_EXACT if stored else 1.0)


def product(
    x: Tensor, unit: Tensor | None, weight: Tensor, header: PackedHeader, table: Tensor
) -> Tensor:
    """Partial sums ``(splits, rows, out)`` float32 of at most 16 rows of x ``(rows, in)`` float32.

    Args:
        x: activations.
        unit: largest magnitude of each row; with it products are of float16 numbers, without it of float32.
        weight: packed tensor.
        header: its header.
        table: as for ``decode.decode_rows``.
    """
    rows, width = x.shape
    shape = shape_for(key_of(header), vector_of(header))
    pairs = header.blocks * (TILE_COLUMNS // header.symbols)
    splits, each = splits_of(header.bands, triton.cdiv(pairs, shape.width), x.device)
    partial = x.new_empty((splits, rows, header.out_features))
    product_kernel[(header.bands, splits)](
        x,
        x if unit is None else unit,
        payload(weight, torch.int32),
        table.contiguous(),
        partial,
        rows,
        width,
        header.out_features,
        header.blocks,
        header.hash_constant,
        each,
        **_format(header),
        HALF=unit is not None,
        FEW=FEW,
        HEIGHT=HEIGHT,
        WIDTH=shape.width,
        num_warps=shape.warps,
        num_stages=shape.stages,
        enable_fp_fusion=True,
    )
    return partial


def decode(weight: Tensor, header: PackedHeader, table: Tensor, out: Tensor, first: int) -> None:
    """Rows ``first ..`` (a multiple of 64), over ``factor_of(header, stored=True)``, into out ``(rows, in)``."""
    rows, width = out.shape
    pairs = header.blocks * (TILE_COLUMNS // header.symbols)
    decode_kernel[(triton.cdiv(rows, HEIGHT), triton.cdiv(pairs, 32))](
        payload(weight, torch.int32),
        table.contiguous(),
        out,
        rows,
        width,
        first // HEIGHT,
        header.blocks,
        header.hash_constant,
        **_format(header),
        HEIGHT=HEIGHT,
        WIDTH=32,
        num_warps=4,
        enable_fp_fusion=True,
    )


@triton.jit
def tile_states(
    words, band, step, row, blocks,
    BITS: tl.constexpr, MEMORY: tl.constexpr, PER_ROW: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Windows of ``MEMORY`` bits of steps ``(k, 1)`` of a row of tiles, for rows ``(1, n)`` of a band: ``(k, n)``.

    A tile is ``PIECES`` 32-bit pieces: word w holds pieces 2 w (its high half) and 2 w + 1. Words of eight tiles
    are interleaved; a tile beyond the last gives zeros.
    """
    tile = step // PER_ROW
    group = tile & -8
    apart = tl.minimum(blocks - group, 8)
    base = (band * blocks + group) * (PIECES // 2) + (tile & 7)
    begin = (row * PER_ROW + step % PER_ROW) * BITS
    piece, offset = begin // 32, begin % 32
    after = tl.where(piece + 1 == PIECES, 0, piece + 1)
    inside = tile < blocks
    place = 2 * (base + (piece >> 1) * apart) + 1 - (piece & 1)
    high = tl.load(words + place, mask=inside, other=0).to(tl.uint32, bitcast=True)
    place = 2 * (base + (after >> 1) * apart) + 1 - (after & 1)
    low = tl.load(words + place, mask=inside, other=0).to(tl.uint32, bitcast=True)
    shift = offset.to(tl.uint32)
    return ((high << shift) | ((low >> 1) >> (31 - shift))) >> (32 - MEMORY)


@triton.jit
def symbol(
    state, table, constant, v: tl.constexpr,
    MEMORY: tl.constexpr, SYMBOLS: tl.constexpr, HASH: tl.constexpr,
):  # fmt: skip
    """Symbol v of states: an integer level (int8) of the hash code, or a number of the table."""
    if HASH:
        mixed = (state << (16 - MEMORY)) * constant
        return tl.load(table + ((mixed >> (16 - 8 * v)) & 63).to(tl.int32))
    else:
        return tl.load(table + state.to(tl.int32) * SYMBOLS + v)


@triton.jit
def product_kernel(
    x, unit, words, table, partial, rows, width, out, blocks, constant, each,
    BITS: tl.constexpr, MEMORY: tl.constexpr, SYMBOLS: tl.constexpr, PIECES: tl.constexpr,
    HASH: tl.constexpr, HALF: tl.constexpr,
    FEW: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Band ``program_id(0)`` times x over the steps of split ``program_id(1)``."""
    PER_ROW: tl.constexpr = 4 // SYMBOLS
    band = tl.program_id(0)
    row = tl.arange(0, FEW)[:, None]
    line = tl.arange(0, HEIGHT)[None, :]
    total = tl.zeros([FEW, HEIGHT], tl.float32)
    first = tl.program_id(1) * each
    for turn in range(first, tl.minimum(first + each, tl.cdiv(blocks * PER_ROW, WIDTH))):
        step = turn * WIDTH + tl.arange(0, WIDTH)
        state = tile_states(words, band, step[:, None], line, blocks, BITS, MEMORY, PER_ROW, PIECES)
        for v in tl.static_range(SYMBOLS):
            given = activations(x, unit, row, step[None, :] * SYMBOLS + v, rows, width, HALF)
            value = symbol(state, table, constant, v, MEMORY, SYMBOLS, HASH).to(given.dtype)
            total = tl.dot(given, value, total, input_precision="ieee")
    store_partial(partial, total, tl.program_id(1), row, band * HEIGHT, rows, out, HEIGHT)


@triton.jit
def decode_kernel(
    words, table, matrix, rows, width, band, blocks, constant,
    BITS: tl.constexpr, MEMORY: tl.constexpr, SYMBOLS: tl.constexpr, PIECES: tl.constexpr,
    HASH: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Tiles to numbers; levels of the hash code are divided by 64, which is exact."""
    PER_ROW: tl.constexpr = 4 // SYMBOLS
    line = tl.arange(0, HEIGHT)[None, :]
    step = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[:, None]
    band += tl.program_id(0)
    state = tile_states(words, band, step, line, blocks, BITS, MEMORY, PER_ROW, PIECES)
    row = tl.program_id(0) * HEIGHT + line
    for v in tl.static_range(SYMBOLS):
        value = symbol(state, table, constant, v, MEMORY, SYMBOLS, HASH).to(tl.float32)
        if HASH:
            value = value * 0.015625
        column = step * SYMBOLS + v
        place = row.to(tl.int64) * width + column
        inside = (row < rows) & (column < width)
        tl.store(matrix + place, value.to(matrix.dtype.element_ty), mask=inside)
