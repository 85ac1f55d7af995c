"""What the quantizers over one table have in common."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from vq.codebooks.nearest import nearest
from vq.quantizers.base import Quantized, check_codes, check_input
from vq.quantizers.compose import Composable
from vq.quantizers.estimators import estimator as find_estimator
from vq.quantizers.passing import Gap, everything, measure, passed, pull
from vq.quantizers.projection import Projection
from vq.quantizers.usage import BatchUse, count_use, use_stats


class TableQuantizer(Composable):
    """One index a vector into a table of ``entries`` rows, with learned linear maps around it where dimensions differ.

    A vector with NaN or infinity, or whose squared length overflows, counts as masked: code -1, value zero, no
    gradient, nothing learned from it; ``stats["nonfinite"]`` tells how many there were. Parameters and buffers stay
    float32 whatever the module is cast to.

    Args:
        dim: of the input.
        inner: of the table.
        entries: rows of the table.
        seed: of the linear maps.
        estimator: of the gradient, see ``vq.quantizers.estimators``.
    """

    def __init__(
        self, dim: int, inner: int, entries: int, seed: int, estimator: str = "straight"
    ) -> None:
        super().__init__()
        find_estimator(estimator)
        self._dim, self.inner, self.entries, self.seed = dim, inner, entries, seed
        self.estimator = estimator
        self.projection = Projection(dim, inner, seed)

    @property
    def dim(self) -> int:
        """Length of an input vector."""
        return self._dim

    @property
    def code_entries(self) -> tuple[int, ...]:
        """Rows of the table."""
        return (self.entries,)

    # What a kind has of its own.

    @abc.abstractmethod
    def _table(self) -> Tensor:
        """All rows ``(entries, inner)`` float32 without gradient, as vectors are compared with them."""

    @abc.abstractmethod
    def _rows(self, codes: Tensor, table: Tensor) -> Tensor:
        """Values ``(n, inner)`` of codes, differentiable in what is learned; the bits are those of ``decode``."""

    @abc.abstractmethod
    def _weights(self) -> dict[str, float]:
        """What each loss counts; of ``commitment`` and ``codebook`` those that there are."""

    def _values(
        self,
        points: Tensor,
        lane: Tensor | None,
        rows: Tensor,
        codes: Tensor,
        valid: Tensor,
        gap: Gap,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bits of rows with the estimator's gradient, and the losses whose gradients go to points.

        Args:
            points: ``(n, inner)``, to which losses send their gradients.
            lane: the same numbers, to which values send theirs; None for points.
            rows: of codes, zero where not valid.
            codes: ``(n,)``.
            valid: ``(n,)`` bool.
            gap: between points and rows.
        """
        values, (commitment,) = passed(points, lane, rows, [gap], self.estimator)
        return values, {"commitment": commitment}

    def _advance(self) -> None:
        """Start of a training forward: let the table move by what was collected."""

    def _collect(
        self, points: Tensor, away: Tensor, codes: Tensor, valid: Tensor, use: BatchUse
    ) -> dict[str, Tensor]:
        """End of a training forward: collect statistics, ``away`` is points - rows, zero where not valid.

        Returns more scalars to tell.
        """
        return {}

    def _points(self, z: Tensor) -> Tensor:
        """Projected vectors as they are compared with the table."""
        return z

    def _find(self, points: Tensor, table: Tensor) -> Tensor:
        """Codes ``(n,)`` int64 of points without gradient."""
        return nearest(points, table).long()

    # The contract.

    def run(self, x: Tensor, through: Tensor, mask: Tensor | None = None) -> Quantized:
        """As ``forward``, with gradients in two lanes; see ``Composable``."""
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        with torch.autocast(x.device.type, enabled=False):
            points, valid, nonfinite = self._prepare(x, mask)
            lane = None if through is x else self._lane(points, through, mask)
            codes, rows, gap = self.match(points, valid, everything(valid))
            values, losses = self._values(points, lane, rows, codes, valid, gap)
            losses["codebook"] = pull(rows, gap)
            stats = self.observe(points, codes, valid, gap, nonfinite)
            values = self._out(values, valid)
            codes = torch.where(valid, codes, -1)
        weights, shape = self._weights(), x.shape[:-1]
        values = values.to(x.dtype).reshape(x.shape)
        losses = {name: losses[name] for name in weights}
        return Quantized(values, codes.reshape(shape), losses, weights, stats)

    def match(self, points: Tensor, valid: Tensor, whole: bool) -> tuple[Tensor, Tensor, Gap]:
        """Codes ``(n,)`` of points, their rows, zero where not valid, and the gap; ``whole`` says that all are valid.

        In training the table moves first.
        """
        if self.training:
            self._advance()
        table = self._table()
        codes = self._find(points.detach(), table)
        rows = self._rows(codes, table)
        if not whole:
            rows = rows.masked_fill_(~valid[:, None], 0)
        return codes, rows, measure(points, rows, valid, whole)

    @torch.no_grad()
    def observe(
        self, points: Tensor, codes: Tensor, valid: Tensor, gap: Gap, nonfinite: Tensor
    ) -> dict[str, Tensor]:
        """Scalars of a batch; a training step collects statistics."""
        use = count_use(codes, valid, self.entries, everywhere=self.training)
        stats = {**use_stats(use), "nonfinite": nonfinite, "distance": gap.mean}
        if self.training:
            stats.update(self._collect(points.detach(), gap.away, codes, valid, use))
        return stats

    def _lane(self, points: Tensor, through: Tensor, mask: Tensor | None) -> Tensor:
        """What values send their gradient to; see ``Composable``."""
        if self.projection.identity and not through.requires_grad:
            return points.detach()
        return self._prepare(through, mask)[0]

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            points, valid, _ = self._prepare(x, mask)
            codes = self._find(points, self._table())
            codes = torch.where(valid, codes, torch.full_like(codes, -1))
        return codes.reshape(x.shape[:-1])

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Values ``(*batch, dim)`` float32 of codes ``(*batch,)``; zero for -1.

        Raises:
            ValueError: for codes out of range, a number of stages other than 1, or a quantizer that is not ready.
        """
        if stages not in (None, 1):
            raise ValueError(f"{self.kind}: there is one stage, got stages={stages!r}")
        check_codes(self.kind, codes, (), self.code_entries)
        self._check_ready()
        with torch.autocast(codes.device.type, enabled=False):
            flat = codes.reshape(-1).long()
            rows = self._rows(flat.clamp_min(0), self._table())
            values = self._out(rows.masked_fill_((flat < 0)[:, None], 0), flat >= 0)
        return values.reshape(*codes.shape, self.dim)

    def _out(self, rows: Tensor, valid: Tensor) -> Tensor:
        """Rows that are zero where not valid in the input's space, zero where not valid."""
        if self.projection.identity:
            return rows
        values = self.projection.up(rows)
        return values if everything(valid) else torch.where(valid[:, None], values, 0.0)

    def _prepare(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Points ``(n, inner)``, which of them count ``(n,)``, and how many were not finite."""
        flat = x.reshape(-1, self.dim).float()
        finite = torch.isfinite(torch.linalg.vector_norm(flat, dim=1))
        wanted = torch.ones_like(finite) if mask is None else mask.reshape(-1)
        valid = finite & wanted
        if not everything(valid):
            flat = torch.where(valid[:, None], flat, 0.0)  # NaN * 0 would be NaN
        return self._points(self.projection.down(flat)), valid, (wanted & ~finite).sum()


def mean_square(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid rows, and over coordinates, of ``(a - b)²``; zero where no row is valid."""
    squares = (a - b).square().mean(1)
    squares = torch.where(valid, squares, squares.new_zeros(()))
    return squares.sum() / valid.sum().clamp_min(1)


def check_features(name: str, x: Tensor, dim: int, needed: int) -> Tensor:
    """X as float32, or ValueError unless it is finite ``(n, dim)`` with n at least ``needed``."""
    check_input(name, x, dim)
    if x.ndim != 2 or len(x) < needed:
        raise ValueError(
            f"{name}: expected at least {needed} vectors (n, {dim}) to start from, got {tuple(x.shape)}; "
            "pool the features of several batches"
        )
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name}: expected finite features to start from")
    return x.detach().float()
