"""What a packed layer may have beside its codes: outliers, a low-rank part, tables of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vq.kernels.sparse import sparse_dense, sparse_linear

CORE = ("weight", "scales", "signs_in", "signs_out")
SIDES = (
    "outlier_counts",
    "outlier_columns",
    "outlier_values",
    "low_rank_left",
    "low_rank_right",
    "tables",
)
PARTS = (*CORE, *SIDES)  # tensors of a layer that count as its bits
KEPT = ("scales", "outlier_values", "low_rank_left", "low_rank_right", "tables")  # keep their dtype
SCALED = (
    "scales",
    "outlier_counts",
    "outlier_values",
    "low_rank_left",
)  # change with a row's scale
_NARROW = 1 << 16  # widths up to here have column numbers of 16 bits


@dataclass(frozen=True)
class Sides:
    """Sizes of what stands beside the codes of one layer.

    Attributes:
        outliers: weights in the sparse part.
        rank: of the low-rank part.
        groups: groups of rows with a table of their own; 0: the codebook's table serves all.
    """

    outliers: int = 0
    rank: int = 0
    groups: int = 0

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return bool(self.outliers or self.rank or self.groups)

    @classmethod
    def of(cls, settings: Mapping[str, Any], rows: int, columns: int) -> Sides:
        """Sizes for a matrix.

        Args:
            settings: ``outliers: {share}``, ``low_rank: {rank}`` and ``tables: {rows}``, as options and checkpoints
                have them.
            rows: of the matrix.
            columns: of the matrix.
        """
        share = float((settings.get("outliers") or {}).get("share", 0.0))
        rank = int((settings.get("low_rank") or {}).get("rank", 0))
        tables = settings.get("tables")
        height = int((tables or {}).get("rows", 0)) or rows
        return cls(
            outliers=round(share * rows * columns),
            rank=min(rank, rows, columns),
            groups=-(-rows // min(height, rows)) if tables is not None else 0,
        )

    @classmethod
    def of_tensors(cls, name: str, tensors: Mapping[str, Tensor]) -> Sides:
        """Sizes of a stored layer."""

        def size(part: str) -> int:
            tensor = tensors.get(f"{name}.{part}")
            return 0 if tensor is None else tensor.shape[0]

        return cls(size("outlier_columns"), size("low_rank_right"), size("tables"))


def index_dtype(width: int) -> torch.dtype:
    """Type of stored column numbers and of counts of a row."""
    return torch.uint16 if width < _NARROW else torch.int32


def side_buffers(
    sides: Sides, out: int, width: int, table: tuple[int, int, int], device: Any
) -> dict[str, Tensor | None]:
    """Empty buffers by name; None for what a layer does not have.

    Args:
        sides: what it has.
        out: rows.
        width: columns.
        table: codes of a vector, entries, and dim of the codebook.
        device: where to make them.
    """
    small = index_dtype(width)
    shapes: dict[str, tuple[bool, tuple[int, ...], torch.dtype]] = {
        "outlier_counts": (sides.outliers > 0, (out,), small),
        "outlier_columns": (sides.outliers > 0, (sides.outliers,), small),
        "outlier_values": (sides.outliers > 0, (sides.outliers,), torch.float16),
        "low_rank_left": (sides.rank > 0, (out, sides.rank), torch.bfloat16),
        "low_rank_right": (sides.rank > 0, (sides.rank, width), torch.bfloat16),
        "tables": (sides.groups > 0, (sides.groups, *table), torch.float16),
    }
    return {
        name: torch.zeros(shape, dtype=dtype, device=device) if there else None
        for name, (there, shape, dtype) in shapes.items()
    }


def add_sides(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``y`` plus what the sparse and the low-rank part make of ``x``; y itself where there is neither."""
    buffers = layer._buffers
    counts, left = buffers["outlier_counts"], buffers["low_rank_left"]
    if counts is None and left is None:
        return y
    value = x if x.dtype == torch.float64 else x.float()
    total = y.to(value.dtype)
    if counts is not None:
        columns, values = buffers["outlier_columns"], buffers["outlier_values"]
        assert columns is not None and values is not None
        total = total + sparse_linear(value, counts, columns, values)
    if left is not None:
        right = buffers["low_rank_right"]
        assert right is not None
        total = total + (value @ right.to(value.dtype).T) @ left.to(value.dtype).T
    return total.to(y.dtype)


def side_weight(layer: nn.Module, width: int) -> Tensor | None:
    """The dense float32 matrix that sparse and low-rank part stand for; None where there is neither."""
    buffers = layer._buffers
    counts, left, total = buffers["outlier_counts"], buffers["low_rank_left"], None
    if left is not None:
        right = buffers["low_rank_right"]
        assert right is not None
        total = left.float() @ right.float()
    if counts is not None:
        columns, values = buffers["outlier_columns"], buffers["outlier_values"]
        assert columns is not None and values is not None
        sparse = sparse_dense(counts, columns, values, width)
        total = sparse if total is None else total + sparse
    return total


def check_sides(layer: nn.Module, width: int) -> None:
    """Raise ValueError for a sparse part that is none: a damaged file."""
    counts, columns = layer._buffers["outlier_counts"], layer._buffers["outlier_columns"]
    if counts is None or columns is None or counts.is_meta:
        return
    total, last = int(counts.long().sum()), int(columns.long().max())
    if total != columns.numel() or last >= width:
        raise ValueError(
            f"outliers: rows count {total} of them, {columns.numel()} are stored; the last column is {last} of "
            f"{width}: the sparse part is damaged, get the file again"
        )


def scale_rows(name: str, tensors: Mapping[str, Tensor], gain: Tensor) -> dict[str, Tensor]:
    """Stored tensors of a layer whose outputs are multiplied by gains ``(out,)``; those that change, by full name."""
    gain = gain.float().cpu()
    found = {f"{name}.scales": (tensors[f"{name}.scales"].float() * gain).to(torch.float16)}
    left = tensors.get(f"{name}.low_rank_left")
    if left is not None:
        found[f"{name}.low_rank_left"] = (left.float() * gain[:, None]).to(left.dtype)
    counts = tensors.get(f"{name}.outlier_counts")
    if counts is not None:
        values = tensors[f"{name}.outlier_values"]
        each = torch.repeat_interleave(gain, counts.long())
        found[f"{name}.outlier_values"] = (values.float() * each).to(values.dtype)
    return found


def describe_sides(layer: nn.Module) -> str:
    """What serves the parts beside the codes, for ``explain``; empty where there are none."""
    buffers = layer._buffers
    values, right = buffers["outlier_values"], buffers["low_rank_right"]
    text = ""
    if values is not None:
        text += f"; {values.numel()} outliers as weighted sums by rows, torch, float32"
    if right is not None:
        text += f"; low-rank part of rank {right.shape[0]} as two products, torch, float32"
    return text
