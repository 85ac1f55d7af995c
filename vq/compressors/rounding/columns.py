"""Outlier columns: inputs with the largest energy get a second code for each of their weights, from tables of its own.

Y. Liu et al., "VPTQ: extreme low-bit vector post-training quantization for large language models", EMNLP 2024 (arXiv
2409.17066), sections 3.2 and 3.3: columns are ranked by the diagonal of the Hessian, the first of them have a codebook
and a vector length of their own, and vectors run along the outputs within one column. Here that codebook is a residual
one: its codes stand for what the codes of all columns leave in these.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vq.codebooks import KMeans
from vq.compressors.layers.sides import code_bits, column_values, index_dtype
from vq.compressors.rounding.feedback import block_ldl, feedback_rounding
from vq.compressors.rounding.options import ColumnOptions
from vq.kernels.kmeans1d import optimal_levels
from vq.kernels.layouts import pack_rows
from vq.kernels.search import nearest

_DAMPING = 1e-6  # of the Hessian of the chosen columns, which is damped already


@dataclass(frozen=True, eq=False)
class Columns:
    """Second codes of some columns, in units of the row scales, as they are stored.

    Attributes:
        index: ``(n,)`` the columns, ascending.
        codes: uint8, codes ``(n, ceil(out / dim))`` one after the other, see ``vq.kernels.layouts.pack_rows``.
        scales: float16 ``(n,)``, of each column.
        table: float16 ``(entries, dim)``; a vector covers ``dim`` rows of one column.
    """

    index: Tensor
    codes: Tensor
    scales: Tensor
    table: Tensor

    def values(self, rows: int) -> Tensor:
        """What the codes stand for: float32 ``(rows, n)``."""
        return column_values(self.codes, self.scales, self.table, rows).t()

    def dense(self, rows: int, width: int) -> Tensor:
        """The same in place: float32 ``(rows, width)``, zero in all other columns."""
        found = torch.zeros(rows, width)
        found[:, self.index.long()] = self.values(rows)
        return found


def choose_columns(metric: Tensor, count: int) -> Tensor:
    """The columns with the largest diagonal of the Hessian: int64 ``(count,)``, ascending."""
    order = metric.diagonal().argsort(descending=True, stable=True)
    return order[:count].sort().values


class _Down:
    """A table whose vectors run down a column; rows count by their weight.

    Args:
        table: ``(entries, dim)``.
        weight: ``(rows,)``, whole vectors.
    """

    def __init__(self, table: Tensor, weight: Tensor) -> None:
        self.table, self.weight = table, weight.reshape(-1, 1, table.shape[1])

    @property
    def tile(self) -> tuple[int, int]:
        """Some rows of one column."""
        return self.table.shape[1], 1

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(row tiles, columns)`` of ``(row tiles, columns, dim)``."""
        assert weight is None
        own = self.weight.expand(x.shape).reshape(-1, x.shape[-1])
        return nearest(x.reshape(own.shape).contiguous(), self.table, own).reshape(x.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """The inverse."""
        return self.table[codes.long()]


def fit_columns(
    error: Tensor,
    metric: Tensor,
    index: Tensor,
    options: ColumnOptions,
    row_weight: Tensor,
    seed: int,
    before: Columns | None = None,
) -> Columns:
    """Second codes that make ``Σ_r w_r (e_r - c_r) H (e_r - c_r)ᵀ`` small, for c that is zero outside the columns.

    The best real c is ``(E H)_c H_cc⁻¹``, and any other one costs ``(c - c*) H_cc (c - c*)ᵀ`` more. It is rounded with
    error feedback under ``H_cc`` to a table that is fitted to it, weighted; then the columns' scales are refitted.

    Args:
        error: E ``(out, in)``, what the other codes leave, in units of the row scales.
        metric: damped H.
        index: int64 ``(n,)``, the columns.
        options: length of the vectors and entries of the table.
        row_weight: ``(out,)``, w.
        seed: of the fit of the table.
        before: second codes that stay where they are better.

    Raises:
        ValueError: for fewer vectors than entries.
    """
    own = metric[index][:, index]
    wanted = torch.cholesky_solve((error @ metric[:, index]).t(), torch.linalg.cholesky(own)).t()
    mass = row_weight / row_weight.sum()
    scales = (wanted.square() * mass[:, None]).sum(0).sqrt()
    scales = _half(torch.where(scales > 0, scales, torch.ones_like(scales)))
    pad = (0, 0, 0, -len(error) % options.dim)
    units = torch.nn.functional.pad(wanted / scales, pad)
    mass = torch.nn.functional.pad(mass, pad[2:])
    table = _table(units, mass[:, None] * scales.square() * own.diagonal(), options, seed)
    feedback, _ = block_ldl(own * scales * scales[:, None], 1, _DAMPING)
    codes, values = feedback_rounding(units, feedback, _Down(table, mass))
    scales = _refit(wanted, values[: len(error)], own, row_weight, scales)
    found = Columns(
        index=index.to(index_dtype(error.shape[1])),
        codes=pack_rows(codes.t(), code_bits(options.entries)),
        scales=scales.to(torch.float16),
        table=table.to(torch.float16),
    )
    if before is not None:
        losses = [_loss(wanted - c.values(len(error)), own, row_weight) for c in (found, before)]
        found = found if losses[0] < losses[1] else before
    return found


def _half(x: Tensor) -> Tensor:
    """As float16 has it, above zero."""
    return x.clamp(2.0**-24, 65504.0).to(torch.float16).float()


def _table(units: Tensor, weight: Tensor, options: ColumnOptions, seed: int) -> Tensor:
    """Table ``(entries, dim)`` fitted to vectors down the columns ``(rows, n)``, as float16 has it."""
    dim, entries = options.dim, options.entries
    vectors, own = (x.t().reshape(-1, dim) for x in (units, weight))
    if len(vectors) < entries:
        raise ValueError(
            f"columns: {units.shape[1]} columns of {units.shape[0]} weights are {len(vectors)} vectors of {dim}, fewer "
            f"than the {entries} entries of their table; take fewer entries, or a larger share"
        )
    if dim == 1:
        table = optimal_levels(vectors.t(), entries, own.t())[0].t()
    else:
        book = KMeans(dim, entries)
        table = book.fit(vectors, own, torch.Generator().manual_seed(seed)).table
    return table.to(torch.float16).float().contiguous()


def _refit(wanted: Tensor, values: Tensor, own: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Scales of the columns that minimise the loss for given codes; the old ones where they are not positive."""
    weighted = values * weight[:, None]
    gram = own * (values.t() @ weighted)
    gram.diagonal().add_(gram.diagonal().mean() * _DAMPING + 1e-30)
    right = ((wanted @ own) * weighted).sum(0)
    factor, info = torch.linalg.cholesky_ex(gram)
    if int(info):
        return scales
    best = torch.cholesky_solve(right[:, None], factor)[:, 0]
    fine = torch.isfinite(best) & (best > 0)
    return _half(torch.where(fine, best, scales))


def _loss(error: Tensor, own: Tensor, weight: Tensor) -> float:
    return float((((error @ own) * error).sum(1) * weight).double().sum())
