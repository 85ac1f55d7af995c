"""Any codebook of the library as it is, with a scale around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.codebooks import Codebook, Residual, build
from vq.quantizers.layer import CodebookQuantizer
from vq.quantizers.opaque import decode, encode
from vq.quantizers.registry import register
from vq.quantizers.table import mean_square


@register("fixed")
class FixedQuantizer(CodebookQuantizer):
    """A codebook whose vectors do not move: lattices, pyramids, trellises, scalars, and tables once fitted.

    A codebook lives in units of N(0, 1). Each channel is brought there by ``(h - center) / scale`` and its values back.
    ``start`` takes center and scale from features and fits codebooks that learn a table; afterwards the table stays.
    Vectors longer than the codebook's are cut into blocks of neighbouring numbers; codes get an axis for them.

    Args:
        codebook: spec text, for instance ``e8p()``.
        dim: of the input, by default that of the codebook.
        inner: numbers that are quantized, a multiple of the codebook's dimension; where it is not ``dim``, learned
            linear maps stand around the codebook.
        scale: ``running`` follows the features in training, ``learned`` trains center and scale by
            ``|sg(h) - v|²``, ``fixed`` keeps what ``start`` found.
        estimator: ``straight`` or ``rotation``.
        commitment: weight of ``|h - sg(v)|²``, mean over numbers.
        decay: of running statistics.
        seed: of the linear maps.

    Raises:
        ValueError: if the dimensions do not fit, or as the codebook raises it.
    """

    def __init__(
        self,
        codebook: str = "e8p()",
        dim: int | None = None,
        inner: int | None = None,
        scale: str = "running",
        estimator: str = "straight",
        commitment: float = 0.25,
        decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        own = build(codebook)
        dim = own.dim if dim is None else dim
        inner = dim if inner is None else inner
        if min(dim, inner) < 1 or inner % own.dim:
            raise ValueError(
                f"fixed: {own.spec} quantizes blocks of {own.dim} numbers, but the vector has {inner}; give "
                f"a dim that is a multiple of {own.dim}, or inner={-(-max(inner, 1) // own.dim) * own.dim} for "
                "learned linear maps to and from it"
            )
        if not commitment >= 0:
            raise ValueError(f"fixed: commitment must not be negative, got {commitment!r}")
        super().__init__(own, dim, inner, scale, decay, estimator, seed)
        self.scale, self.commitment, self.decay = scale, commitment, decay
        self.codebook.requires_grad_(False)

    def config(self) -> dict[str, Any]:
        """See ``Quantizer``."""
        own = {"codebook": str(self.codebook.spec), "inner": self.inner, "scale": self.scale}
        own |= {"estimator": self.estimator, "commitment": self.commitment, "decay": self.decay}
        return {**own, **self._config()}

    @property
    def stages(self) -> int:
        """Those of a residual codebook, else 1."""
        return self.codebook.count if isinstance(self.codebook, Residual) else 1

    @property
    def ready(self) -> bool:
        """Whether the codebook has a table, where it needs one."""
        return self.codebook.fitted

    def _find(self, points: Tensor) -> Tensor:
        blocks = points.reshape(-1, self.codebook.dim)
        return encode(self.codebook, blocks).reshape(len(points), *self.codes_shape)

    def _units(self, codes: Tensor) -> Tensor:
        return self._units_of(codes, 0)

    def _units_of(self, codes: Tensor, stages: int) -> Tensor:
        blocks = codes.reshape(-1, *self.codebook.codes_shape)
        with torch.no_grad():
            return decode(self.codebook, blocks, stages).reshape(len(codes), self.inner)

    def _losses(
        self, h: Tensor, points: Tensor, units: Tensor, valid: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor]]:
        assert self.affine is not None
        values = self.affine.out(units)
        losses = {"commitment": mean_square(h, values.detach(), valid)}
        weights = {"commitment": self.commitment}
        if self.scale == "learned":
            losses["codebook"] = mean_square(h.detach(), values, valid)
            weights["codebook"] = 1.0
        return losses, weights, {}

    def _start_codebook(self, points: Tensor, generator: torch.Generator | None) -> None:
        if type(self.codebook).fit is Codebook.fit:
            return
        try:
            self.codebook.fit(points.reshape(-1, self.codebook.dim), generator=generator)
        except TypeError as error:  # some members of a family have fixed values
            if "nothing to fit" not in str(error):
                raise
