"""Rows of fixed-width codes on a GPU: one table, sums of several tables, or the patterns and signs of E8P.

A program owns 64 rows and a run of vectors. It cuts the codes of its vectors out of at most three bytes each, and
coordinate d of all vectors is one operand of a matrix product with the columns of x that it belongs to.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from vq.kernels.formats import PackedHeader
from vq.kernels.triton.common import (
    FEW,
    HEIGHT,
    Shape,
    activations,
    payload,
    shape_for,
    splits_of,
    store_partial,
)

_WIDEST = 16  # bits of a code
_LONGEST = 32  # weights of a vector: a loop over them is unrolled
_MOST_TABLES = 8
TABLES, PATTERNS = 0, 1


def serves(header: PackedHeader) -> bool:
    """Whether codes and vectors are of sizes that the kernels are made for."""
    return (
        header.code_bits <= _WIDEST
        and header.dim <= _LONGEST
        and header.codes_per_vector <= _MOST_TABLES
        and header.payload_bytes < 1 << 31
    )


def pattern_words(patterns: Tensor) -> Tensor:
    """Patterns of E8P ``(256, 8)`` of digits 0, 1, 2 as int32 ``(256,)``: 2 bits a digit, bit 16 their parity."""
    digits = patterns.to(torch.int32)
    shifts = 2 * torch.arange(8, device=digits.device, dtype=torch.int32)
    return (digits << shifts).sum(1, dtype=torch.int32) | (digits.sum(1, dtype=torch.int32) & 1) << 16


def shape_of(header: PackedHeader) -> Shape:
    """Launch shape of a format."""
    key = ("rows", header.code_bits, header.dim, header.codes_per_vector)
    return shape_for((*key, header.out_features, header.in_features), header.dim)


def _format(header: PackedHeader, table: Tensor) -> dict[str, int]:
    """What a kernel is compiled for: sizes, bytes that a code may touch, and kind of table."""
    bits = header.code_bits
    return {
        "BITS": bits,
        "DIM": header.dim,
        "CODES": header.codes_per_vector,
        "BYTES": (bits + 8 - math.gcd(8, bits) + 7) // 8,
        "KIND": PATTERNS if table.dtype == torch.int32 else TABLES,
    }


def product(
    x: Tensor, unit: Tensor | None, weight: Tensor, header: PackedHeader, table: Tensor
) -> Tensor:
    """Partial sums ``(splits, rows, out)`` float32 of at most 16 rows of x ``(rows, in)`` float32.

    Args:
        x: activations.
        unit: largest magnitude of each row; with it products are of float16 numbers, without it of float32.
        weight: packed tensor.
        header: its header.
        table: ``(entries, dim)`` or ``(codes, entries, dim)`` floating point, or int32 ``pattern_words``.
    """
    rows, width = x.shape
    shape = shape_of(header)
    bands = triton.cdiv(header.out_features, HEIGHT)
    splits, each = splits_of(bands, triton.cdiv(header.vectors_per_row, shape.width), x.device)
    partial = x.new_empty((splits, rows, header.out_features))
    product_kernel[(bands, splits)](
        x,
        x if unit is None else unit,
        payload(weight, torch.uint8),
        table.contiguous(),
        partial,
        rows,
        width,
        header.out_features,
        header.vectors_per_row,
        header.payload_bytes,
        table.shape[-2] if table.ndim > 1 else 0,
        each,
        **_format(header, table),
        HALF=unit is not None,
        FEW=FEW,
        HEIGHT=HEIGHT,
        WIDTH=shape.width,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return partial


def decode(weight: Tensor, header: PackedHeader, table: Tensor, out: Tensor, first: int) -> None:
    """Rows ``first ..`` of the matrix, in units of the table, into out ``(rows, in)``."""
    rows, width = out.shape
    across = 64 // min(4, triton.next_power_of_2(header.dim))
    grid = (triton.cdiv(rows, HEIGHT), triton.cdiv(header.vectors_per_row, across))
    decode_kernel[grid](
        payload(weight, torch.uint8),
        table.contiguous(),
        out,
        rows,
        width,
        first,
        header.vectors_per_row,
        header.payload_bytes,
        table.shape[-2] if table.ndim > 1 else 0,
        **_format(header, table),
        HEIGHT=HEIGHT,
        WIDTH=across,
        num_warps=4,
    )


@triton.jit
def code_of(data, index, bytes_, inside, BITS: tl.constexpr, BYTES: tl.constexpr):
    """Fields of ``BITS`` bits by their number (int64), lowest bit first; 0 outside."""
    begin = index * BITS
    place = begin >> 3
    code = tl.load(data + place, mask=inside, other=0).to(tl.int32)
    for more in tl.static_range(1, BYTES):
        here = inside & (place + more < bytes_)
        code |= tl.load(data + place + more, mask=here, other=0).to(tl.int32) << (8 * more)
    return (code >> (begin & 7).to(tl.int32)) & ((1 << BITS) - 1)


@triton.jit
def pattern_value(code, word, d: tl.constexpr):
    """Coordinate d of an E8P point in units of its step: a signed half-integer, moved by a quarter.

    Bits 8 to 14 of the code are the signs of coordinates 0 to 6; the last sign makes the sum even.
    """
    if d < 7:
        minus = (code >> (8 + d)) & 1
    else:
        signs = (code >> 8) & 127
        signs ^= signs >> 4
        signs ^= signs >> 2
        signs ^= signs >> 1
        minus = (signs ^ (word >> 16)) & 1
    size = ((word >> (2 * d)) & 3).to(tl.float32) + 0.5
    return tl.where(minus == 1, -size, size) + tl.where(code >> 15 == 1, 0.25, -0.25)


@triton.jit
def coordinate(
    data, index, bytes_, inside, table, entries, d: tl.constexpr,
    BITS: tl.constexpr, DIM: tl.constexpr, CODES: tl.constexpr, BYTES: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Coordinate d of vectors, whose first codes have the given numbers; float32.

    The compiler sees that the codes are the same for every d and loads them once. A code beyond the table, which only
    a damaged file holds, reads the last entry.
    """
    code = code_of(data, index, bytes_, inside, BITS, BYTES)
    if KIND == 1:
        value = pattern_value(code, tl.load(table + (code & 255)), d)
    else:
        value = tl.load(table + tl.minimum(code, entries - 1) * DIM + d).to(tl.float32)
        for stage in tl.static_range(1, CODES):
            code = code_of(data, index + stage, bytes_, inside, BITS, BYTES)
            place = entries * stage + tl.minimum(code, entries - 1)
            value += tl.load(table + place * DIM + d).to(tl.float32)
    return value


@triton.jit
def product_kernel(
    x, unit, data, table, partial, rows, width, out, vectors, bytes_, entries, each,
    BITS: tl.constexpr, DIM: tl.constexpr, CODES: tl.constexpr, BYTES: tl.constexpr,
    KIND: tl.constexpr, HALF: tl.constexpr,
    FEW: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Rows ``64 * program_id(0) ..`` times x over the vectors of split ``program_id(1)``."""
    row = tl.arange(0, FEW)[:, None]
    line = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)[None, :]
    start = line.to(tl.int64) * vectors
    total = tl.zeros([FEW, HEIGHT], tl.float32)
    first = tl.program_id(1) * each
    for turn in range(first, tl.minimum(first + each, tl.cdiv(vectors, WIDTH))):
        vector = turn * WIDTH + tl.arange(0, WIDTH)
        inside = (line < out) & (vector[:, None] < vectors)
        index = (start + vector[:, None]) * CODES
        for d in tl.static_range(DIM):
            given = activations(x, unit, row, vector[None, :] * DIM + d, rows, width, HALF)
            value = coordinate(
                data, index, bytes_, inside, table, entries, d, BITS, DIM, CODES, BYTES, KIND
            ).to(given.dtype)
            total = tl.dot(given, value, total, input_precision="ieee")
    store_partial(partial, total, tl.program_id(1), row, tl.program_id(0) * HEIGHT, rows, out, HEIGHT)


@triton.jit
def decode_kernel(
    data, table, matrix, rows, width, first, vectors, bytes_, entries,
    BITS: tl.constexpr, DIM: tl.constexpr, CODES: tl.constexpr, BYTES: tl.constexpr,
    KIND: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Codes to numbers."""
    row = tl.program_id(0) * HEIGHT + tl.arange(0, HEIGHT)[:, None]
    vector = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    index = ((row + first).to(tl.int64) * vectors + vector) * CODES
    inside = (row < rows) & (vector < vectors)
    for d in tl.static_range(DIM):
        value = coordinate(
            data, index, bytes_, inside, table, entries, d, BITS, DIM, CODES, BYTES, KIND
        )
        column = vector * DIM + d
        place = row.to(tl.int64) * width + column
        tl.store(matrix + place, value.to(matrix.dtype.element_ty), mask=inside & (column < width))
