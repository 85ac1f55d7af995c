"""Rounding some matrices that share their input as one tall matrix, with what stands beside their codes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vq.codebooks import Codebook
from vq.compressors.low_rank import LowRank, fit_low_rank
from vq.compressors.outliers import Outliers, choose_outliers, fit_outliers, freedom, rms_without
from vq.compressors.rotation import hadamard, random_signs
from vq.compressors.rounding_feedback import (
    Book,
    block_ldl,
    damp,
    feedback_rounding,
    from_tiles,
    to_tiles,
)
from vq.compressors.rounding_options import RoundingOptions
from vq.compressors.rounding_polish import polish
from vq.compressors.rounding_tables import OwnTables, improve_tables, start_tables
from vq.compressors.sides import Sides


@dataclass(frozen=True, eq=False)
class Frame:
    """The basis that matrices are rounded in.

    Attributes:
        plain: the Hessian in the original basis.
        metric: the same in the rotated one.
        signs_in: ``(in,)`` of +1 and -1.
        rotated: whether inputs are rotated.
    """

    plain: Tensor
    metric: Tensor
    signs_in: Tensor
    rotated: bool

    @classmethod
    def make(cls, hessian: Tensor | None, width: int, rotated: bool, signs_in: Tensor) -> Frame:
        """The frame of a Hessian; None means the identity."""
        plain = torch.eye(width) if hessian is None else hessian.float()
        metric = plain
        if rotated:
            turned = hadamard(metric * signs_in[:, None] * signs_in)
            metric = hadamard(turned.t()).t().contiguous()
        return cls(plain, metric, signs_in, rotated)

    def turn(self, weight: Tensor, signs_out: Tensor | None) -> Tensor:
        """A matrix in the rotated basis."""
        turned = hadamard(weight * self.signs_in) if self.rotated else weight
        if signs_out is not None:
            turned = hadamard((turned * signs_out[:, None]).t()).t()
        return turned

    def back(self, turned: Tensor, signs_out: Tensor | None) -> Tensor:
        """The inverse of ``turn``."""
        if signs_out is not None:
            turned = hadamard(turned.t()).t() * signs_out[:, None]
        return hadamard(turned) * self.signs_in if self.rotated else turned


@dataclass(eq=False)
class Matrix:
    """One matrix at work.

    Attributes:
        weight: float32 ``(out, in)`` in the original basis.
        frame: see Frame.
        signs_out: for a rotation of outputs, or None.
        kept: positions of outliers, or None.
        outliers: the sparse part, or None.
        low_rank: the low-rank part, or None.
        values: ``(out, in)``, what the codes stand for, in units of the codebook.
        scales: float16 ``(out,)``.
        codes: ``(row tiles, column tiles, *codes_shape)``.
        tables: float16, this matrix's own, or None.
        rows: where it lies in the tall matrix, in rows.
    """

    weight: Tensor
    frame: Frame
    signs_out: Tensor | None
    kept: Tensor | None = None
    outliers: Outliers | None = None
    low_rank: LowRank | None = None
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    scales: Tensor = field(default_factory=lambda: torch.empty(0))
    codes: Tensor = field(default_factory=lambda: torch.empty(0))
    tables: Tensor | None = None
    rows: slice = field(default_factory=lambda: slice(0))

    def beside(self, outliers: bool = True) -> Tensor | None:
        """What stands beside the codes, dense in the original basis; None where there is nothing."""
        parts = []
        if self.low_rank is not None:
            parts.append(self.low_rank.dense())
        if outliers and self.outliers is not None:
            parts.append(self.outliers.dense(self.weight.shape[1]))
        return sum(parts[1:], start=parts[0]) if parts else None

    def target(self) -> Tensor:
        """What the codes should stand for now, rotated."""
        beside = self.beside()
        rest = self.weight if beside is None else self.weight - beside
        return self.frame.turn(rest, self.signs_out)

    def before_rounding(self) -> tuple[Tensor, Tensor]:
        """What is rounded anew, rotated, and the root mean square of its rows; outliers are out of it.

        Without a rotation they stay in place, and the feedback passes over them.
        """
        low = self.beside(outliers=False)
        rest = self.weight if low is None else self.weight - low
        if self.kept is None:
            turned = self.frame.turn(rest, self.signs_out)
            return turned, rms_without(turned, None)
        if self.frame.rotated or self.signs_out is not None:
            turned = self.frame.turn(rest.masked_fill(self.kept, 0), self.signs_out)
            return turned, rms_without(turned, None)
        return rest, rms_without(rest, self.kept)

    def settle(self, damped: Tensor | None) -> None:
        """Scales, and the values of outliers, that minimise the error for the codes at hand."""
        if self.kept is not None:
            self._fit_outliers(damped)
        self.scales = refit(self.target(), self.values, self.frame.metric, self.scales)
        if self.kept is not None:
            self._fit_outliers(damped)

    def fit_low_rank(self, rank: int, damped: Tensor) -> None:
        """The low-rank part, and then outliers again."""
        left = self.weight - self.decoded()
        if self.outliers is not None:
            left = left - self.outliers.dense(left.shape[1])
        self.low_rank = fit_low_rank(left, damped, rank)
        if self.kept is not None:
            self._fit_outliers(damped)

    def decoded(self) -> Tensor:
        """What codes and scales stand for in the original basis."""
        return self.frame.back(self.values * self.scales.float()[:, None], self.signs_out)

    def _fit_outliers(self, damped: Tensor | None) -> None:
        assert self.kept is not None and damped is not None
        low = self.beside(outliers=False)
        left = self.weight - self.decoded()
        self.outliers = fit_outliers(left if low is None else left - low, damped, self.kept)

    def proxy_error(self) -> float:
        """``tr(E H Eᵀ) / tr(W H Wᵀ)``."""
        error = self.target() - self.values * self.scales.float()[:, None]
        whole = self.frame.turn(self.weight, self.signs_out)
        return energy(error, self.frame.metric) / max(energy(whole, self.frame.metric), 1e-30)


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
        beside = options.outliers is not None or options.low_rank is not None
        self.damped = damp(frame.plain, options.damping)[0] if beside else None
        self.tile: tuple[int, int] = codebook.tile

    def keep_outliers(self) -> None:
        """Choose the weights that are kept beside the codes."""
        chosen = self.options.outliers
        if chosen is None:
            return
        assert self.damped is not None
        for m in self.matrices:
            rotated = self.frame.rotated or m.signs_out is not None
            kept = choose_outliers(
                m.weight, self.damped, self.codebook, chosen.share, chosen.by, rotated
            )
            m.kept = kept if bool(kept.any()) else None

    def round(self) -> None:
        """Round all anew, and improve the codes as the options ask."""
        pieces, kept, heights, first = [], [], [], 0
        for m in self.matrices:
            rest, rms = m.before_rounding()
            m.scales = rms / self.options.scale
            piece = self._pad(rest / m.scales[:, None])
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
        codes, values = self._first_codes(tall, masks if bool(masks.any()) else None)
        self._hand_out(codes, values)
        self._improve(codes, values)

    def _importance(self) -> Tensor:
        """Weight of each column's errors: what is left of them where feedback answers them, or all."""
        metric = self._padded(self.frame.metric)
        if self.options.method == "nearest":
            return metric.diagonal()
        return freedom(damp(metric, self.options.damping)[0])

    def _groups(self, m: Matrix) -> int:
        """Groups of rows of a matrix that have a table of their own."""
        assert self.options.tables is not None
        settings = {"tables": {"rows": self.options.tables.rows}}
        return Sides.of(settings, *m.weight.shape).groups

    def _first_codes(self, x: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.options.method == "nearest":
            codes = self.book.encode(to_tiles(x, self.tile))
            return codes, from_tiles(self.book.decode(codes), self.tile)
        padded = self._padded(self.frame.metric)
        feedback, self.damping = block_ldl(padded, self.tile[1], self.options.damping)
        return feedback_rounding(x, feedback, self.book, kept)

    def _improve(self, codes: Tensor, values: Tensor) -> None:
        """Coordinate descent, and in between least squares for own tables."""
        tables = self.options.tables
        rounds = max(self.options.polish, 0 if tables is None else tables.rounds)
        if not rounds:
            return
        metric = damp(self._padded(self.frame.metric), self.options.damping)[0]
        for number in range(rounds):
            x = torch.cat(
                [self._pad(m.target() / m.scales.float()[:, None]) for m in self.matrices]
            )
            weight = torch.cat([self._stretch(m.scales.float().square()) for m in self.matrices])
            if isinstance(self.book, OwnTables) and tables is not None and number < tables.rounds:
                self.book = improve_tables(x, codes, metric, self.book, weight)
                values = from_tiles(self.book.decode(codes), self.tile)
            codes, values, _ = polish(x, codes, values, metric, self.book, weight)
            self._hand_out(codes, values)

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
            m.settle(self.damped)

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
        padded = torch.eye(whole) * metric.diagonal().mean()
        padded[:width, :width] = metric
        return padded


def refit(weight: Tensor, values: Tensor, metric: Tensor, scale: Tensor) -> Tensor:
    """Row scales that minimise the error under the metric, float16; the old one where that is not positive."""
    image = values @ metric
    best = (weight * image).sum(1) / (values * image).sum(1).clamp_min(1e-30)
    best = torch.where((best > 0) & torch.isfinite(best), best, scale.float())
    return best.clamp(2.0**-24, 65504.0).to(torch.float16)


def energy(x: Tensor, metric: Tensor) -> float:
    """``tr(X H Xᵀ)``."""
    return float(((x @ metric) * x).sum().double())


def signs_of(rows: int, generator: torch.Generator, rotation: str) -> Tensor | None:
    """Random signs of outputs, where those are rotated."""
    return random_signs(rows, generator) if rotation == "both" else None
