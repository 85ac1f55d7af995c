"""Coordinate descent over codes: block columns are rounded again, each given all others; only improvements count.

K. Behdin et al., "QuantEase: optimization-based quantization for language models", 2023, algorithm 1, for block columns
of any codebook: with all other columns fixed, the loss of a block is ``(t - q) H_jj (t - q)ᵀ`` plus a constant, with
``t = x_j + (Σ_{k≠j} e_k H_kj) H_jj⁻¹``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.codebooks import Additive, KMeans
from vq.codebooks.compose import has_table, table_of
from vq.compressors.rounding.feedback import SUPERBLOCK, Book, from_tiles, to_tiles
from vq.compressors.rounding.scales import GroupScales
from vq.compressors.rounding.tables import OwnTables, search_tables

_GAIN = 1e-6  # relative improvement that counts; less is rounding noise


def polish(
    x: Tensor,
    codes: Tensor,
    values: Tensor,
    metric: Tensor,
    book: Book,
    row_weight: Tensor | None = None,
    sweeps: int = 1,
    scales: GroupScales | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Codes and values after some sweeps, whose loss ``Σ_r w_r e_r H e_rᵀ`` is never above what it was.

    Args:
        x: ``(rows, columns)``, whole tiles, in units of the codebook, or of what ``scales`` leads to.
        codes: ``(row tiles, column tiles, *codes_shape)``.
        values: what they stand for, like x but in units of the codebook.
        metric: ``(columns, columns)`` with a Cholesky factor.
        book: that made the codes.
        row_weight: ``(rows,)``, counts where a vector covers several rows.
        sweeps: at most; it stops earlier when nothing changes.
        scales: units of the codebook where they are those of groups of columns.

    Returns:
        Codes, values, and how many vectors changed.
    """
    reached = values if scales is None else values * scales.spread(x.shape[1])
    codes, error, changes = codes.clone(), x - reached, 0
    weight = torch.ones(len(x)) if row_weight is None else row_weight
    search = _Search(book)
    for _ in range(sweeps):
        changed = _sweep(codes, error, x, metric, search, weight, scales)
        changes += changed
        if not changed:
            break
    values = from_tiles(book.decode(codes), book.tile) if changes else values
    return codes, values, changes


def _sweep(
    codes: Tensor,
    error: Tensor,
    x: Tensor,
    metric: Tensor,
    search: _Search,
    weight: Tensor,
    scales: GroupScales | None,
) -> int:
    """One pass from the last block column to the first; codes and error are changed in place."""
    block, n, changed = search.book.tile[1], x.shape[1], 0
    gradient = error @ metric
    step = max(block, SUPERBLOCK // block * block)
    for stop in range(n, 0, -step):
        start = max(0, stop - step)
        before = error[:, start:stop].clone()
        own = gradient[:, start:stop].clone()
        for j in range(stop - block, start - 1, -block):
            here = slice(j, j + block)
            local = own[:, j - start : j - start + block]
            found = _improve(
                codes[:, j // block],
                error[:, here],
                local,
                metric[here, here],
                x[:, here],
                search,
                weight,
                None if scales is None else scales.at(j),
            )
            if found is not None:
                codes[:, j // block], moved, count = found
                error[:, here] += moved
                own += moved @ metric[here, start:stop]
                changed += count
        gradient += (error[:, start:stop] - before) @ metric[start:stop]
    return changed


def _improve(
    codes: Tensor,
    error: Tensor,
    gradient: Tensor,
    block: Tensor,
    x: Tensor,
    search: _Search,
    weight: Tensor,
    unit: Tensor | None,
) -> tuple[Tensor, Tensor, int] | None:
    """Codes of one block column given all others, the change of its error, and how many vectors changed; or None."""
    factor = torch.linalg.cholesky(block)
    away = torch.cholesky_solve((gradient - error @ block).t(), factor).t()  # Σ e_k H_kj H_jj⁻¹
    found, value = search(x + away if unit is None else (x + away) / unit, factor)
    new = x - (value if unit is None else value * unit)
    gain = _cost(error + away, block) - _cost(new + away, block)
    scale = _cost(error + away, block)
    height = search.book.tile[0]
    gain, scale = ((v * weight).reshape(-1, height).sum(1) for v in (gain, scale))
    take = gain > _GAIN * scale
    count = int(take.sum())
    if not count:
        return None
    rows = take.repeat_interleave(height)[:, None]
    shape = (-1, *[1] * (codes.ndim - 1))
    return (
        torch.where(take.reshape(shape), found, codes),
        torch.where(rows, new - error, 0.0),
        count,
    )


def _cost(x: Tensor, block: Tensor) -> Tensor:
    return ((x @ block) * x).sum(1)


class _Search:
    """The best vectors of a codebook under a full metric, or good ones where its vectors cannot be listed."""

    def __init__(self, book: Book) -> None:
        self.book = book
        other: Any = book
        self.tables: Tensor | None = None
        self.beam = int(getattr(book, "beam", 1))
        if isinstance(book, Additive):
            self.tables = book.tables
        elif isinstance(book, KMeans):
            self.tables = book.table[None]
        elif not isinstance(book, OwnTables) and book.tile[0] == 1 and has_table(other):
            self.tables = table_of(other)[None]

    def __call__(self, wanted: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Codes ``(row tiles, *codes_shape)`` and values ``(rows, columns of a tile)`` for one block column.

        Args:
            wanted: ``(rows, columns of a tile)``.
            factor: lower Cholesky factor of the metric.
        """
        tiles = to_tiles(wanted, self.book.tile)
        if isinstance(self.book, OwnTables):
            codes = self.book.encode_under(tiles, factor)
        elif self.tables is None or tiles.shape[-1] == 1:
            codes = self.book.encode(tiles)
        else:
            flat = search_tables(tiles[:, 0] @ factor, self.tables @ factor, self.beam)
            codes = flat[:, None]
        return codes[:, 0], from_tiles(self.book.decode(codes), self.book.tile)
