"""Frozen features seen through a learned projector."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.base import Codebook
from vq.codebooks.compose import MAX_TABLE, build_part, has_table, table_of, whole_number
from vq.codebooks.registry import register
from vq.codebooks.reparametrised import Reparametrised
from vq.codebooks.shipped import load_shipped, shipped_mse
from vq.codebooks.spec import Spec, Value


@register("frozen")
class Frozen(Reparametrised):
    """``table = features @ map + offset``: the vectors of any codebook, frozen, and a learned projector.

    The features may live in another space than the data, for instance k-means centres of a pretrained encoder's
    features: fit or load them first, ``codebook.features.fit(pretrained)``. Where they have the data's dimension and
    were never fitted, ``fit`` takes them from the data.

    Args:
        of: codebook that holds the features; its vectors can be listed (at most 65536).
        dim: length of a vector; that of the features by default.

    Reference:
        L. Zhu et al., "Scaling the codebook size of VQGAN to 100,000 with a utilization rate of 99%" (VQGAN-LC, 2024),
        section 3.2.
    """

    def __init__(
        self, of: str | Spec | Codebook = "kmeans(dim=8, entries=256)", dim: int | None = None
    ) -> None:
        features = build_part(of)
        if not has_table(features):
            raise ValueError(
                f"frozen: the vectors of {features.spec} cannot be listed; expected one index a "
                f"vector and at most {MAX_TABLE} entries"
            )
        width = features.dim if dim is None else whole_number("frozen", "dim", dim, 1, 1024)
        super().__init__(features.dim, width, iterations=10)
        self.features = features.requires_grad_(False)
        load_shipped(self, self.spec)

    @property
    def spec(self) -> Spec:
        """``frozen(of=...)``, and the dimension where it is not that of the features."""
        args: dict[str, Value] = {"of": self.features.spec}
        return Spec.make(
            "frozen", **args, **({"dim": self._dim} if self._dim != self.features.dim else {})
        )

    @property
    def entries(self) -> int:
        """Rows of the table."""
        assert self.features.entries is not None
        return self.features.entries

    @property
    def fitted(self) -> bool:
        """Whether there are features."""
        return self.features.fitted

    @property
    def distortion(self) -> float | None:
        """Measured on held-out N(0, 1) for the shipped tables, else None."""
        return shipped_mse(self, self.spec)

    def basis_rows(self) -> Tensor:
        """The frozen features, ``(entries, dim of the features)``."""
        return table_of(self.features)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Frozen:
        """Fit the projector on x ``(n, dim)``; features that were never fitted are fitted on x first.

        Raises:
            ValueError: if there are no features and x cannot serve, for wrong shapes, or numbers that are not finite.
        """
        if not self.features.fitted:
            if self.features.dim != self._dim:
                raise ValueError(
                    f"{self.spec}: there are no features yet, and vectors of {self._dim} numbers cannot "
                    f"serve as features of {self.features.dim}; call codebook.features.fit(features)"
                )
            self.features.fit(x, weight, generator)
        super().fit(x, weight, generator)
        return self

    def _start(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """The map as it is between spaces of one dimension, matched moments else."""
        if basis.shape[1] == self._dim:
            return self.map.detach().clone(), self.offset.detach().clone()
        return super()._start(x, basis)
