"""Tables that belong to one matrix, or to some rows of it.

Scalars with a table a row, weighted by the diagonal of the Hessian: S. Kim et al., "SqueezeLLM", ICML 2024, section
4.1. Vectors with a table for a group of rows: M. van Baalen et al., "GPTVQ", 2024, sections 3.2 and 3.3 (weighted
start, then centroids under the full loss). Sums of entries of several tables, beam search and least squares under the
Hessian: V. Egiazarian et al., "AQLM", ICML 2024, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.codebooks import Additive, Codebook, KMeans
from vq.compressors.rounding.feedback import to_tiles
from vq.kernels.beam import beam_search
from vq.kernels.kmeans1d import optimal_levels
from vq.kernels.search import nearest

_FEW = 64  # groups up to here are searched one after another
_GATHER = 1 << 22  # numbers of tables that are gathered at once
_STEPS = 15  # of conjugate gradients


class OwnTables:
    """Tables ``(groups, stages, entries, dim)`` whose vectors add up, each for the rows of its group.

    Args:
        tables: rounded to float16, as they are stored.
        group: int64 ``(rows,)``, group of each row, ascending.
        beam: of the search over several stages.
    """

    def __init__(self, tables: Tensor, group: Tensor, beam: int = 1) -> None:
        self.tables = tables.to(torch.float16).float()
        self.group, self.beam = group, beam
        ends = torch.bincount(group, minlength=len(tables)).cumsum(0).tolist()
        self.rows = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]

    @property
    def tile(self) -> tuple[int, int]:
        """One row, dim columns."""
        return 1, self.tables.shape[-1]

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes of ``(rows, vectors, dim)``: ``(rows, vectors)``, for several stages ``(rows, vectors, stages)``."""
        if self.tables.shape[1] == 1 and len(self.tables) > _FEW:
            return self._gathered(x, self.tables[:, 0], weight)
        found = []
        for number, rows in enumerate(self.rows):
            part = x[rows].reshape(-1, x.shape[-1])
            own = None if weight is None else weight.expand(x.shape)[rows].reshape(part.shape)
            codes = search_tables(part, self.tables[number], self.beam, own)
            found.append(codes.reshape(*x[rows].shape[:-1], *codes.shape[1:]))
        return torch.cat(found)

    def encode_under(self, x: Tensor, factor: Tensor) -> Tensor:
        """The same under the metric ``C Cᵀ``."""
        if x.shape[-1] == 1:
            return self.encode(x)
        turned = OwnTables.__new__(OwnTables)
        turned.tables, turned.group = self.tables @ factor, self.group
        turned.beam, turned.rows = self.beam, self.rows
        return turned.encode(x @ factor)

    def _gathered(self, x: Tensor, tables: Tensor, weight: Tensor | None) -> Tensor:
        """Search of many small tables, by distances to all entries."""
        entries, dim = tables.shape[1:]
        each = x.shape[1] * entries * dim
        found = []
        for first in range(0, len(x), max(1, _GATHER // each)):
            rows = slice(first, first + max(1, _GATHER // each))
            distance = (x[rows, :, None, :] - tables[self.group[rows], None]).square()
            if weight is not None:
                distance = distance * weight.expand(x.shape)[rows, :, None, :]
            found.append(distance.sum(-1).argmin(-1))
        return torch.cat(found).to(torch.int32)

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(rows, vectors, dim)``."""
        stages = self.tables.shape[1]
        each = codes[..., None] if stages == 1 else codes
        group = self.group[:, None]
        total = self.tables[group, 0, each[..., 0].long()]
        for stage in range(1, stages):
            total = total + self.tables[group, stage, each[..., stage].long()]
        return total


def search_tables(x: Tensor, tables: Tensor, beam: int, weight: Tensor | None = None) -> Tensor:
    """Codes of vectors ``(n, dim)`` for tables ``(stages, entries, dim)``: ``(n,)``, or ``(n, stages)`` for several."""
    if len(tables) == 1:
        return nearest(x.contiguous(), tables[0].contiguous(), weight)
    return beam_search(x.contiguous(), tables.contiguous(), weight, beam)


def start_tables(
    x: Tensor, weight: Tensor, book: Codebook, heights: list[tuple[int, int]], seed: int
) -> OwnTables:
    """Tables fitted to the rows of each group, weighted.

    Args:
        x: ``(rows, columns)`` in units, whole vectors.
        weight: ``(columns,)``, importance of each.
        book: ``kmeans`` or ``additive``: says dim, entries and stages.
        heights: groups and rows of a group, of each matrix in turn.
        seed: of the fits.

    Raises:
        ValueError: for groups of too few vectors.
    """
    group, rows, first = [], [], 0
    for groups, total in heights:
        height = -(-total // groups)
        group.append(torch.arange(total) // height + first)
        first += groups
    index = torch.cat(group)
    rows = torch.bincount(index, minlength=first).tolist()
    entries = book.table_entries
    fewest = min(rows) * (x.shape[1] // book.dim)
    if fewest < entries:
        raise ValueError(
            f"tables: {min(rows)} rows of {x.shape[1]} weights are {fewest} vectors of {book.dim}, fewer than the "
            f"{entries} entries of a table; set tables.rows higher, or take fewer entries"
        )
    if isinstance(book, KMeans) and book.dim == 1:
        return OwnTables(_scalar_tables(x, weight, index, rows, entries), index)
    own = to_tiles(weight.expand(len(x), -1), book.tile)
    tiles, made, at = to_tiles(x, book.tile), [], 0
    for count in rows:
        generator = torch.Generator().manual_seed(seed)
        part = tiles[at : at + count].reshape(-1, book.dim)
        made.append(_fit(book, part, own[at : at + count].reshape(part.shape), generator))
        at += count
    return OwnTables(torch.stack(made), index, int(getattr(book, "beam", 1)))


def _scalar_tables(
    x: Tensor, weight: Tensor, index: Tensor, rows: list[int], entries: int
) -> Tensor:
    """The optimal levels of each group, ``(groups, 1, entries, 1)``; shorter groups are padded with weight 0."""
    tall, wide = max(rows), x.shape[1]
    values = torch.zeros(len(rows), tall, wide)
    mass = torch.zeros(len(rows), tall, wide)
    place = torch.cat([torch.arange(count) for count in rows])
    values[index, place], mass[index, place] = x, weight.expand(len(x), -1)
    levels, _ = optimal_levels(values.flatten(1), entries, mass.flatten(1))
    return levels[:, None, :, None]


def _fit(book: Codebook, x: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Tables ``(stages, entries, dim)`` of a fresh codebook of the same spec."""
    if isinstance(book, Additive):
        made = Additive(book.stages, book.dim, book.table_entries, book.beam, book.rounds)
        return made.fit(x, weight, generator).tables
    fresh: Any = KMeans(book.dim, book.table_entries)
    table: Tensor = fresh.fit(x, weight, generator).table
    return table[None]


def improve_tables(
    x: Tensor, codes: Tensor, metric: Tensor, own: OwnTables, row_weight: Tensor
) -> OwnTables:
    """Tables that minimise ``Σ_r w_r (x_r - v_r) H (x_r - v_r)ᵀ`` for given codes; the old ones where that fails.

    The loss is quadratic in the tables; conjugate gradients never raise it. A normal matrix is not formed.

    Args:
        x: ``(rows, columns)`` in units.
        codes: of all vectors.
        metric: ``(columns, columns)``.
        own: the tables now.
        row_weight: ``(rows,)``.
    """
    system = _System(codes, metric, own, row_weight)
    start = own.tables.reshape(-1, own.tables.shape[-1])
    tables, residual = start.clone(), system.gather((x - system.spread(start)) @ metric)
    scaled = residual / system.diagonal
    direction, strength = scaled.clone(), (residual * scaled).sum()
    for _ in range(_STEPS):
        image = system.gather(system.spread(direction) @ metric)
        curvature = (direction * image).sum()
        if not float(curvature) > 0 or not float(strength) > 0:
            break
        step = strength / curvature
        tables += step * direction
        residual -= step * image
        scaled = residual / system.diagonal
        next_strength = (residual * scaled).sum()
        direction = scaled + next_strength / strength * direction
        strength = next_strength
    found = OwnTables(tables.reshape(own.tables.shape), own.group, own.beam)
    better = system.loss(x, found) < system.loss(x, own)  # float16 may have undone a small gain
    return found if better else own


class _System:
    """The linear map from tables to a matrix, and its transpose."""

    def __init__(self, codes: Tensor, metric: Tensor, own: OwnTables, row_weight: Tensor) -> None:
        groups, stages, entries, dim = own.tables.shape
        each = (codes[..., None] if stages == 1 else codes).long()
        stage = torch.arange(stages)
        base = (own.group[:, None, None] * stages + stage) * entries
        self.index = (base + each).permute(2, 0, 1).reshape(stages, -1)
        self.codes, self.metric, self.weight = codes, metric, row_weight[:, None]
        self.size, self.dim = groups * stages * entries, dim
        self.shape = (len(codes), codes.shape[1] * dim)
        mass = self.gather(metric.diagonal().expand(self.shape))
        self.diagonal = mass.clamp_min(float(mass.max()) * 1e-6 + 1e-30)

    def spread(self, tables: Tensor) -> Tensor:
        """The matrix ``(rows, columns)`` that tables ``(all entries, dim)`` make."""
        total = tables[self.index[0]]
        for index in self.index[1:]:
            total = total + tables[index]
        return total.reshape(self.shape)

    def gather(self, matrix: Tensor) -> Tensor:
        """Its transpose, rows weighted."""
        flat = (matrix * self.weight).reshape(-1, self.dim)
        total = flat.new_zeros(self.size, self.dim)
        for index in self.index:
            total.index_add_(0, index, flat)
        return total

    def loss(self, x: Tensor, own: OwnTables) -> float:
        """The loss with some tables."""
        error = x - own.decode(self.codes).reshape(self.shape)
        return float((((error @ self.metric) * error).sum(1) * self.weight[:, 0]).double().sum())
