"""Codes of fixed width on a GPU: one table, sums or rows of several tables, or the magnitudes and signs of E8P.

A program owns 64 rows and a run of vectors. It cuts the codes of its vectors out of their bytes, and coordinate d of
all vectors is one operand of a matrix product with the columns of x that it belongs to.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from vq.kernels.formats import BLOCKS, ROWS, PackedHeader
from vq.kernels.triton.codes import coordinate
from vq.kernels.triton.common import (
    FEW,
    HEIGHT,
    activations,
    payload,
    shape_for,
    splits_of,
    store_partial,
)

_WIDEST = 16  # bits of a code
_LONGEST = 32  # weights of a vector: a loop over them is unrolled
_MOST_CODES = 8  # summed


def serves(header: PackedHeader) -> bool:
    """Whether codes and vectors are of sizes that the kernels are made for."""
    return (
        header.layout != BLOCKS
        and header.code_bits <= _WIDEST
        and header.dim <= _LONGEST * header.codes_per_vector
        and header.codes_per_vector <= _MOST_CODES
        and header.payload_bytes < 1 << 31
    )


def fits(header: PackedHeader, table: Tensor) -> bool:
    """Whether a table is one that the kernels take for this format; see ``_Given``."""
    if table.dtype == torch.uint8:
        return table.shape == (256, 8) and (header.code_bits, header.dim) == (16, 8)
    parts, widths = header.codes_per_vector, (header.dim, header.dim / header.codes_per_vector)
    if not table.is_floating_point() or table.ndim not in (2, 3) or table.shape[-1] not in widths:
        return False
    return parts == (1 if table.ndim == 2 else table.shape[0])


def key_of(header: PackedHeader) -> tuple[object, ...]:
    """What the best launch shape may depend on."""
    key = ("rows", header.layout, header.code_bits, header.dim, header.codes_per_vector)
    return (*key, header.out_features, header.in_features)


def vector_of(header: PackedHeader) -> int:
    """Matrix products of one step: weights of a vector."""
    return header.dim


def factor_of(header: PackedHeader, table: Tensor) -> float:
    """What the kernels' numbers are multiplied by to be in units of the codebook."""
    return header.step if table.dtype == torch.uint8 else 1.0


class _Given:
    """Arguments that both kernels share, from the header and the table.

    Args:
        weight: packed tensor.
        header: its header.
        table: ``(entries, dim)``, ``(codes, entries, dim)`` whose entries add up, ``(codes, entries, dim / codes)``
            which stand side by side, or uint8 ``(256, 8)``, the magnitudes of E8P.
    """

    def __init__(self, weight: Tensor, header: PackedHeader, table: Tensor) -> None:
        e8p, parts = table.dtype == torch.uint8, header.codes_per_vector
        width = table.shape[-1]
        total = width == header.dim
        self.vectors = header.vectors_per_row * (1 if total else parts)
        self.width = width
        bits = header.code_bits
        field = bits - 8 if header.layout != ROWS and bits > 8 else bits
        fold = {1: 4, 2: 2, 3: 4}.get(bits, 1)
        self.data = (payload(weight, torch.uint8), table.contiguous())
        if e8p:
            self.data = (self.data[0], self.data[1].view(torch.int32))
        self.sizes = (header.vectors_per_row * parts, header.payload_bytes, table.shape[-2])
        self.format = {
            "BITS": bits,
            "BYTES": (field + 8 - math.gcd(8, field) + 7) // 8,
            "FOLD": 0 if header.layout == ROWS else fold,
            "DIM": width,
            "SUM": parts if total else 1,
            "APART": 1 if total else parts,
            "E8P": e8p,
            "HEIGHT": HEIGHT,
        }


def product(
    x: Tensor,
    unit: Tensor | None,
    weight: Tensor,
    header: PackedHeader,
    table: Tensor,
    relative: Tensor | None = None,
) -> Tensor:
    """Partial sums ``(splits, rows, out)`` float32 of at most 16 rows of x ``(rows, in)`` float32.

    Args:
        x: activations.
        unit: largest magnitude of each row; with it products are of float16 numbers, without it of float32.
        weight: packed tensor.
        header: its header.
        table: see ``_Given``.
        relative: float32 ``(out, groups)``, factors of the weights where columns share scales.
    """
    rows, width = x.shape
    given, shape = _Given(weight, header, table), shape_for(key_of(header), vector_of(header))
    bands = triton.cdiv(header.out_features, HEIGHT)
    splits, each = splits_of(bands, triton.cdiv(given.vectors, shape.width), x.device)
    partial = x.new_empty((splits, rows, header.out_features))
    product_kernel[(bands, splits)](
        x,
        x if unit is None else unit,
        *given.data,
        x if relative is None else relative,
        partial,
        rows,
        width,
        header.out_features,
        given.vectors,
        *given.sizes,
        each,
        header.scales_shape[-1],
        **given.format,
        GROUP=header.scale_group,
        HALF=unit is not None,
        FEW=FEW,
        WIDTH=shape.width,
        num_warps=shape.warps,
        num_stages=shape.stages,
        enable_fp_fusion=True,
    )
    return partial


def decode(weight: Tensor, header: PackedHeader, table: Tensor, out: Tensor, first: int) -> None:
    """Rows ``first ..`` (a multiple of 64) of the matrix over ``factor_of`` into out ``(rows, in)``."""
    rows, width = out.shape
    given = _Given(weight, header, table)
    across = 64 // min(4, triton.next_power_of_2(given.width))
    decode_kernel[(triton.cdiv(rows, HEIGHT), triton.cdiv(given.vectors, across))](
        *given.data,
        out,
        first,
        rows,
        width,
        header.out_features,
        given.vectors,
        *given.sizes,
        **given.format,
        WIDTH=across,
        num_warps=4,
        enable_fp_fusion=True,
    )


@triton.jit
def product_kernel(
    x, unit, data, table, relative, partial, rows, width, out, vectors, codes, bytes_, entries, each, groups,
    BITS: tl.constexpr, BYTES: tl.constexpr, FOLD: tl.constexpr,
    DIM: tl.constexpr, SUM: tl.constexpr, APART: tl.constexpr, E8P: tl.constexpr,
    GROUP: tl.constexpr, HALF: tl.constexpr, FEW: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Rows ``64 * program_id(0) ..`` times x over the vectors of split ``program_id(1)``."""
    row = tl.arange(0, FEW)[:, None]
    begin = tl.program_id(0) * HEIGHT
    line = begin + tl.arange(0, HEIGHT)[None, :]
    stored = tl.minimum((out - begin + 7) // 8 * 8, HEIGHT)
    total = tl.zeros([FEW, HEIGHT], tl.float32)
    first = tl.program_id(1) * each
    for turn in range(first, tl.minimum(first + each, tl.cdiv(vectors, WIDTH))):
        vector = turn * WIDTH + tl.arange(0, WIDTH)
        down = vector[:, None]
        inside = (line < out) & (down < vectors)
        if GROUP > 0:
            share = tl.load(relative + line * groups + down * DIM // GROUP, mask=inside, other=0.0)
        for d in tl.static_range(DIM):
            given = activations(x, unit, row, vector[None, :] * DIM + d, rows, width, HALF)
            value = coordinate(
                data, line, stored, codes, down, bytes_, inside, table, entries, d,
                BITS, BYTES, FOLD, DIM, SUM, APART, E8P,
            )  # fmt: skip
            if GROUP > 0:
                value = value * share
            total = tl.dot(given, value.to(given.dtype), total, input_precision="ieee")
    store_partial(partial, total, tl.program_id(1), row, begin, rows, out, HEIGHT)


@triton.jit
def decode_kernel(
    data, table, matrix, first, rows, width, out, vectors, codes, bytes_, entries,
    BITS: tl.constexpr, BYTES: tl.constexpr, FOLD: tl.constexpr,
    DIM: tl.constexpr, SUM: tl.constexpr, APART: tl.constexpr, E8P: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Codes to numbers."""
    begin = first + tl.program_id(0) * HEIGHT
    line = begin + tl.arange(0, HEIGHT)[:, None]
    stored = tl.minimum((out - begin + 7) // 8 * 8, HEIGHT)
    vector = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (line < first + rows) & (vector < vectors)
    for d in tl.static_range(DIM):
        value = coordinate(
            data, line, stored, codes, vector, bytes_, inside, table, entries, d,
            BITS, BYTES, FOLD, DIM, SUM, APART, E8P,
        )  # fmt: skip
        column = vector * DIM + d
        place = (line - first).to(tl.int64) * width + column
        tl.store(matrix + place, value.to(matrix.dtype.element_ty), mask=inside & (column < width))
