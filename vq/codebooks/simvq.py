"""SimVQ: a frozen random table seen through a learned linear layer."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.compose import whole_number
from vq.codebooks.registry import register
from vq.codebooks.reparametrised import Reparametrised
from vq.codebooks.shipped import load_shipped, shipped_mse
from vq.codebooks.spec import Spec, Value


@register("simvq")
class SimVQ(Reparametrised):
    """``table = basis @ map + offset`` with frozen Gaussian rows of variance ``1 / dim``.

    On its own a random table is a weak one; what it is for is training with a network, where a free table
    loses most of its entries and this one does not. ``encode`` and ``decode`` both see the mapped rows.

    Args:
        dim: length of a vector, 1 to 1024.
        entries: rows, 2 to 65536.
        seed: of the rows, which are also stored.

    Reference:
        Y. Zhu et al., "Addressing representation collapse in vector quantized models with one linear layer" (2024),
        equation (6): the codebook is C W with C frozen.
    """

    basis: Tensor

    def __init__(self, dim: int = 8, entries: int = 256, seed: int = 0) -> None:
        whole_number("simvq", "dim", dim, 1, 1024)
        whole_number("simvq", "entries", entries, 2, 65536)
        whole_number("simvq", "seed", seed, 0, 2**63 - 1)
        super().__init__(dim, dim, iterations=25)
        self.seed = seed
        rows = torch.randn(entries, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("basis", rows * dim**-0.5)
        with torch.no_grad():
            self.map.mul_(dim**0.5)  # rows of N(0, I) to start with
        load_shipped(self, self.spec)

    @property
    def spec(self) -> Spec:
        """``simvq(dim=..., entries=...)``, and the seed where it is not 0."""
        args: dict[str, Value] = {"dim": self._dim, "entries": self.entries}
        return Spec.make("simvq", **args, **({"seed": self.seed} if self.seed else {}))

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.basis.shape[0]

    @property
    def distortion(self) -> float | None:
        """Measured on held-out N(0, 1) for the shipped map, else None."""
        return shipped_mse(self, self.spec)

    def basis_rows(self) -> Tensor:
        """The frozen Gaussian rows."""
        return self.basis
