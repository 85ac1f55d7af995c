"""One matrix while it is rounded: its basis, its codes, and what stands beside them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vq.compressors.rounding.columns import Columns, fit_columns
from vq.compressors.rounding.low_rank import LowRank, fit_low_rank
from vq.compressors.rounding.options import ColumnOptions
from vq.compressors.rounding.outliers import Outliers, fit_outliers
from vq.compressors.rounding.rotation import hadamard, random_signs
from vq.compressors.rounding.scales import GroupScales, refit, refit_groups, spread_scales


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
        chosen: int64, columns that have a second code, or None.
        columns: their second codes, or None.
        values: ``(out, in)``, what the codes stand for, in units of the codebook.
        scales: float16 ``(out,)``, or ``(out, groups of columns)``.
        group: columns that share a scale; 0 for all.
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
    chosen: Tensor | None = None
    columns: Columns | None = None
    values: Tensor = field(default_factory=lambda: torch.empty(0))
    scales: Tensor = field(default_factory=lambda: torch.empty(0))
    group: int = 0
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

    def before_rounding(self) -> tuple[Tensor, Tensor | None]:
        """What is rounded anew, rotated, and which of it is set right after and does not count, or None.

        Without a rotation they stay in place, and the feedback passes over them.
        """
        low = self.beside(outliers=False)
        rest = self.weight if low is None else self.weight - low
        if self.chosen is not None:  # never rotated
            aside = torch.zeros_like(rest).bool().index_fill_(1, self.chosen, True)
            return rest, aside
        if self.kept is None:
            return self.frame.turn(rest, self.signs_out), None
        if self.frame.rotated or self.signs_out is not None:
            return self.frame.turn(rest.masked_fill(self.kept, 0), self.signs_out), None
        return rest, self.kept

    def units(self) -> Tensor:
        """What codes and second codes stand for, in units of the row scales."""
        return self.values if self.columns is None else self.values + self._second()

    def rest(self) -> Tensor:
        """What the codes should stand for now, rotated: in units of the row scales, where rows have one."""
        if self.group:
            return self.target()
        wanted = self.target() / self.scales.float()[:, None]
        return wanted if self.columns is None else wanted - self._second()

    def row_weight(self) -> Tensor:
        """What the squared error of ``rest`` counts in each row."""
        return torch.ones(len(self.weight)) if self.group else self.scales.float().square()

    def _second(self) -> Tensor:
        assert self.columns is not None
        return self.columns.dense(*self.weight.shape)

    def settle(self, damped: Tensor | None, columns: ColumnOptions | None, seed: int) -> None:
        """Scales, and outliers or second codes of columns, that make the error small for the codes at hand.

        Args:
            damped: Hessian in the original basis, where it is needed.
            columns: of the second codes.
            seed: of their table.
        """
        self._fit_beside(damped, columns, seed)
        wanted, units, metric = self.target(), self.units(), self.frame.metric
        shared = self.shared()
        if shared is None:
            self.scales = refit(wanted, units, metric, self.scales)
        else:
            self.scales = refit_groups(wanted, units, metric, shared)
        self._fit_beside(damped, columns, seed)

    def shared(self) -> GroupScales | None:
        """The scales of groups of columns; None where a row has one."""
        return GroupScales(self.scales.float(), self.group) if self.group else None

    def scaled(self) -> Tensor:
        """What codes, second codes and scales stand for, rotated."""
        return self.units() * spread_scales(self.scales, self.group, self.weight.shape[1])

    def _fit_beside(self, damped: Tensor | None, columns: ColumnOptions | None, seed: int) -> None:
        if self.kept is not None:
            self._fit_outliers(damped)
        if self.chosen is not None:
            assert columns is not None and damped is not None
            scales = self.scales.float()
            error = self.target() / scales[:, None] - self.values
            weight = scales.square()
            self.columns = fit_columns(
                error, damped, self.chosen, columns, weight, seed, self.columns
            )

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
        return self.frame.back(self.scaled(), self.signs_out)

    def _fit_outliers(self, damped: Tensor | None) -> None:
        assert self.kept is not None and damped is not None
        low = self.beside(outliers=False)
        left = self.weight - self.decoded()
        self.outliers = fit_outliers(left if low is None else left - low, damped, self.kept)

    def proxy_error(self) -> float:
        """``tr(E H Eᵀ) / tr(W H Wᵀ)``."""
        error = self.target() - self.scaled()
        whole = self.frame.turn(self.weight, self.signs_out)
        return energy(error, self.frame.metric) / max(energy(whole, self.frame.metric), 1e-30)


def energy(x: Tensor, metric: Tensor) -> float:
    """``tr(X H Xᵀ)``."""
    return float(((x @ metric) * x).sum().double())


def signs_of(rows: int, generator: torch.Generator, rotation: str) -> Tensor | None:
    """Random signs of outputs, where those are rotated."""
    return random_signs(rows, generator) if rotation == "both" else None
