"""Vector tables learned by weighted k-means."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec
from vq.kernels.search import nearest


@register("kmeans")
class KMeans(Codebook):
    """A free table of ``entries`` vectors, fitted by Lloyd's algorithm.

    Args:
        dim: length of a vector, 1 to 1024.
        entries: number of vectors, 2 to 65536.
        iterations: Lloyd steps of ``fit``.

    Reference:
        Y. Linde, A. Buzo, R. M. Gray, "An algorithm for vector quantizer design", IEEE Trans. Commun. 28 (1980).
        Per-coordinate weights: each coordinate of a centroid is the weighted mean of that coordinate, as in M. van
        Baalen et al., "GPTVQ: the blessing of dimensionality for LLM quantization" (2024), equation (6).
    """

    table: Tensor

    def __init__(self, dim: int = 8, entries: int = 256, iterations: int = 25) -> None:
        super().__init__()
        for name, value, low, high in (
            ("dim", dim, 1, 1024),
            ("entries", entries, 2, 65536),
            ("iterations", iterations, 1, 10000),
        ):
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"kmeans: {name} must be a whole number from {low} to {high}, got {value!r}"
                )
        self._dim, self._entries, self.iterations = dim, entries, iterations
        self.register_buffer("table", torch.full((entries, dim), float("nan")))

    @property
    def spec(self) -> Spec:
        """``kmeans(dim=..., entries=...)``, and the iterations where they are not 25."""
        extra = {} if self.iterations == 25 else {"iterations": self.iterations}
        return Spec.make("kmeans", dim=self._dim, entries=self._entries, **extra)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def entries(self) -> int:
        """Number of vectors in the table."""
        return self._entries

    @property
    def code_bits(self) -> int:
        """Bits of an index: ``ceil(log2(entries))``."""
        return (self._entries - 1).bit_length()

    @property
    def fitted(self) -> bool:
        """Whether the table was fitted or loaded."""
        return not bool(torch.isnan(self.table).any())

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Index of the nearest vector under ``sum_d weight_d (x_d - c_d)^2``; the lowest among equals.

        Returns:
            ``(*batch,)`` int32.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, or before ``fit``.
        """
        self._check_vectors(x, weight)
        flat = x.reshape(-1, self._dim)
        if weight is not None:
            weight = weight.expand(x.shape).reshape(-1, self._dim)
        return nearest(flat, self.table, weight).reshape(x.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Rows of the table, ``(*batch, dim)``."""
        return self.table[codes.long()]

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> KMeans:
        """Lloyd's algorithm from a random draw of distinct points; the same bits for any number of threads.

        An empty cell takes the point with the largest weighted error, so that all entries stay in use
        as long as there are as many distinct points.

        Args:
            x: ``(n, dim)`` with ``n >= entries``.
            weight: importance, broadcastable to x.
            generator: of the initial draw; a fresh one with seed 0 by default.

        Raises:
            ValueError: for fewer points than entries, wrong shapes, or numbers that are not finite.
        """
        check_vectors(x, self._dim, str(self.spec))
        if x.ndim != 2 or x.shape[0] < self._entries:
            raise ValueError(
                f"{self.spec}: expected at least {self._entries} vectors (n, {self._dim}) to fit, "
                f"got {tuple(x.shape)}"
            )
        generator = generator or torch.Generator(device=x.device).manual_seed(0)
        x = x.float()
        full = None if weight is None else weight.float().expand(x.shape)
        table = x[torch.randperm(len(x), generator=generator, device=x.device)[: self._entries]]
        for _ in range(self.iterations):
            codes = nearest(x, table, full).long()
            table = _centroids(x, codes, table, full)
        self.table.copy_(table)
        return self


def _centroids(x: Tensor, codes: Tensor, table: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted means of the cells in float64; a coordinate without weight keeps its old value."""
    mass_of = torch.ones_like(x, dtype=torch.float64) if weight is None else weight.double()
    mass = torch.zeros_like(table, dtype=torch.float64).index_add_(0, codes, mass_of)
    total = torch.zeros_like(mass).index_add_(0, codes, mass_of * x)
    moved = torch.where(mass > 0, total / mass.clamp_min(1e-300), table.double()).float()
    empty = (torch.bincount(codes, minlength=len(table)) == 0).nonzero()[:, 0]
    if len(empty):
        error = (mass_of * (x - moved[codes]).square()).sum(1)
        moved[empty] = x[error.topk(len(empty)).indices]
    return moved
