"""Products with a sparse matrix that is stored by rows."""

from __future__ import annotations

import torch
from torch import Tensor


def sparse_linear(x: Tensor, counts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """``x @ S.T`` for a sparse S, in the precision of x; differentiable in x.

    Each row of S is a bag of columns of x that are weighted and summed, in the order in which they are stored: the
    same bits for any number of threads, and no intermediate result larger than x and y.

    Args:
        x: ``(*batch, in)`` floating point.
        counts: integers ``(out,)``, how many numbers each row has.
        columns: integers ``(n,)`` below ``in``, row after row.
        values: ``(n,)``.

    Returns:
        ``(*batch, out)`` in x's dtype; float32 and float64 are computed as they are, all else in float32.
    """
    value = x if x.dtype == torch.float64 else x.float()
    flat = value.reshape(-1, x.shape[-1])
    y = torch.nn.functional.embedding_bag(
        columns.long(),
        flat.t().contiguous(),
        row_starts(counts)[:-1],
        mode="sum",
        per_sample_weights=values.to(flat.dtype),
    )
    return y.t().reshape(*x.shape[:-1], counts.numel()).to(x.dtype)


def row_starts(counts: Tensor) -> Tensor:
    """Row pointers ``(out + 1,)`` int64 of counts ``(out,)``."""
    ends = counts.long().cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])


def sparse_dense(counts: Tensor, columns: Tensor, values: Tensor, width: int) -> Tensor:
    """S as a dense float32 matrix ``(out, width)``."""
    dense = torch.zeros(counts.numel(), width, dtype=torch.float32, device=values.device)
    rows = torch.repeat_interleave(torch.arange(counts.numel(), device=dense.device), counts.long())
    dense[rows, columns.long()] = values.float()
    return dense
