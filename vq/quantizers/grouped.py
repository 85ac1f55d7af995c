"""Several quantizers side by side on groups of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vq.quantizers.base import Quantized, check_input
from vq.quantizers.compose import clean, run_part
from vq.quantizers.compound import (
    Compound,
    Part,
    build_parts,
    merge_losses,
    part_configs,
)
from vq.quantizers.registry import register
from vq.quantizers.table import check_features


@register("grouped")
class GroupedQuantizer(Compound):
    """Neighbouring features in groups, each with a quantizer of its own, of any kind and dimension.

    Codes have an axis of groups in front of those of a group: ``(*batch, groups, ...)``, so residual quantizers in
    groups give ``(*batch, groups, stages)``. Groups whose codes differ in shape are laid flat one after another. A loss
    is the mean over groups.

    Args:
        of: a part ``{"kind": ..., **arguments}``, or a list with one for each group.
        groups: how many, where ``of`` is one part.
        seed: of groups without one of their own.

    Reference:
        H. Jégou, M. Douze, C. Schmid, "Product quantization for nearest neighbor search" (2011), equation (8); groups
        of residual quantizers as in D. Yang et al., "HiFi-Codec: group-residual vector quantization" (2023), section
        3.2.
    """

    def __init__(self, of: Part | Sequence[Part], groups: int | None = None, seed: int = 0) -> None:
        super().__init__(build_parts(self.kind, of, groups, seed))
        self.seed = seed
        self.sizes = [part.dim for part in self.each()]

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        return {"of": part_configs(self.each()), "seed": self.seed}

    @property
    def dim(self) -> int:
        """Sum of the groups' dimensions."""
        return sum(self.sizes)

    @property
    def stages(self) -> int:
        """Those of the groups where they agree, else 1."""
        counts = {part.stages for part in self.each()}
        return counts.pop() if len(counts) == 1 else 1

    def run(self, x: Tensor, through: Tensor, mask: Tensor | None = None) -> Quantized:
        """As ``forward``, with gradients in two lanes; see ``Composable``."""
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        full, valid, nonfinite = clean(x, mask)
        lanes = full if through is x else clean(through, mask)[0]
        found = []
        pieces = zip(
            self.each(), full.split(self.sizes, -1), lanes.split(self.sizes, -1), strict=True
        )
        for part, piece, lane in pieces:
            found.append(run_part(part, piece, piece if through is x else lane, valid))
        losses, weights, stats = merge_losses(found, "group")
        stats["nonfinite"] = nonfinite
        values = torch.cat([part.values for part in found], dim=-1).to(x.dtype)
        codes = self.layout.join([part.codes for part in found])
        return Quantized(values, codes, losses, weights, stats)

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        full, valid, _ = clean(x, mask)
        pieces = zip(self.each(), full.split(self.sizes, -1), strict=True)
        return self.layout.join([part.encode(piece, valid) for part, piece in pieces])

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Values of the groups side by side, ``(*batch, dim)`` float32; a group whose code is -1 is zero.

        Raises:
            ValueError: for codes out of range, a number of stages there is not, or a quantizer that is not ready.
        """
        count = self._check_stages(stages)
        own = count if self.stages > 1 else None
        pieces = zip(self.each(), self._split_codes(codes), strict=True)
        return torch.cat([part.decode(piece, own) for part, piece in pieces], dim=-1)

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start each group on its part of features ``(n, dim)``.

        Raises:
            ValueError: as the groups raise it.
        """
        x = check_features(self.kind, x, self.dim, 1)
        for part, piece in zip(self.each(), x.split(self.sizes, -1), strict=True):
            part.start(piece.contiguous(), generator)
