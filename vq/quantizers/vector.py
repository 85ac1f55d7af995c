"""A learned table of vectors: VQ with moving averages or gradients, revival, and low-dimensional or cosine lookup."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vq.codebooks import lloyd
from vq.codebooks.kmeans import KMeans
from vq.codebooks.registry import build
from vq.codebooks.spec import Spec, nearest_names
from vq.quantizers.means import MovingMeans
from vq.quantizers.registry import register
from vq.quantizers.revival import Revival
from vq.quantizers.table import TableQuantizer, check_features
from vq.quantizers.usage import BatchUse

LOOKUPS = ("euclidean", "cosine", "angle")
LEARN = ("ema", "gradient")
INITS = ("normal", "uniform")


@register("vq")
class VectorQuantizer(TableQuantizer):
    """The nearest row of a table that is learned with the network.

    Losses: ``commitment`` ``|z - sg(c)|²`` (weight ``commitment``) and, for ``learn="gradient"``, ``codebook``
    ``|sg(z) - c|²`` (weight 1), both in the space of the table, means over vectors and coordinates.

    Args:
        codebook: a ``kmeans`` spec: dimension and number of the rows, iterations of ``start``.
        dim: of the input; where it is not the codebook's, learned linear maps lead in and out.
        learn: ``ema`` rows are moving means of their cells; ``gradient`` rows are a parameter.
        lookup: ``euclidean``; ``cosine``: vectors and rows are brought to length 1, the values are unit rows;
            ``angle``: the row of the nearest direction, but values of its own length.
        estimator: ``straight`` or ``rotation``, see ``vq.quantizers.estimators``.
        commitment: weight of that loss.
        decay: of the moving averages.
        revival: entries used less than this share of the mean are put where data is; 0 never.
        every: steps between two looks for such entries.
        init: ``normal`` rows N(0, 1/dim), or ``uniform`` within ±1/entries, which is how tables collapse; ``start``
            replaces both.
        seed: of the start and of revival.

    Attributes:
        table: ``(entries, codebook's dim)``: a buffer for ``ema``, a parameter for ``gradient``; set it with
            ``load_table``.

    Reference:
        A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural discrete representation learning" (2017), equation (3);
        J. Yu et al., "Vector-quantized image modeling with improved VQGAN" (2022), section 3.2, for low-dimensional
        cosine lookup; R. Kumar et al., "High-fidelity audio compression with improved RVQGAN" (2023), section 3.2,
        for ``angle``.
    """

    table: Tensor

    def __init__(
        self,
        codebook: str | Spec = "kmeans(dim=8, entries=1024)",
        dim: int | None = None,
        learn: Literal["ema", "gradient"] = "ema",
        lookup: Literal["euclidean", "cosine", "angle"] = "euclidean",
        estimator: str = "straight",
        commitment: float = 0.25,
        decay: float = 0.99,
        revival: float = 0.1,
        every: int = 5,
        init: Literal["normal", "uniform"] = "normal",
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("learn", learn, LEARN),
            ("lookup", lookup, LOOKUPS),
            ("init", init, INITS),
        ):
            if value not in known:
                raise ValueError(
                    f"vq: unknown {name} {value!r}; {nearest_names(str(value), known)}"
                )
        _check_numbers(commitment, decay, revival, every)
        book = build(codebook)
        if not isinstance(book, KMeans):
            raise ValueError(
                f"vq: expected a codebook kmeans(dim=..., entries=...), got {book.spec}; for frozen tables "
                "under a learned map there is simvq"
            )
        super().__init__(book.dim if dim is None else dim, book.dim, book.entries, seed, estimator)
        self.spec, self.learn, self.lookup, self.init = book.spec, learn, lookup, init
        self.commitment, self.decay = commitment, decay
        table = _first_table(init, book.entries, book.dim, seed)
        if learn == "ema":
            self.register_buffer("table", table)
        else:
            self.table = nn.Parameter(table)
        self.means = MovingMeans(table, decay) if learn == "ema" else None
        self.revival = Revival(book.entries, book.dim, revival, every, decay, seed)

    def config(self) -> dict[str, Any]:
        """Arguments that make an equal layer."""
        return {
            "codebook": str(self.spec),
            "dim": self.dim,
            "learn": self.learn,
            "lookup": self.lookup,
            "estimator": self.estimator,
            "commitment": self.commitment,
            "decay": self.decay,
            "revival": self.revival.threshold,
            "every": self.revival.every,
            "init": self.init,
            "seed": self.seed,
        }

    @property
    def codebook(self) -> KMeans:
        """A codebook with the rows as they are used now, for analysis and for packing codes."""
        book = build(self.spec)
        assert isinstance(book, KMeans)
        book.table = self._value_rows(self.table.detach()).clone()
        return book

    @torch.no_grad()
    def load_table(self, table: Tensor, usage: Tensor | None = None) -> None:
        """Set the rows, and with them everything that was averaged: a batch of exactly these rows changes nothing.

        Args:
            table: ``(entries, codebook's dim)`` finite.
            usage: ``(entries,)`` shares that sum to 1; even use by default.

        Raises:
            ValueError: for another shape, or numbers that are not finite.
        """
        if table.shape != self.table.shape or not bool(torch.isfinite(table).all()):
            raise ValueError(
                f"vq: expected finite rows {tuple(self.table.shape)}, got {tuple(table.shape)}"
            )
        self.table.copy_(table)
        if self.means is not None:
            self.means.following.copy_(table)
        self.revival.reset(1 / self.entries if usage is None else usage)

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Principal axes of x ``(n, dim)`` for the linear maps, k-means for the rows.

        Raises:
            ValueError: for fewer vectors than entries, a wrong shape, or numbers that are not finite.
        """
        features = check_features("vq", x, self.dim, self.entries)
        self.projection.start(features, unit=self.lookup == "cosine")
        points = self._points(self.projection.down(features))
        iterations = int(self.codebook.iterations)
        found = lloyd.fit(points, self.entries, iterations=iterations, generator=generator)
        self.load_table(found.table, found.members / len(points))

    def _points(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.lookup == "cosine" else z

    def _value_rows(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=-1) if self.lookup == "cosine" else rows

    def _table(self) -> Tensor:
        table = self.table.detach()
        return table if self.lookup == "euclidean" else F.normalize(table, dim=-1)

    def _find(self, points: Tensor, table: Tensor) -> Tensor:
        if self.lookup == "angle":
            points = F.normalize(points, dim=-1)
        return super()._find(points, table)

    def _rows(self, codes: Tensor, table: Tensor) -> Tensor:
        return self._value_rows(F.embedding(codes, self.table))

    def _weights(self) -> dict[str, float]:
        both = {"commitment": self.commitment, "codebook": 1.0}
        return both if self.learn == "gradient" else {"commitment": self.commitment}

    @torch.no_grad()
    def _advance(self) -> None:
        if self.means is not None:
            self.table.copy_(self.means.following)
        self.revival.apply_to(self.table)

    @torch.no_grad()
    def _collect(
        self, points: Tensor, away: Tensor, codes: Tensor, valid: Tensor, use: BatchUse
    ) -> dict[str, Tensor]:
        self.revival.count(use)
        if self.means is not None:
            if self.lookup == "cosine":  # the mean is that of unit vectors, not a unit vector
                away = (points - self.table[codes]).mul_(valid[:, None])
            self.means.collect(away, codes, self.table, self.revival.usage, use)
        return {"revived": self.revival.choose(points, valid, use)}


def _first_table(init: str, entries: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if init == "uniform":
        return (2 * torch.rand(entries, dim, generator=generator) - 1) / entries
    return torch.randn(entries, dim, generator=generator) * dim**-0.5


def _check_numbers(commitment: float, decay: float, revival: float, every: int) -> None:
    if commitment < 0 or not 0 <= decay < 1 or not 0 <= revival < 1 or every < 1:
        raise ValueError(
            "vq: expected commitment of at least 0, decay and revival from 0 to below 1 and every of at least 1, "
            f"got {commitment}, {decay}, {revival}, {every}"
        )
