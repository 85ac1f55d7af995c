"""A frozen table under a learned map: SimVQ, and frozen features with a projector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.codebooks.registry import build
from vq.codebooks.reparametrised import Reparametrised
from vq.codebooks.simvq import SimVQ
from vq.codebooks.spec import Spec
from vq.quantizers.registry import register
from vq.quantizers.table import TableQuantizer, check_features

_START = 1.1  # length of the rows of simvq(...) before training, about


@register("simvq")
class SimVectorQuantizer(TableQuantizer):
    """The nearest row of ``basis @ map + offset``, where only map and offset are learned, by gradients.

    The gradient of one chosen row moves all of them, so that hardly any stay unused, without revival. Losses, means
    over vectors and coordinates: ``codebook`` ``|sg(z) - c|²`` (weight 1), ``commitment`` ``|z - sg(c)|²``.

    Args:
        codebook: ``simvq(...)``, or ``frozen(...)`` whose features are loaded or fitted, ``layer.codebook.features``,
            before training.
        dim: of the input; where it is not the codebook's, learned linear maps lead in and out.
        estimator: ``straight`` or ``rotation``, see ``vq.quantizers.estimators``.
        commitment: weight of that loss.
        seed: of the linear maps in and out.

    Attributes:
        codebook: holds the frozen rows, ``map`` and ``offset``.

    Reference:
        Y. Zhu et al., "Addressing representation collapse in vector quantized models with one linear layer" (2024),
        equations (6) and (7); L. Zhu et al., "Scaling the codebook size of VQGAN to 100,000 with a utilization rate of
        99%" (2024), section 3.2, for frozen features.
    """

    codebook: Reparametrised

    def __init__(
        self,
        codebook: str | Spec = "simvq(dim=8, entries=1024)",
        dim: int | None = None,
        estimator: str = "straight",
        commitment: float = 0.25,
        seed: int = 0,
    ) -> None:
        book = build(codebook)
        if not isinstance(book, Reparametrised):
            raise ValueError(
                f"simvq: expected a codebook simvq(...) or frozen(...), got {book.spec}; for a free table there is vq"
            )
        if commitment < 0:
            raise ValueError(f"simvq: expected commitment of at least 0, got {commitment}")
        assert book.entries is not None
        super().__init__(book.dim if dim is None else dim, book.dim, book.entries, seed, estimator)
        self.codebook, self.commitment = book, commitment
        if isinstance(book, SimVQ):
            _short_rows(book)
        self._cached: tuple[list[tuple[int, int]], Tensor, Tensor, Tensor] | None = None

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal layer."""
        return {
            "codebook": str(self.codebook.spec),
            "dim": self.dim,
            "estimator": self.estimator,
            "commitment": self.commitment,
            "seed": self.seed,
        }

    @property
    def ready(self) -> bool:
        """Whether there are features to map."""
        return self.codebook.fitted

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Principal axes of x ``(n, dim)`` for the linear maps; matched moments, then least squares for the map.

        Features of the data's dimension that were never fitted are taken from x.

        Raises:
            ValueError: for too few vectors, a wrong shape, numbers that are not finite, or features that are missing.
        """
        features = check_features("simvq", x, self.dim, self.inner + 1)
        self.projection.start(features)
        self.codebook.fit(self.projection.down(features), generator=generator)

    def _table(self) -> Tensor:
        """The mapped rows; in eval mode those of the last call while nothing has changed."""
        book = self.codebook
        frozen = list(book.buffers())
        if self.training or torch.compiler.is_compiling() or any(b.is_inference() for b in frozen):
            self._cached = None
            return book.table
        key = [(b.data_ptr(), b._version) for b in frozen]
        if self._cached is not None and self._cached[0] == key:
            _, matrix, offset, table = self._cached
            if _same(matrix, book.map) and _same(offset, book.offset):
                return table
        table = book.table
        self._cached = (key, book.map.detach().clone(), book.offset.detach().clone(), table)
        return table

    def _rows(self, codes: Tensor, table: Tensor) -> Tensor:
        return self.codebook.gathered(codes, table)

    def _weights(self) -> dict[str, float]:
        return {"commitment": self.commitment, "codebook": 1.0}


@torch.no_grad()
def _short_rows(book: SimVQ) -> None:
    """Rows a little longer than 1, which lie among an untrained encoder's features.

    With the codebook's own rows of N(0, I), far outside, a handful would win everywhere and stay alone.
    """
    book.map.copy_(_START * torch.eye(book.dim))
    book.offset.zero_()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and torch.equal(a, b)
