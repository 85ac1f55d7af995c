"""The compiled kernels behind ``vq::packed_linear``.

Everything is checked here or in the kernel against the header of the weight, every call: the kernels get bare
addresses. What the quick path does not take goes through ``check``, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vq.kernels.dispatch import native, threads
from vq.kernels.formats import HASH_CODE, HEADER_BYTES, TILES, PackedHeader, read_header
from vq.kernels.hadamard import rotate_
from vq.kernels.linear_reference import (
    INTEGER_COLUMNS,
    INTEGER_ROWS,
    check,
    integer_mode,
    panels,
    reference,
    transposed_reference,
)

PLANES = {"int8": 1, "int15": 2}


def _decode_native(
    weight: Tensor, header: PackedHeader, table: Tensor, out: Tensor, first: int
) -> Tensor:
    """Rows ``first ..`` into out, float32 ``(rows, in)``; the compiled form of ``decode.decode_rows``."""
    module, rows, bytes_ = _native(), out.shape[0], weight.numel()
    if header.layout == TILES:
        module.decode_trellis(
            weight.data_ptr(), bytes_, table.data_ptr(), first, rows, out.data_ptr(), threads()
        )
    else:
        module.decode_rows(
            weight.data_ptr() + HEADER_BYTES,
            header.code_bits,
            table.data_ptr(),
            table.shape[0],
            header.dim,
            header.in_features,
            first,
            rows,
            out.data_ptr(),
            threads(),
        )
    return out


def _decoded(
    weight: Tensor, header: PackedHeader, table: Tensor
) -> Iterator[tuple[int, int, Tensor]]:
    """Panels of the matrix in one buffer that is used again: first row, rows, float32 ``(rows, in)``."""
    hashed = header.layout == TILES and header.code == HASH_CODE
    table = (table if hashed else table.float()).contiguous()
    weight = weight.contiguous()
    buffer = None
    for first, rows in panels(header):
        if buffer is None:
            buffer = torch.empty(rows, header.in_features)
        yield first, rows, _decode_native(weight, header, table, buffer[:rows], first)


def _native() -> Any:
    module = native()
    assert module is not None, "the cpu backend is chosen only where the compiled kernels exist"
    return module


def _signs(signs: Tensor | None, count: int) -> int:
    """Address of sign bits, 0 for none, -1 for a tensor the kernel cannot take."""
    if signs is None:
        return 0
    fits = signs.dtype is torch.uint8 and signs.numel() == (count + 7) // 8
    return signs.data_ptr() if fits and signs.is_contiguous() else -1


def _quick(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> Tensor | None:
    """The integer modes in one call, or None if this is not a case for them."""
    planes = PLANES.get(mode, 0)
    width, out = x.shape[-1] if x.ndim else 0, scales.numel()
    rows = x.numel() // width if width else 0
    if not (planes and 0 < rows <= INTEGER_ROWS and width <= INTEGER_COLUMNS):
        return None
    types = (x.dtype, weight.dtype, scales.dtype, table.dtype)
    first, last = _signs(signs_in, width), _signs(signs_out, out)
    if types not in _TYPES or table.numel() != 64 or first < 0 or last < 0:
        return None
    if not (weight.is_contiguous() and scales.is_contiguous() and table.is_contiguous()):
        return None
    given = x if x.dtype is torch.float32 else x.float()
    given = given if given.is_contiguous() else given.contiguous()
    y = torch.empty((*x.shape[:-1], out), dtype=torch.float32)
    done = _native().packed_linear(
        given.data_ptr(),
        rows,
        weight.data_ptr(),
        weight.numel(),
        scales.data_ptr(),
        first,
        last,
        table.data_ptr(),
        width,
        out,
        planes,
        y.data_ptr(),
        threads(),
    )
    if not done:
        return None
    return y if x.dtype is torch.float32 else y.to(x.dtype)


_TYPES = {
    (dtype, torch.uint8, torch.float16, torch.int8)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
}


def cpu(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> Tensor:
    """``vq::packed_linear`` for CPU tensors."""
    y = _quick(x, weight, scales, signs_in, signs_out, table, mode)
    if y is not None:
        return y
    header = check(x, weight, scales, signs_in, signs_out, table, mode)
    slow = x.dtype == torch.float64 or not x.numel()
    if slow or integer_mode(header, x.numel() // header.in_features, mode):
        return reference(x, weight, scales, signs_in, signs_out, table, mode)
    rows = x.reshape(-1, header.in_features).float()
    if signs_in is not None:
        rows = rotate_(rows.clone(memory_format=torch.contiguous_format), signs_in, None)
    y = torch.empty(rows.shape[0], header.out_features)
    for first, count, panel in _decoded(weight, header, table):
        torch.mm(rows, panel.T, out=y[:, first : first + count])
    y *= scales.float()
    if signs_out is not None:
        rotate_(y, None, signs_out)
    return y.reshape(*x.shape[:-1], header.out_features).to(x.dtype)


def transposed_cpu(
    grad: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    in_features: int,
) -> Tensor:
    """``vq::packed_linear_transposed`` for CPU tensors."""
    if grad.dtype == torch.float64:
        return transposed_reference(grad, weight, scales, signs_in, signs_out, table, in_features)
    header = read_header(weight)
    rows = grad.reshape(-1, header.out_features).float()
    if signs_out is not None:
        rows = rotate_(rows.clone(memory_format=torch.contiguous_format), signs_out, None)
    rows = rows * scales.float()
    total = rows.new_zeros(rows.shape[0], header.in_features)
    for first, count, panel in _decoded(weight, header, table):
        total.addmm_(rows[:, first : first + count], panel)
    if signs_in is not None:
        rotate_(total, None, signs_in)
    return total.reshape(*grad.shape[:-1], header.in_features).to(grad.dtype)
