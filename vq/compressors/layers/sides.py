"""What a packed layer may have beside its codes: outliers, a low-rank part, tables of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vq.kernels.formats import read_header
from vq.kernels.layouts import unpack_rows
from vq.kernels.sparse import sparse_dense, sparse_linear

CORE = ("weight", "scales", "signs_in", "signs_out")
SIDES = (
    "outlier_counts",
    "outlier_columns",
    "outlier_values",
    "low_rank_left",
    "low_rank_right",
    "tables",
    "column_index",
    "column_codes",
    "column_scales",
    "column_table",
)
PARTS = (*CORE, *SIDES)  # tensors of a layer that count as its bits
KEPT = (  # keep their dtype
    "scales",
    "outlier_values",
    "low_rank_left",
    "low_rank_right",
    "tables",
    "column_scales",
    "column_table",
)
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
        columns: columns with second codes.
        column_dim: rows that a vector of those covers.
        column_entries: of their table.
        scale_group: columns that share a scale; 0: a row has one scale.
    """

    outliers: int = 0
    rank: int = 0
    groups: int = 0
    columns: int = 0
    column_dim: int = 0
    column_entries: int = 0
    scale_group: int = 0

    @property
    def any(self) -> bool:
        """Whether there is anything."""
        return any(astuple(self))

    def to_list(self) -> list[int]:
        """The sizes in their order, without zeros at the end."""
        found = list(astuple(self))
        while found and not found[-1]:
            found.pop()
        return found

    @classmethod
    def of(cls, settings: Mapping[str, Any], rows: int, columns: int) -> Sides:
        """Sizes for a matrix.

        Args:
            settings: ``outliers: {share}``, ``low_rank: {rank}``, ``tables: {rows}``, ``columns: {share, dim,
                entries}`` and ``group``, as options and checkpoints have them.
            rows: of the matrix.
            columns: of the matrix.
        """
        share = float((settings.get("outliers") or {}).get("share", 0.0))
        rank = int((settings.get("low_rank") or {}).get("rank", 0))
        tables = settings.get("tables")
        height = int((tables or {}).get("rows", 0)) or rows
        second = settings.get("columns") or {}
        return cls(
            outliers=round(share * rows * columns),
            rank=min(rank, rows, columns),
            groups=-(-rows // min(height, rows)) if tables is not None else 0,
            columns=max(1, round(second["share"] * columns)) if second else 0,
            column_dim=int(second.get("dim", 0)),
            column_entries=int(second.get("entries", 0)),
            scale_group=int(settings.get("group") or 0),
        )

    @classmethod
    def of_tensors(cls, name: str, tensors: Mapping[str, Tensor]) -> Sides:
        """Sizes of a stored layer."""

        def size(part: str) -> int:
            tensor = tensors.get(f"{name}.{part}")
            return 0 if tensor is None else tensor.shape[0]

        table = tensors.get(f"{name}.column_table")
        entries, dim = (0, 0) if table is None else table.shape
        weight = tensors.get(f"{name}.weight")
        return cls(
            outliers=size("outlier_columns"),
            rank=size("low_rank_right"),
            groups=size("tables"),
            columns=size("column_index"),
            column_dim=dim,
            column_entries=entries,
            scale_group=0 if weight is None or weight.is_meta else read_header(weight).scale_group,
        )


def index_dtype(width: int) -> torch.dtype:
    """Type of stored column numbers and of counts of a row."""
    return torch.uint16 if width < _NARROW else torch.int32


def code_bits(entries: int) -> int:
    """Bits of a second code."""
    return (entries - 1).bit_length()


def column_values(codes: Tensor, scales: Tensor, table: Tensor, rows: int) -> Tensor:
    """What second codes stand for, in units of the row scales.

    Args:
        codes: uint8, ``(n, ceil(rows / dim))`` of them one after the other.
        scales: ``(n,)``.
        table: ``(entries, dim)``.
        rows: of the matrix.

    Returns:
        float32 ``(n, rows)``.
    """
    entries, dim = table.shape
    each = -(-rows // dim)
    found = unpack_rows(codes, code_bits(entries), len(scales) * each)
    values = table.float()[found].reshape(len(scales), each * dim)[:, :rows]
    return values * scales.float()[:, None]


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
        **_column_buffers(sides, out, small),
    }
    return {
        name: torch.zeros(shape, dtype=dtype, device=device) if there else None
        for name, (there, shape, dtype) in shapes.items()
    }


def _column_buffers(
    sides: Sides, out: int, small: torch.dtype
) -> dict[str, tuple[bool, tuple[int, ...], torch.dtype]]:
    """Whether there is a part of the second codes, its shape, and its type."""
    count, dim, entries = sides.columns, max(1, sides.column_dim), max(2, sides.column_entries)
    size = -(-count * -(-out // dim) * code_bits(entries) // 8)
    return {
        "column_index": (count > 0, (count,), small),
        "column_codes": (count > 0, (size,), torch.uint8),
        "column_scales": (count > 0, (count,), torch.float16),
        "column_table": (count > 0, (entries, dim), torch.float16),
    }


def add_sides(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """``y`` plus what the parts beside the codes make of ``x``; y itself where there are none."""
    buffers = layer._buffers
    counts, left = buffers["outlier_counts"], buffers["low_rank_left"]
    index = buffers["column_index"]
    if counts is None and left is None and index is None:
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
    if index is not None:
        second = second_values(layer).to(value.dtype)
        scales = buffers["scales"]
        assert scales is not None
        total = total + (value[..., index.long()] @ second) * scales.to(value.dtype)
    return total.to(y.dtype)


def second_values(layer: nn.Module) -> Tensor:
    """What the second codes of a layer stand for, in units of its row scales: float32 ``(n, out)``.

    They are decoded once, and kept until one of their tensors changes.
    """
    names = ("column_codes", "column_scales", "column_table")
    codes, scales, table = parts = [layer._buffers[name] for name in names]
    assert codes is not None and scales is not None and table is not None
    rows = int(layer.out_features)  # type: ignore[arg-type]
    if torch.compiler.is_compiling() or type(codes) is not Tensor:
        return column_values(codes, scales, table, rows)
    key = tuple(
        (p.data_ptr(), 0 if p.is_inference() else p._version) for p in parts if p is not None
    )
    held: Any = layer.__dict__.get("_second")
    if held is None or held[0] != key:
        held = (key, column_values(codes, scales, table, rows))
        layer.__dict__["_second"] = held
    return held[1]


def second_weight(layer: nn.Module, width: int) -> Tensor | None:
    """The same as a dense matrix ``(out, width)``, zero in all other columns; None for a layer without."""
    index = layer._buffers["column_index"]
    if index is None:
        return None
    second = second_values(layer)
    found = second.new_zeros(second.shape[1], width)
    found[:, index.long()] = second.t()
    return found


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
    """Raise ValueError for a sparse part or second codes that are none: a damaged file."""
    index = layer._buffers["column_index"]
    if index is not None and not index.is_meta:
        steps = index.long().diff()
        if int(index.long().max()) >= width or bool((steps <= 0).any()):
            raise ValueError(
                f"columns: expected ascending numbers below {width}, got up to {int(index.long().max())}: the second "
                "codes are damaged, get the file again"
            )
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
    scales = tensors[f"{name}.scales"]
    each = gain if scales.ndim == 1 else gain[:, None]
    found = {f"{name}.scales": (scales.float() * each).to(torch.float16)}
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
    if buffers["column_index"] is not None:
        count = buffers["column_index"].numel()
        text += (
            f"; second codes of {count} columns, decoded once and kept, one product, torch, float32"
        )
    return text
