"""What the quantizers over one codebook of the library have in common."""

from __future__ import annotations

import abc
import math
from typing import Any

import torch
from torch import Tensor

from vq.codebooks import Additive, Codebook
from vq.codebooks.compose import Composed
from vq.quantizers.affine import Affine
from vq.quantizers.base import Quantized, check_codes, check_input
from vq.quantizers.compose import Composable, clean
from vq.quantizers.estimators import estimator as find_estimator
from vq.quantizers.projection import Projection
from vq.quantizers.table import check_features
from vq.quantizers.usage import count_use, use_stats

_COUNTED = 1 << 16  # entries up to which the use of single codes is counted


class CodebookQuantizer(Composable):
    """One codebook on a vector, or on equal blocks of it, with what stands around it.

    ``x`` is mapped linearly where dimensions differ, brought to mean 0 and variance 1 in each channel where ``scale``
    asks for it, bounded by the kind, quantized; values go the same way back. A vector that is NaN or infinite counts as
    masked: code -1, value zero, no gradient, and ``stats["nonfinite"]`` tells how many there were.

    Args:
        codebook: of the library; its vectors are never listed.
        dim: of the input.
        inner: numbers that are quantized, a multiple of the codebook's dimension.
        scale: mode of ``Affine``, or None for none.
        decay: of running statistics.
        estimator: ``straight`` or ``rotation``.
        seed: of the linear maps.
    """

    def __init__(
        self,
        codebook: Codebook,
        dim: int,
        inner: int,
        scale: str | None = None,
        decay: float = 0.99,
        estimator: str = "straight",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._dim, self.inner, self.estimator, self.seed = dim, inner, estimator, seed
        self._estimate = find_estimator(estimator)
        self.codebook = codebook
        self.blocks = inner // codebook.dim
        self.projection = Projection(dim, inner, seed)
        self.affine = None if scale is None else Affine(inner, scale, decay)

    @property
    def dim(self) -> int:
        """Length of an input vector."""
        return self._dim

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """That of the codebook, behind an axis of blocks where there are several."""
        own = self.codebook.codes_shape
        return own if self.blocks == 1 else (self.blocks, *own)

    @property
    def code_entries(self) -> tuple[int, ...]:
        """Entries of the codebook for each code."""
        return (_entries_of_a_code(self.codebook),) * math.prod(self.codes_shape)

    # What a kind has of its own.

    def _points(self, z: Tensor) -> Tensor:
        """What the codes approximate, from projected and scaled vectors ``(n, inner)``."""
        return z

    @abc.abstractmethod
    def _find(self, points: Tensor) -> Tensor:
        """Codes ``(n, *codes_shape)`` int64 of finite points, without gradient."""

    @abc.abstractmethod
    def _units(self, codes: Tensor) -> Tensor:
        """Values ``(n, inner)`` float32 of codes, differentiable in what is learned."""

    def _losses(
        self, h: Tensor, points: Tensor, units: Tensor, valid: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor]]:
        """Losses, their weights, and statistics.

        Args:
            h: projected vectors ``(n, inner)``.
            points: what was quantized.
            units: values found.
            valid: which vectors count.
        """
        return {}, {}, {}

    # The contract.

    def run(self, x: Tensor, through: Tensor, mask: Tensor | None = None) -> Quantized:
        """As ``forward``, with gradients in two lanes; see ``Composable``."""
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        with torch.autocast(x.device.type, enabled=False):
            if self.training and self.affine is not None:
                self.affine.advance()
            full, valid, nonfinite = clean(x.reshape(-1, self.dim), _flat(mask))
            h, points = self._down(full)
            carried = points
            if through is not x:
                carried = self._down(clean(through.reshape(-1, self.dim), _flat(mask))[0])[1]
            with torch.no_grad():
                codes = self._find(points.detach())
            units = self._units(codes)
            losses, weights, stats = self._losses(h, points, units, valid)
            stats = {**self._stats(codes, valid, points, units), **stats, "nonfinite": nonfinite}
            values = self._up(self._estimate(carried, units.detach()), held=True)
            values = torch.where(valid[:, None], values, 0.0)
            if self.training and self.affine is not None:
                self.affine.collect(h.detach(), valid)
            codes = self._hide(codes, valid)
        codes = codes.reshape((*x.shape[:-1], *self.codes_shape))
        return Quantized(values.to(x.dtype).reshape(x.shape), codes, losses, weights, stats)

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            full, valid, _ = clean(x.reshape(-1, self.dim), _flat(mask))
            codes = self._hide(self._find(self._down(full)[1]), valid)
        return codes.reshape((*x.shape[:-1], *self.codes_shape))

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Values ``(*batch, dim)`` float32 of codes; zero where a code of the vector is -1.

        Raises:
            ValueError: for codes out of range, a number of stages there is not, or a quantizer that is not ready.
        """
        count = self._check_stages(stages)
        check_codes(self.kind, codes, self.codes_shape, self.code_entries)
        self._check_ready()
        batch = codes.shape[: codes.ndim - len(self.codes_shape)]
        with torch.autocast(codes.device.type, enabled=False):
            flat = codes.reshape((math.prod(batch), *self.codes_shape)).long()
            there = (flat >= 0).reshape(len(flat), math.prod(self.codes_shape)).all(1)
            units = self._units_of(flat.clamp_min(0), count)
            values = torch.where(there[:, None], self._up(units, held=False), 0.0)
        return values.reshape(*batch, self.dim)

    def _units_of(self, codes: Tensor, stages: int) -> Tensor:
        """Values of codes ``(n, *codes_shape)`` by their first stages."""
        return self._units(codes)

    def _down(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Projected vectors, and what is quantized, of clean ``(n, dim)``."""
        h = self.projection.down(x)
        return h, self._points(h if self.affine is None else self.affine.into(h))

    def _up(self, units: Tensor, held: bool) -> Tensor:
        """Values ``(n, dim)`` of those in units of the codebook; ``held`` keeps the scale out of the gradient."""
        if self.affine is not None:
            units = self.affine.out_held(units) if held else self.affine.out(units)
        return self.projection.up(units)

    def _hide(self, codes: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid.reshape(-1, *[1] * len(self.codes_shape)), codes, -1)

    def _stats(
        self, codes: Tensor, valid: Tensor, points: Tensor, units: Tensor
    ) -> dict[str, Tensor]:
        """Distance, and the use of codes where they can be counted."""
        squares = torch.where(valid[:, None], (points - units).detach().square(), 0.0).sum()
        stats = {"distance": squares / (valid.sum() * self.inner).clamp_min(1)}
        entries = max(self.code_entries)
        if entries <= _COUNTED:
            spread = valid.reshape(-1, *[1] * len(self.codes_shape)).expand(codes.shape)
            use = count_use(codes.reshape(-1), spread.reshape(-1), entries, self.training)
            stats.update(use_stats(use))
        return stats

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Principal axes for the linear maps, mean and scale of each channel, then the codebook's own values.

        Raises:
            ValueError: for too few vectors, with the number that is needed, or numbers that are not finite.
        """
        x = check_features(self.kind, x, self.dim, 2)
        self.projection.start(x)
        h = self.projection.down(x)
        if self.affine is not None:
            self.affine.start(h)
            h = self.affine.into(h)
        self._start_codebook(self._points(h), generator)

    def _start_codebook(self, points: Tensor, generator: torch.Generator | None) -> None:
        """Fit what the codebook learns to points ``(n, inner)``."""

    def _config(self) -> dict[str, Any]:
        """Arguments that all kinds share."""
        return {"dim": self.dim, "seed": self.seed}


def _flat(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.reshape(-1)


def _entries_of_a_code(codebook: Codebook) -> int:
    """How many values one code of a codebook can take."""
    if isinstance(codebook, Composed):
        return _entries_of_a_code(codebook.part)
    if isinstance(codebook, Additive):
        return codebook.table_entries
    if codebook.codes_shape == () and codebook.entries is not None:
        return codebook.entries
    return 1 << codebook.code_bits
