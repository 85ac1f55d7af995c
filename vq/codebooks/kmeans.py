"""Vector tables learned by weighted k-means."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from vq._data_files import data_path
from vq.codebooks import lloyd
from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec
from vq.kernels.search import nearest


@register("kmeans")
class KMeans(Codebook):
    """A free table of ``entries`` vectors, fitted by Lloyd's algorithm.

    For some sizes a table trained on N(0, I) is shipped (``python -m vq.codebooks.train_kmeans``): the codebook is
    fitted at once, and its ``distortion`` was measured on 8 million other numbers. ``fit`` replaces it.

    Args:
        dim: length of a vector, 1 to 1024.
        entries: number of vectors, 2 to 65536.
        iterations: Lloyd steps of ``fit``.

    Attributes:
        sample: points that ``fit`` sees in all but its last iterations, as in ``lloyd.fit``; None takes all,
            which costs time and gains about 1 %.

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
        self.sample: Literal["auto"] | int | None = "auto"
        shipped = trained_table(dim, entries)
        table = torch.full((entries, dim), float("nan")) if shipped is None else shipped.table
        self.register_buffer("table", table.clone())

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

    @property
    def distortion(self) -> float | None:
        """The shipped figure while the table is the shipped one, else None."""
        shipped = trained_table(self._dim, self._entries)
        if shipped is None or not torch.equal(self.table.cpu(), shipped.table):
            return None
        return shipped.distortion

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Index of the nearest vector under ``sum_d weight_d (x_d - c_d)^2``; the lowest among equals.

        Returns:
            ``(*batch,)`` int32.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, or before ``fit``.
        """
        self._check_vectors(x, weight)
        flat = x.reshape(-1, self._dim)
        own = None if weight is None else _flat_weight(weight, x)
        return nearest(flat, self.table, own).reshape(x.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Rows of the table, ``(*batch, dim)``."""
        return self.table[codes.long()]

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> KMeans:
        """Lloyd's algorithm from a random draw of distinct points; see ``vq.codebooks.lloyd.fit``.

        Args:
            x: ``(n, dim)`` with ``n >= entries``.
            weight: importance, broadcastable to x.
            generator: of the initial draw and the sample; a fresh one with seed 0 by default.

        Raises:
            ValueError: for fewer points than entries, wrong shapes, or numbers that are not finite.
        """
        check_vectors(x, self._dim, str(self.spec))
        if x.ndim != 2 or x.shape[0] < self._entries:
            raise ValueError(
                f"{self.spec}: expected at least {self._entries} vectors (n, {self._dim}) to fit, "
                f"got {tuple(x.shape)}"
            )
        own = None if weight is None else _flat_weight(weight, x)
        if own is not None:
            own = own.expand(len(x), -1)
        found = lloyd.fit(
            x,
            self._entries,
            own,
            sample=self.sample,
            iterations=self.iterations,
            generator=generator,
        )
        self.table.copy_(found.table)
        return self


def _flat_weight(weight: Tensor, x: Tensor) -> Tensor:
    """Weights broadcastable to ``x.reshape(-1, dim)``, no larger than they must be."""
    if weight.numel() == 1 or weight.ndim < 2 or weight.numel() == weight.shape[-1]:
        return weight.reshape(1, -1)
    return weight.expand(*x.shape[:-1], weight.shape[-1]).reshape(-1, weight.shape[-1])


@dataclass(frozen=True)
class TrainedTable:
    """A shipped table.

    Attributes:
        table: ``(entries, dim)`` float32.
        distortion: measured on held-out N(0, 1), over its variance.
    """

    table: Tensor
    distortion: float


def table_name(dim: int, entries: int) -> str:
    """File name of a trained table."""
    return f"kmeans-dim{dim}-entries{entries}.safetensors"


@functools.cache
def trained_table(dim: int, entries: int) -> TrainedTable | None:
    """The shipped table, or None where there is none of this size."""
    try:
        path = data_path("codebooks", table_name(dim, entries))
    except FileNotFoundError:
        return None
    with safe_open(path, framework="pt") as file:
        return TrainedTable(file.get_tensor("table").float(), float(file.metadata()["mse"]))
