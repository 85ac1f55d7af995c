"""Index backpropagation: the gradient of every lookup reaches all entries of the table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vq.codebooks import lloyd
from vq.codebooks.kmeans import KMeans
from vq.codebooks.nearest import nearest
from vq.codebooks.registry import build
from vq.codebooks.spec import Spec
from vq.quantizers.passing import Gap, passed
from vq.quantizers.registry import register
from vq.quantizers.soft_indices import index_backprop, soft_entropies
from vq.quantizers.table import TableQuantizer, check_features, mean_square


@register("ibq")
class IndexBackpropQuantizer(TableQuantizer):
    """The row with the largest inner product; gradients through a softmax over all rows.

    Losses, means over vectors and coordinates of squares: ``quantization`` with gradients through the softmax,
    ``commitment`` ``|z - sg(c)|²``, ``codebook`` ``|sg(z) - c|²``; and, where its weight is not 0, ``entropy``: that of
    each vector's softmax less that of their mean (of this rank's batch), in nats.

    Time grows with vectors x entries x dim, six products instead of one; memory does not.

    Args:
        codebook: a ``kmeans`` spec: dimension and number of the rows, iterations of ``start``.
        dim: of the input; where it is not the codebook's, learned linear maps lead in and out.
        temperature: of the softmax that gradients go through.
        commitment: weight of that loss and of ``quantization``.
        codebook_weight: weight of ``codebook``.
        entropy: weight of ``entropy``.
        entropy_temperature: of its softmax.
        seed: of the rows and the linear maps.

    Reference:
        F. Shi et al., "Scalable image tokenization with index backpropagation quantization" (2024), equations (5) to
        (8).
    """

    def __init__(
        self,
        codebook: str | Spec = "kmeans(dim=8, entries=1024)",
        dim: int | None = None,
        temperature: float = 1.0,
        commitment: float = 1.0,
        codebook_weight: float = 0.25,
        entropy: float = 0.0,
        entropy_temperature: float = 0.01,
        seed: int = 0,
    ) -> None:
        book = build(codebook)
        if not isinstance(book, KMeans):
            raise ValueError(
                f"ibq: expected a codebook kmeans(dim=..., entries=...), got {book.spec}"
            )
        if min(commitment, codebook_weight, entropy) < 0:
            raise ValueError(
                f"ibq: expected weights of at least 0, got {commitment}, {codebook_weight}, {entropy}"
            )
        if min(temperature, entropy_temperature) <= 0:
            raise ValueError(
                f"ibq: expected temperatures above 0, got {temperature}, {entropy_temperature}"
            )
        super().__init__(book.dim if dim is None else dim, book.dim, book.entries, seed)
        self.spec, self.iterations = book.spec, book.iterations
        self.temperature, self.entropy_temperature = temperature, entropy_temperature
        self.commitment, self.codebook_weight, self.entropy = commitment, codebook_weight, entropy
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(book.entries, book.dim, generator=generator)
        self.table = nn.Parameter(rows * book.dim**-0.5)

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal layer."""
        return {
            "codebook": str(self.spec),
            "dim": self.dim,
            "temperature": self.temperature,
            "commitment": self.commitment,
            "codebook_weight": self.codebook_weight,
            "entropy": self.entropy,
            "entropy_temperature": self.entropy_temperature,
            "seed": self.seed,
        }

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Principal axes of x ``(n, dim)`` for the linear maps; k-means of directions, times the mean length, as rows.

        The largest inner product finds any of many rows only if their lengths are alike.

        Raises:
            ValueError: for fewer vectors than entries, a wrong shape, or numbers that are not finite.
        """
        features = check_features("ibq", x, self.dim, self.entries)
        self.projection.start(features)
        points = self.projection.down(features)
        found = lloyd.fit(
            F.normalize(points, dim=1),
            self.entries,
            iterations=self.iterations,
            generator=generator,
        )
        self.table.copy_(F.normalize(found.table, dim=1) * points.norm(dim=1).mean())

    def _table(self) -> Tensor:
        return self.table.detach()

    def _find(self, points: Tensor, table: Tensor) -> Tensor:
        return nearest(points, table, penalty=-table.square().sum(1)).long()

    def _rows(self, codes: Tensor, table: Tensor) -> Tensor:
        return F.embedding(codes, self.table)

    def _values(
        self,
        points: Tensor,
        lane: Tensor | None,
        rows: Tensor,
        codes: Tensor,
        valid: Tensor,
        gap: Gap,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        _, (commitment,) = passed(points, None, rows, [gap], "straight")
        soft = self._soft(points, codes, valid)
        losses = {"commitment": commitment, "quantization": mean_square(soft, points, valid)}
        if self.entropy:
            each, mean = soft_entropies(points, self.table, valid, self.entropy_temperature)
            losses["entropy"] = each - mean
        return soft if lane is None else self._soft(lane, codes, valid), losses

    def _soft(self, points: Tensor, codes: Tensor, valid: Tensor) -> Tensor:
        """The rows of codes, with gradients through the softmax."""
        found = index_backprop(points, self.table, codes, self.temperature)
        return found.masked_fill(~valid[:, None], 0)

    def _weights(self) -> dict[str, float]:
        weights = {
            "quantization": self.commitment,
            "commitment": self.commitment,
            "codebook": self.codebook_weight,
        }
        return {**weights, "entropy": self.entropy} if self.entropy else weights
