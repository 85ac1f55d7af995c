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
from vq.kernels.formats import (
    HEADER_BYTES,
    PANELS,
    TILES,
    PackedHeader,
    read_header,
)
from vq.kernels.hadamard import rotate_
from vq.kernels.linear_reference import (
    INTEGER_COLUMNS,
    INTEGER_ROWS,
    VALUE_ROWS,
    check,
    integer_mode,
    panels,
    reference,
    transposed_reference,
)
from vq.kernels.panels import TOKENS, scale_rows_

PLANES = {"int8": 1, "int15": 2}
ACTIVATIONS = {"float": 0, "int8": 1, "int15": 2}


def table_sizes(table: Tensor) -> tuple[int, int, int]:
    """Parts (0 for the bytes of E8P), entries and width of a table of layout 4, as the kernels take them."""
    parts, entries, width = (0, *table.shape) if table.dtype == torch.uint8 else table.shape
    return parts, entries, width


def _decode_native(
    weight: Tensor, header: PackedHeader, table: Tensor, out: Tensor, first: int
) -> Tensor:
    """Rows ``first ..`` into out, float32 ``(rows, in)``; the compiled form of ``decode.decode_rows``."""
    module, rows, bytes_ = _native(), out.shape[0], weight.numel()
    if header.layout == TILES:
        module.decode_trellis(
            weight.data_ptr(), bytes_, table.data_ptr(), first, rows, out.data_ptr(), threads()
        )
    elif header.layout == PANELS:
        module.decode_tables(
            weight.data_ptr(),
            bytes_,
            table.data_ptr(),
            *table_sizes(table),
            first,
            rows,
            out.data_ptr(),
            threads(),
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
    weight: Tensor, header: PackedHeader, table: Tensor, scales: Tensor
) -> Iterator[tuple[int, int, Tensor]]:
    """Panels of the matrix in one buffer that is used again: first row, rows, float32 ``(rows, in)``.

    They are in units of the row scales; where columns share scales, these are in them.
    """
    bytes_ = table.dtype in (torch.int8, torch.uint8)  # levels of the hash code, patterns of E8P
    table = (table if bytes_ else table.float()).contiguous()
    weight = weight.contiguous()
    buffer = None
    for first, rows in panels(header):
        if buffer is None:
            buffer = torch.empty(rows, header.in_features)
        panel = _decode_native(weight, header, table, buffer[:rows], first)
        if header.scale_group:
            scale_rows_(panel, scales[first : first + rows], header)
        yield first, rows, panel


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
    """Few rows straight from packed bits in one call, or None if this is not a case for that."""
    code = ACTIVATIONS.get(mode, -1)
    width, out = x.shape[-1] if x.ndim else 0, scales.shape[0] if scales.ndim else 0
    rows = x.numel() // width if width else 0
    form = (table.ndim, table.dtype)
    tables, valued = form in _TABLES, form == _VALUES
    most = TOKENS if tables else VALUE_ROWS if valued and code == 0 else INTEGER_ROWS
    if not (code + tables + valued > 0 and 0 < rows <= most and width <= INTEGER_COLUMNS):
        return None
    types = (x.dtype, weight.dtype, scales.dtype, table.dtype)
    first, last = _signs(signs_in, width), _signs(signs_out, out)
    if types not in _TYPES or first < 0 or last < 0:
        return None
    if not (tables or valued or table.dtype is torch.int8):
        return None
    if not (weight.is_contiguous() and scales.is_contiguous() and table.is_contiguous()):
        return None
    given = x if x.dtype is torch.float32 else x.float()
    given = given if given.is_contiguous() else given.contiguous()
    y = torch.empty((*x.shape[:-1], out), dtype=torch.float32)
    shared = (scales.data_ptr(), first, last, table.data_ptr())
    begin = (given.data_ptr(), rows, weight.data_ptr(), weight.numel(), *shared)
    if tables:
        sizes = table_sizes(table)
        rest = (width, out, scales.numel(), code, y.data_ptr(), threads())
        done = _native().tables_linear(*begin, *sizes, *rest)
    else:
        rest = (table.numel(), width, out, PLANES.get(mode, 0), y.data_ptr(), threads())
        done = scales.ndim == 1 and _native().packed_linear(*begin, *rest)
    if not done:
        return None
    return y if x.dtype is torch.float32 else y.to(x.dtype)


_TABLES = {(3, torch.float32), (2, torch.uint8)}  # sums of vectors, E8P
_VALUES = (2, torch.float32)  # of a trellis; the kernel refuses other layouts
_TYPES = {
    (dtype, torch.uint8, torch.float16, table)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    for table in (torch.int8, torch.uint8, torch.float32)
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
    for first, count, panel in _decoded(weight, header, table, scales):
        torch.mm(rows, panel.T, out=y[:, first : first + count])
    if not header.scale_group:
        y *= scales.float()
    if signs_out is not None:
        rotate_(y, None, signs_out)
    return y.reshape(*x.shape[:-1], header.out_features).to(x.dtype)


def step_kernel(weight: Tensor, table: Tensor) -> str:
    """What multiplies a trellis whose values stand in a table, in the integer modes; empty where nothing does."""
    table, weight = table.float().contiguous(), weight.contiguous()
    if weight.is_meta:
        return "values of a step as 14-bit integers"
    return str(_native().trellis_kernel(weight.data_ptr(), weight.numel(), table.data_ptr()))


def kernel_name(weight: Tensor, table: Tensor, mode: str, rows: int = 1) -> str:
    """What serves ``rows`` rows of x and a matrix in layout 4."""
    table, weight = table.contiguous(), weight.contiguous()
    if weight.is_meta:
        return "codes of a table"
    where = (weight.data_ptr(), weight.numel(), table.data_ptr(), *table_sizes(table))
    return str(_native().tables_kernel(*where, ACTIVATIONS[mode], rows))


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
    if not header.scale_group:
        rows = rows * scales.float()
    total = rows.new_zeros(rows.shape[0], header.in_features)
    for first, count, panel in _decoded(weight, header, table, scales):
        total.addmm_(rows[:, first : first + count], panel)
    if signs_in is not None:
        rotate_(total, None, signs_in)
    return total.reshape(*grad.shape[:-1], header.in_features).to(grad.dtype)
