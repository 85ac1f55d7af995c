"""Rounding some matrices that share their input as one tall matrix, with what stands beside their codes."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks import Codebook
from vq.compressors.layers.sides import Sides
from vq.compressors.layers.tables import listable
from vq.compressors.rounding.columns import choose_columns
from vq.compressors.rounding.feedback import (
    Book,
    block_ldl,
    damp,
    feedback_rounding,
    from_tiles,
    to_tiles,
)
from vq.compressors.rounding.matrix import Frame, Matrix
from vq.compressors.rounding.options import RoundingOptions
from vq.compressors.rounding.outliers import choose_outliers, freedom
from vq.compressors.rounding.polish import polish
from vq.compressors.rounding.scales import GroupScales, first_scales, search_scales
from vq.compressors.rounding.tables import OwnTables, improve_tables, start_tables


class Group:
    """Matrices with one input and one codebook.

    Args:
        matrices: by name.
        frame: see Frame.
        codebook: of any family.
        options: see RoundingOptions.
        seed: of the fits of own tables.
    """

    def __init__(
        self,
        matrices: list[Matrix],
        frame: Frame,
        codebook: Codebook,
        options: RoundingOptions,
        seed: int,
    ) -> None:
        self.matrices, self.frame, self.codebook = matrices, frame, codebook
        self.options, self.seed = options, seed
        self.damping = 0.0
        self.book: Book = codebook
        parts = (options.outliers, options.low_rank, options.columns)
        beside = any(part is not None for part in parts)
        self.damped = damp(frame.plain, options.damping)[0] if beside else None
        self.tile: tuple[int, int] = codebook.tile

    def choose(self) -> None:
        """Choose the weights that are kept beside the codes, and the columns that have second codes."""
        self._keep_outliers()
        if self.options.columns is not None:
            width = len(self.frame.plain)
            settings = {"columns": {"share": self.options.columns.share}}
            for m in self.matrices:
                count = Sides.of(settings, len(m.weight), width).columns
                m.chosen, m.columns = choose_columns(self.frame.plain, count), None

    def _keep_outliers(self) -> None:
        chosen = self.options.outliers
        if chosen is None:
            return
        assert self.damped is not None
        freed = freedom(self.damped)
        for m in self.matrices:
            rotated = self.frame.rotated or m.signs_out is not None
            kept = choose_outliers(m.weight, freed, self.codebook, chosen.share, chosen.by, rotated)
            m.kept = kept if bool(kept.any()) else None

    def round(self) -> None:
        """Round all anew, and improve the codes as the options ask."""
        pieces, kept, heights, first = [], [], [], 0
        for m in self.matrices:
            rest, aside = m.before_rounding()
            m.scales = self._first_scales(m, rest, aside)
            piece = self._pad(rest if m.group else rest / m.scales[:, None])
            aside = None if self.frame.rotated or m.signs_out is not None else m.kept
            kept.append(self._pad(torch.zeros_like(rest).bool() if aside is None else aside))
            m.rows = slice(first, first + len(piece))
            first += len(piece)
            pieces.append(piece)
            groups = 0 if self.options.tables is None else self._groups(m)
            heights.append((groups, len(m.weight)))
        tall, masks = torch.cat(pieces), torch.cat(kept)
        if self.options.tables is not None:
            weight = self._importance()
            self.book = start_tables(tall, weight, self.codebook, heights, self.seed)
        codes, values = self._first_codes(
            tall, masks if bool(masks.any()) else None, self._shared()
        )
        self._hand_out(codes, values)
        self._improve(codes, values)

    def _first_scales(self, m: Matrix, rest: Tensor, aside: Tensor | None) -> Tensor:
        """Scales that a matrix is rounded with.

        Those of groups of columns are searched for, and those of rows where nothing is rotated: what is rotated is as
        good as Gaussian, and its root mean square is right.
        """
        m.group = self.options.group
        scales = first_scales(rest, aside, m.group) / self.options.scale
        rotated = self.frame.rotated or m.signs_out is not None
        if not m.group and (
            rotated or self.options.tables is not None or not listable(self.codebook)
        ):
            return scales
        start = GroupScales(scales if m.group else scales[:, None], m.group or rest.shape[1])
        found = search_scales(rest, aside, start, self.frame.metric.diagonal(), self._nearest)
        return found if m.group else found[:, 0]

    def _nearest(self, x: Tensor) -> Tensor:
        """What the nearest codes of a matrix stand for."""
        padded = self._pad(x)
        values = from_tiles(
            self.book.decode(self.book.encode(to_tiles(padded, self.tile))), self.tile
        )
        return values[: x.shape[0], : x.shape[1]]

    def _shared(self) -> GroupScales | None:
        """Scales of groups of columns of the tall matrix; None where a row has one."""
        if not self.options.group:
            return None
        scales = torch.cat([m.scales.float() for m in self.matrices])
        return GroupScales(scales, self.options.group)

    def _importance(self) -> Tensor:
        """Weight of each column's errors: what is left of them where feedback answers them, or all."""
        metric = self._padded(self.frame.metric)
        if self.options.method == "nearest":
            return metric.diagonal()
        return freedom(damp(metric, self.options.damping)[0])[0]

    def _groups(self, m: Matrix) -> int:
        """Groups of rows of a matrix that have a table of their own."""
        assert self.options.tables is not None
        settings = {"tables": {"rows": self.options.tables.rows}}
        return Sides.of(settings, *m.weight.shape).groups

    def _first_codes(
        self, x: Tensor, kept: Tensor | None, shared: GroupScales | None
    ) -> tuple[Tensor, Tensor]:
        if self.options.method == "nearest":
            units = x if shared is None else x / shared.spread(x.shape[1])
            codes = self.book.encode(to_tiles(units, self.tile))
            return codes, from_tiles(self.book.decode(codes), self.tile)
        padded = self._padded(self.frame.metric)
        feedback, self.damping = block_ldl(padded, self.tile[1], self.options.damping)
        return feedback_rounding(x, feedback, self.book, kept, self._exact(), shared)

    def _exact(self) -> Tensor | None:
        """Columns that are set right after the feedback, bool; None for none."""
        if self.options.columns is None:
            return None
        exact = torch.zeros(len(self._padded(self.frame.metric)), dtype=torch.bool)
        chosen = self.matrices[0].chosen
        assert chosen is not None
        exact[chosen] = True
        return exact

    def _improve(self, codes: Tensor, values: Tensor) -> None:
        """Coordinate descent, and in between least squares for own tables."""
        tables = self.options.tables
        rounds = max(self.options.polish, 0 if tables is None else tables.rounds)
        if not rounds:
            return
        metric = damp(self._padded(self.frame.metric), self.options.damping)[0]
        for number in range(rounds):
            x = torch.cat([self._pad(m.rest()) for m in self.matrices])
            shared = self._shared()
            weight = torch.cat([self._stretch(m.row_weight()) for m in self.matrices])
            fit = isinstance(self.book, OwnTables) and number < getattr(tables, "rounds", 0)
            if isinstance(self.book, OwnTables) and fit:
                self.book = improve_tables(x, codes, metric, self.book, weight)
                values = from_tiles(self.book.decode(codes), self.tile)
            codes, values, changed = polish(
                x, codes, values, metric, self.book, weight, scales=shared
            )
            self._hand_out(codes, values)
            if not changed and not fit:
                break

    def _hand_out(self, codes: Tensor, values: Tensor) -> None:
        """Give each matrix its part of the tall one, and settle its scales."""
        group = 0
        for m in self.matrices:
            rows = slice(m.rows.start // self.tile[0], m.rows.stop // self.tile[0])
            m.codes = codes[rows]
            m.values = values[m.rows][: m.weight.shape[0], : m.weight.shape[1]]
            if isinstance(self.book, OwnTables):
                count = self._groups(m)
                m.tables = self.book.tables[group : group + count].to(torch.float16)
                group += count
            m.settle(self.damped, self.options.columns, self.seed)

    def _pad(self, x: Tensor) -> Tensor:
        """To whole tiles."""
        rows, columns = (-x.shape[0] % self.tile[0], -x.shape[1] % self.tile[1])
        return torch.nn.functional.pad(x, (0, columns, 0, rows))

    def _stretch(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (0, -len(x) % self.tile[0]))

    def _padded(self, metric: Tensor) -> Tensor:
        """The Hessian of whole tiles; padding has nothing to do with the rest."""
        width = metric.shape[0]
        whole = width + -width % self.tile[1]
        if whole == width:
            return metric
        padded = torch.eye(whole) * metric.diagonal().mean()
        padded[:width, :width] = metric
        return padded
