"""Exact nearest codeword, without ever forming a points x entries array."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vq.kernels import dispatch
from vq.kernels.search_reference import find_in_tiles

MOST_NEIGHBOURS = 32
_MOST_ROWS = (
    64  # rows of a codeword in the compiled kernel: dim, or twice dim with weights of each point
)


@dataclass(frozen=True)
class Neighbours:
    """What ``search`` found.

    Attributes:
        codes: ``(n, top)`` int32, nearest first.
        margins: ``(n,)`` float32, how much larger the cost of the second nearest is than that of the nearest
            (infinite for a table of one); None where it was not asked for.
    """

    codes: Tensor
    margins: Tensor | None = None


def nearest(
    x: Tensor, table: Tensor, weight: Tensor | None = None, penalty: Tensor | None = None
) -> Tensor:
    """Index of the nearest row of a table for every point; ``search`` with the defaults.

    Args:
        x: ``(n, dim)`` finite floats.
        table: ``(entries, dim)``.
        weight: not negative, broadcastable to x, or None.
        penalty: ``(entries,)``, added to the cost of a codeword, or None.

    Returns:
        int32 ``(n,)``.

    Raises:
        ValueError: for shapes that do not fit, or an empty table.
    """
    return search(x, table, weight, penalty).codes[:, 0]


def search(
    x: Tensor,
    table: Tensor,
    weight: Tensor | None = None,
    penalty: Tensor | None = None,
    *,
    top: int = 1,
    margin: bool = False,
) -> Neighbours:
    """The nearest rows of a table for every point.

    The cost ``sum_d weight_d (x_d - c_d)^2 + penalty_c`` is compared through ``sum_d weight_d (c_d^2 / 2 - x_d c_d) +
    penalty_c / 2`` in float32, with points and table moved to the table's middle where that is far from zero.
    Among equals the lowest index wins. Up to 32 coordinates run in a compiled kernel, more as matrix products in
    tiles that stay in cache. One weight per point (``(n, 1)``) changes no choice and costs nothing.

    Args:
        x: ``(n, dim)`` finite floats.
        table: ``(entries, dim)``.
        weight: not negative, broadcastable to x, or None.
        penalty: ``(entries,)``, added to the cost of a codeword, or None.
        top: how many neighbours of each point, 1 to 32.
        margin: also tell how much farther the second nearest is.

    Raises:
        ValueError: for shapes that do not fit, an empty table, or a ``top`` out of range.
    """
    _check(x, table, penalty, top)
    x, table = x.float().contiguous(), table.float().contiguous()
    factor, weight = _split_weight(x, weight, penalty)
    if penalty is not None:
        penalty = penalty.float().contiguous()
    codes, margins = _op(x, table, weight, penalty, top, margin)
    if not margin:
        return Neighbours(codes)
    return Neighbours(codes, margins if factor is None else margins * factor)


def _check(x: Tensor, table: Tensor, penalty: Tensor | None, top: int) -> None:
    if x.ndim != 2 or table.ndim != 2 or x.shape[1] != table.shape[1] or table.shape[0] == 0:
        raise ValueError(
            "nearest: expected x (n, dim) and table (entries, dim) with entries > 0, "
            f"got {tuple(x.shape)} and {tuple(table.shape)}"
        )
    if penalty is not None and penalty.shape != table.shape[:1]:
        raise ValueError(
            f"nearest: expected penalty ({table.shape[0]},), got {tuple(penalty.shape)}"
        )
    if not 1 <= top <= min(MOST_NEIGHBOURS, table.shape[0]):
        raise ValueError(
            f"nearest: top must be from 1 to {min(MOST_NEIGHBOURS, table.shape[0])} "
            f"for a table of {table.shape[0]}, got {top}"
        )


def _split_weight(
    x: Tensor, weight: Tensor | None, penalty: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """A factor ``(n,)`` of the cost that changes no choice, and weights ``(n or 1, dim)`` that do."""
    if weight is None:
        return None, None
    full = (1,) * (2 - weight.ndim) + tuple(weight.shape)
    if weight.ndim > 2 or any(
        own not in (1, want) for own, want in zip(full, x.shape, strict=True)
    ):
        raise ValueError(
            f"nearest: expected weight broadcastable to {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    weight = weight.float().reshape(full)
    if full[1] == 1 and x.shape[1] > 1:
        if penalty is None:
            return weight[:, 0], None
        weight = weight.expand(-1, x.shape[1])
    return None, weight.contiguous()


def _cpu(
    x: Tensor,
    table: Tensor,
    weight: Tensor | None,
    penalty: Tensor | None,
    top: int,
    margin: bool,
) -> tuple[Tensor, Tensor]:
    count, dim = x.shape
    shared = weight is not None and weight.shape[0] == 1
    if (dim if weight is None or shared else 2 * dim) > _MOST_ROWS:
        return find_in_tiles(x, table, weight, penalty, top, margin)
    native = dispatch.native()
    assert native is not None
    shift = torch.empty(dim)
    native.nearest_shift(table.data_ptr(), len(table), dim, shift.data_ptr())
    codes = torch.empty(count, top, dtype=torch.int32)
    margins = torch.empty(count if margin else 0)
    native.nearest(
        x.data_ptr(),
        table.data_ptr(),
        shift.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if penalty is None else penalty.data_ptr(),
        count,
        dim,
        len(table),
        0 if shared else dim,
        top,
        codes.data_ptr(),
        margins.data_ptr() if margin else 0,
        dispatch.threads(),
    )
    return codes, margins


def _fake(
    x: Tensor,
    table: Tensor,
    weight: Tensor | None,
    penalty: Tensor | None,
    top: int,
    margin: bool,
) -> tuple[Tensor, Tensor]:
    count = x.shape[0]
    return (
        x.new_empty((count, top), dtype=torch.int32),
        x.new_empty(count if margin else 0, dtype=torch.float32),
    )


_op = dispatch.declare(
    "nearest(Tensor x, Tensor table, Tensor? weight, Tensor? penalty, int top, bool margin)"
    " -> (Tensor, Tensor)",
    fake=_fake,
    reference=find_in_tiles,
    cpu=_cpu,
    triton="vq.kernels.triton.search:find",
)
