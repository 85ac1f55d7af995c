"""Product codebooks: a vector is cut into groups, each with a codebook of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.compose import Composed, whole_number
from vq.codebooks.registry import register
from vq.codebooks.shipped import load_shipped, shipped_mse
from vq.codebooks.spec import Spec, Value


@register("product")
class Product(Composed):
    """Independent codebooks on equal groups of neighbouring coordinates.

    A vector has one code a group; the nearest vector is found group by group, exactly if the parts are exact. The rate
    is that of a part: groups make vectors longer and tables cheaper, they do not by themselves lower the error.

    Args:
        groups: number of parts, 1 to 256.
        of: codebook of one group, of any family.
        shared: one codebook for all groups, fitted on all of them, instead of one each.

    Reference:
        H. Jégou, M. Douze, C. Schmid, "Product quantization for nearest neighbor search", IEEE Trans. PAMI 33 (2011),
        equation (8).
    """

    def __init__(
        self,
        groups: int = 2,
        of: str | Spec | Codebook = "kmeans(dim=4, entries=256)",
        shared: bool = False,
    ) -> None:
        if not isinstance(shared, bool):
            raise ValueError(f"product: shared must be true or false, got {shared!r}")
        super().__init__(whole_number("product", "groups", groups, 1, 256), of, shared)
        self.shared = shared
        load_shipped(self, self.spec)

    @property
    def spec(self) -> Spec:
        """``product(groups=..., of=...)``, and ``shared=true``."""
        args: dict[str, Value] = {"groups": self.count, "of": self.part.spec}
        return Spec.make("product", **args, **({"shared": True} if self.shared else {}))

    @property
    def dim(self) -> int:
        """``groups`` times the dimension of a part."""
        return self.count * self.part.dim

    @property
    def exact_search(self) -> bool:
        """Whether the parts search exactly."""
        return self.part.exact_search

    @property
    def distortion(self) -> float | None:
        """Mean over the parts where all know theirs; else the shipped figure."""
        figures = [part.distortion for part in self._parts()]
        known = [figure for figure in figures if figure is not None]
        if len(known) == self.count:
            return sum(known) / self.count
        return shipped_mse(self, self.spec)

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(*batch, groups, *codes_shape of a part)``; weights go to the parts.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, before ``fit``, or for a weight that the parts
                do not support.
        """
        self._check_vectors(x, weight)
        full = None if weight is None else weight.expand(x.shape)
        if self.shared:
            return self.part.encode(self._split(x), None if full is None else self._split(full))
        pieces = self._split(x).unbind(-2)
        weights = [None] * self.count if full is None else self._split(full).unbind(-2)
        codes = [
            part.encode(piece, own)
            for part, piece, own in zip(self._parts(), pieces, weights, strict=True)
        ]
        return torch.stack(codes, dim=x.ndim - 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(*batch, dim)``: those of the groups side by side."""
        batch = self._batch_shape(codes)
        if self.shared:
            return self.part.decode(codes).reshape(*batch, self.dim)
        pieces = codes.unbind(len(batch))
        values = [part.decode(piece) for part, piece in zip(self._parts(), pieces, strict=True)]
        return torch.cat(values, dim=-1)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Product:
        """Fit each part on its group of the vectors ``(n, dim)``; a shared part on all groups.

        Raises:
            TypeError: if the parts have nothing to fit.
            ValueError: as the parts raise it.
        """
        check_vectors(x, self.dim, str(self.spec))
        full = None if weight is None else weight.expand(x.shape)
        if self.shared:
            shape = (-1, self.part.dim)
            own = None if full is None else full.reshape(shape)
            self.part.fit(x.reshape(shape), own, generator)
            return self
        for index, part in enumerate(self._parts()):
            piece = self._split(x)[..., index, :]
            own = None if full is None else self._split(full)[..., index, :]
            part.fit(piece.contiguous(), own, generator)
        return self

    def _split(self, x: Tensor) -> Tensor:
        """``(*batch, dim)`` as ``(*batch, groups, dim of a part)``."""
        return x.reshape(*x.shape[:-1], self.count, self.part.dim)
