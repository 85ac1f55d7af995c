"""Single rows of a packed matrix: ``vq::packed_rows``, an embedding's lookup."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.kernels.decode import decode_rows
from vq.kernels.dispatch import declare, native, threads
from vq.kernels.formats import PANELS, PackedHeader, read_header
from vq.kernels.hadamard import hadamard, rotate_
from vq.kernels.linear_native import table_sizes
from vq.kernels.linear_reference import check_scales, check_table
from vq.kernels.panels import scale_rows_


def _check(index: Tensor, weight: Tensor, scales: Tensor, table: Tensor) -> PackedHeader:
    """Header of the weight; raises ValueError unless everything fits it."""
    header = read_header(weight)
    if header.layout != PANELS:
        raise ValueError(f"packed_rows: expected a matrix in layout 4, got layout {header.layout}")
    if index.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"index: expected int64 or int32, got {index.dtype}")
    check_scales(header, scales)
    check_table(header, table)
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < header.out_features:
        raise ValueError(
            f"index: expected numbers in [0, {header.out_features}), got {int(index.min())} to {int(index.max())}"
        )
    return header


def reference(
    index: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs: Tensor | None,
    table: Tensor,
    in_features: int,
) -> Tensor:
    """``vq::packed_rows`` in plain torch."""
    header = _check(index, weight, scales, table)
    flat = index.reshape(-1).long()
    unique, back = flat.unique(return_inverse=True)
    rows = [decode_rows(weight, header, table, int(i), 1) for i in unique]
    values = torch.cat(rows) if rows else weight.new_zeros(0, in_features, dtype=torch.float32)
    found = scale_rows_(values[back], scales[flat], header)
    if signs is not None:
        found = hadamard(found, None, signs)
    return found.reshape(*index.shape, in_features)


def _cpu(
    index: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs: Tensor | None,
    table: Tensor,
    in_features: int,
) -> Tensor:
    header = _check(index, weight, scales, table)
    flat, module = index.reshape(-1).long().contiguous(), native()
    assert module is not None
    values = torch.empty(flat.numel(), in_features)
    weight = weight.contiguous()
    table = (table if table.dtype == torch.uint8 else table.float()).contiguous()
    module.gather_tables(
        weight.data_ptr(),
        weight.numel(),
        table.data_ptr(),
        *table_sizes(table),
        flat.data_ptr(),
        flat.numel(),
        values.data_ptr(),
        threads(),
    )
    scale_rows_(values, scales[flat], header)
    if signs is not None and flat.numel():
        rotate_(values, None, signs)
    return values.reshape(*index.shape, in_features)


def _fake(index: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return weight.new_empty((*index.shape, rest[-1]), dtype=torch.float32)


packed_rows = declare(
    "packed_rows(Tensor index, Tensor weight, Tensor scales, Tensor? signs, Tensor table, "
    "SymInt in_features) -> Tensor",
    fake=_fake,
    reference=reference,
    cpu=_cpu,
)
"""``packed_rows(index, weight, scales, signs, table, in_features)``: rows of a matrix in layout 4.

Args:
    index: ``(*shape,)`` int64 or int32.
    weight: packed tensor, uint8 of one dimension.
    scales: float16 ``(out,)``, or ``(out, groups of columns)`` where the header says so.
    signs: uint8 sign bits: rows are stored rotated; None where they are not.
    table: see ``decode.decode_rows``.
    in_features: length of a row.

Returns:
    float32 ``(*shape, in)``: ``signs * H(scales * row)``.

Raises:
    ValueError: if anything does not fit the header.
"""
