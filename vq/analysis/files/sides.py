"""What stands beside the codes of a packed layer, read by the written format (docs/checkpoint.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from vq.analysis.files.packed import Header, packed_codes
from vq.errors import VqError

SIDES = ("outlier_counts", "outlier_columns", "outlier_values", "low_rank_left", "low_rank_right")
COLUMNS = ("column_index", "column_codes", "column_scales", "column_table")


def beside(parts: Mapping[str, Tensor], rows: int, columns: int, name: str) -> Tensor | None:
    """Sparse and low-rank part as one dense matrix ``(rows, columns)`` float32; None where there is neither.

    Args:
        parts: stored tensors of the layer by the last part of their name.
        rows: of the matrix.
        columns: of the matrix.
        name: for messages.

    Raises:
        VqError: for a sparse part whose rows, columns and values do not fit each other.
    """
    total = None
    if "low_rank_left" in parts:
        total = parts["low_rank_left"].float() @ parts["low_rank_right"].float()
    if "outlier_counts" not in parts:
        return total
    counts = parts["outlier_counts"].long()
    where, values = parts["outlier_columns"].long(), parts["outlier_values"].float()
    fits = len(counts) == rows and int(counts.sum()) == len(where) == len(values)
    if not fits or (len(where) and int(where.max()) >= columns):
        raise VqError(f"{name}: its outliers do not fit a matrix of {rows} x {columns}")
    sparse = torch.zeros(rows, columns)
    sparse[torch.repeat_interleave(torch.arange(rows), counts), where] = values
    return sparse if total is None else total + sparse


def second_codes(parts: Mapping[str, Tensor], rows: int, columns: int, name: str) -> Tensor:
    """What the second codes of some columns stand for, in units of the row scales: ``(rows, columns)`` float32.

    Args:
        parts: stored tensors of the layer by the last part of their name, with ``column_index``.
        rows: of the matrix.
        columns: of the matrix.
        name: for messages.

    Raises:
        VqError: for an index, codes and a table that do not fit each other.
    """
    index, table = parts["column_index"].long(), parts["column_table"].float()
    bits, each = (len(table) - 1).bit_length(), -(-rows // table.shape[1])
    stream = np.unpackbits(parts["column_codes"].numpy(), bitorder="little")
    count = len(index) * each
    if len(stream) < count * bits or not len(index) or int(index.max()) >= columns:
        raise VqError(f"{name}: its second codes do not fit a matrix of {rows} x {columns}")
    fields = stream[: count * bits].reshape(count, bits).astype(np.int64)
    codes = torch.from_numpy((fields << np.arange(bits)).sum(1))
    values = table[codes].reshape(len(index), -1)[:, :rows]
    found = torch.zeros(rows, columns)
    found[:, index] = (values * parts["column_scales"].float()[:, None]).T
    return found


def decode_own(weight: Tensor, tables: Tensor, name: str) -> Tensor:
    """Values ``(out, in)`` in units of the codebook by tables ``(groups, codes of a vector, entries, dim)``.

    Args:
        weight: packed, with its header.
        tables: of the layer's own; each serves the same number of rows, the last one what is left.
        name: for messages.

    Raises:
        VqError: for codes that the tables do not have.
    """
    header = Header.of(weight[:64].numpy().tobytes(), name)
    codes = packed_codes(weight[64:], header)
    groups, stages, entries, dim = tables.shape
    if codes.shape[-1] != stages or int(codes.max()) >= entries or dim != header.dim:
        raise VqError(f"{name}: its codes are not those of its tables {tuple(tables.shape)}")
    group = torch.arange(len(codes)) // -(-header.out_features // groups)
    values = torch.zeros(*codes.shape[:2], dim)
    for stage in range(stages):
        values += tables[group[:, None], stage, codes[..., stage]].float()
    return values.reshape(len(codes), -1)[: header.out_features, : header.in_features]
