"""Quantizers in stages, each on what the stages before it left over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vq.quantizers.base import Quantized, check_input
from vq.quantizers.compose import carry, clean, run_part
from vq.quantizers.compound import Compound, Part, build_parts, merge_losses, part_configs
from vq.quantizers.estimators import estimator as find_estimator
from vq.quantizers.passing import everything
from vq.quantizers.registry import register
from vq.quantizers.revival import mix
from vq.quantizers.stack import plain_tables, run_tables
from vq.quantizers.table import check_features
from vq.quantizers.usage import place


class Staged(Compound):
    """Base of sums of stages: stage dropout, prefixes, one gradient estimator around the sum.

    Args:
        kind: name for messages.
        of: part, or list with one for each stage.
        stages: how many, where ``of`` is one part.
        dropout: share of training samples (entries of the first batch axis) that keep a random number of stages.
        estimator: ``straight`` or ``rotation``.
        seed: of stages without one of their own, and of dropout.
    """

    step: Tensor

    def __init__(
        self,
        of: Part | Sequence[Part],
        stages: int | None,
        dropout: float,
        estimator: str,
        seed: int,
    ) -> None:
        super().__init__(build_parts(self.kind, of, stages, seed))
        if len({part.dim for part in self.each()}) > 1:
            dims = [part.dim for part in self.each()]
            raise ValueError(f"{self.kind}: stages must have one dimension, got {dims}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{self.kind}: dropout must be from 0 to 1, got {dropout!r}")
        find_estimator(estimator)
        self.dropout, self.estimator, self.seed = dropout, estimator, seed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        own = {"of": part_configs(self.each()), "dropout": self.dropout}
        return {**own, "estimator": self.estimator, "seed": self.seed}

    @property
    def dim(self) -> int:
        """That of a stage."""
        return self.each()[0].dim

    @property
    def stages(self) -> int:
        """How many there are."""
        return len(self.parts)

    def kept(self, samples: int) -> Tensor:
        """How many stages each sample of this step keeps, int64 ``(samples,)``.

        A hash of seed, step, rank and sample; no generator, so a resumed run goes on as it would have.
        """
        key = mix((self.step + 0x9E3779B9 * (self.seed + 1)) & 0xFFFFFFFF)
        key = mix((key + 0x85EBCA6B * (place()[0] + 1)) & 0xFFFFFFFF)
        samples_at = torch.arange(samples, device=self.step.device)
        first = mix((key + 0x632BE59B * samples_at) & 0xFFFFFFFF)
        second = mix(first ^ 0x5BD1E995)
        some = 1 + (second * self.stages) // (1 << 32)
        return torch.where(first < int(self.dropout * (1 << 32)), some, self.stages)

    def _stage_masks(self, valid: Tensor) -> list[Tensor]:
        """What counts in each stage, bool as ``valid`` ``(*batch,)``; a training step drops stages."""
        if not (self.training and self.dropout):
            return [valid] * self.stages
        self.step.add_(1)
        samples = valid.shape[0] if valid.ndim else 1
        kept = self.kept(samples).reshape(-1, *[1] * (valid.ndim - 1))
        return [
            valid & (kept > i).reshape(kept.shape if valid.ndim else ()) for i in range(self.stages)
        ]


@register("residual")
class ResidualQuantizer(Staged):
    """A sum of stages: ``r_0 = x``, ``q_s = Q_s(r_(s-1))``, ``r_s = r_(s-1) - sg(q_s)``, ``values = q_1 + ... + q_S``.

    What is taken from the residual is held constant, so the losses of every stage reach the encoder; the estimator
    stands around the sum, so the gradient of the values reaches it once. Codes have an axis of stages in front of
    those of a stage, ``(*batch, stages, ...)``; stages whose codes differ in shape are laid flat one after another.

    A loss is the mean over stages. ``decode(codes, stages=n)`` takes the first n. With ``dropout`` a sample (an entry
    of the first batch axis) keeps 1 to S stages in training; the codes of the others are -1.

    Args:
        of: a part ``{"kind": ..., **arguments}``, or a list with one for each stage.
        stages: how many, where ``of`` is one part.
        dropout: share of training samples that keep a random number of stages.
        estimator: ``straight`` or ``rotation``, from x to the sum.
        seed: of stages without one of their own, and of dropout.

    Reference:
        N. Zeghidour et al., "SoundStream: an end-to-end neural audio codec" (2021), section III-C and algorithm 1, with
        dropout of stages for one model at many rates.
    """

    def __init__(
        self,
        of: Part | Sequence[Part],
        stages: int | None = None,
        dropout: float = 0.0,
        estimator: str = "straight",
        seed: int = 0,
    ) -> None:
        super().__init__(of, stages, dropout, estimator, seed)

    def run(self, x: Tensor, through: Tensor, mask: Tensor | None = None) -> Quantized:
        """As ``forward``, with gradients in two lanes; see ``Composable``."""
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        with torch.autocast(x.device.type, enabled=False):
            left, valid, nonfinite = clean(x, mask)
            lane = None if through is x else clean(through, mask)[0]
            masks, tables = self._stage_masks(valid), plain_tables(self.each())
            if tables is not None:
                found, values = run_tables(tables, left, lane, masks, self.estimator)
            else:
                found, total = self._run_stages(left, masks)
                values = carry(self.estimator, left if lane is None else lane, total)
            if not everything(valid):
                values = torch.where(valid[..., None], values, 0.0)
        losses, weights, stats = merge_losses(found, "stage")
        stats["nonfinite"] = nonfinite
        codes = self.layout.join([part.codes for part in found])
        return Quantized(values.to(x.dtype), codes, losses, weights, stats)

    def _run_stages(self, left: Tensor, masks: Sequence[Tensor]) -> tuple[list[Quantized], Tensor]:
        """What each stage found, and the sum of their values, with the gradient of what they learn."""
        found, total = [], torch.zeros_like(left)
        for part, own in zip(self.each(), masks, strict=True):
            found.append(run_part(part, left, left.detach(), own))
            total = total + found[-1].values
            left = left - found[-1].values.detach()
        return found, total

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        left, valid, _ = clean(x, mask)
        codes = []
        for part in self.each():
            codes.append(part.encode(left, valid))
            left = left - part.decode(codes[-1])
        return self.layout.join(codes)

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Sum of the values of the first stages, ``(*batch, dim)`` float32; -1 adds nothing.

        Raises:
            ValueError: for codes out of range, a number of stages there is not, or a quantizer that is not ready.
        """
        count = self._check_stages(stages)
        pieces = self._split_codes(codes)
        total = torch.zeros((), device=codes.device)
        for part, piece in list(zip(self.each(), pieces, strict=True))[:count]:
            total = total + part.decode(piece)
        return total

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start stage after stage on what the stages before leave of features ``(n, dim)``.

        Raises:
            ValueError: as the stages raise it.
        """
        left = check_features(self.kind, x, self.dim, 1)
        for part in self.each():
            part.start(left, generator)
            left = left - part.decode(part.encode(left))
