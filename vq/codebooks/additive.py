"""Additive codebooks: sums of entries of tables that were learned together."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.additive_fit import least_squares, normal_form, refill, start_tables, sum_of
from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.compose import whole_number
from vq.codebooks.registry import register
from vq.codebooks.shipped import load_shipped, shipped_mse
from vq.codebooks.spec import Spec, Value
from vq.kernels.beam import MAX_BEAM, beam_search

_ROUNDS = 12
_BEAM = 16


@register("additive")
class Additive(Codebook):
    """A sum of one entry of each table, ``x ≈ Σ_s table_s[code_s]``, all tables free and fitted together.

    Unlike in a residual codebook no stage is the quantizer of the stages before it, which leaves the fit free to use
    the whole space of sums. ``decode(codes, stages=n)`` still gives a coarse version: tables stand in falling order
    of energy, and the mean of the later ones is part of the first.

    Args:
        stages: tables, 1 to 16; ``stages * entries`` at most 8192.
        dim: length of a vector, 1 to 1024.
        entries: rows of a table, 2 to 4096.
        beam: partial sums that the search keeps, 1 to 256.
        rounds: of ``fit``.

    Reference:
        A. Babenko, V. Lempitsky, "Additive quantization for extreme vector compression", CVPR 2014, section 3 (beam
        search, joint least squares); J. Martinez et al., "LSQ++", ECCV 2018, equation (5).
    """

    tables: Tensor

    def __init__(
        self,
        stages: int = 2,
        dim: int = 8,
        entries: int = 256,
        beam: int = _BEAM,
        rounds: int = _ROUNDS,
    ) -> None:
        super().__init__()
        for name, value, low, high in (
            ("stages", stages, 1, 16),
            ("dim", dim, 1, 1024),
            ("entries", entries, 2, 4096),
            ("beam", beam, 1, MAX_BEAM),
            ("rounds", rounds, 0, 1000),
        ):
            whole_number("additive", name, value, low, high)
        if stages * entries > 8192:
            raise ValueError(
                f"additive: stages * entries must be at most 8192, got {stages} * {entries}"
            )
        self.stages, self._dim, self._rows = stages, dim, entries
        self.beam, self.rounds = beam, rounds
        self.register_buffer("tables", torch.full((stages, entries, dim), float("nan")))
        load_shipped(self, self.spec)

    @property
    def spec(self) -> Spec:
        """``additive(stages=..., dim=..., entries=...)``; beam and rounds where they are not the default."""
        args: dict[str, Value] = {"stages": self.stages, "dim": self._dim, "entries": self._rows}
        for name, value, usual in (("beam", self.beam, _BEAM), ("rounds", self.rounds, _ROUNDS)):
            if value != usual:
                args[name] = value
        return Spec.make("additive", **args)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def entries(self) -> int:
        """Number of sums, ``entries ** stages``."""
        return self._rows**self.stages

    @property
    def table_entries(self) -> int:
        """Rows of one table."""
        return self._rows

    @property
    def code_bits(self) -> int:
        """Bits of an index into one table."""
        return (self._rows - 1).bit_length()

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """One code a table."""
        return (self.stages,)

    @property
    def exact_search(self) -> bool:
        """False for more than one table: the search is a beam."""
        return self.stages == 1

    @property
    def fitted(self) -> bool:
        """Whether the tables were fitted or loaded."""
        return not bool(torch.isnan(self.tables).any())

    @property
    def distortion(self) -> float | None:
        """Measured on held-out N(0, 1) for the shipped tables and this beam, else None."""
        return shipped_mse(self, self.spec, self.beam)

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(*batch, stages)`` int32 by beam search under ``Σ_d weight_d (x_d - value_d)²``.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, or before ``fit``.
        """
        self._check_vectors(x, weight)
        if weight is not None:
            weight = weight.expand(x.shape).reshape(-1, self._dim)
        codes = beam_search(x.reshape(-1, self._dim), self.tables, weight, self.beam)
        return codes.reshape(*x.shape[:-1], self.stages)

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Sums ``(*batch, dim)`` in order of the stages.

        Args:
            codes: ``(*batch, stages)``.
            stages: only the first of them; then later codes may be left out or hold anything.

        Raises:
            ValueError: for codes of another shape, or too many stages.
        """
        if stages is None:
            self._batch_shape(codes)
            return sum_of(self.tables, codes)
        count = whole_number("additive", "stages to decode", stages, 1, self.stages)
        if codes.ndim == 0 or codes.shape[-1] < count:
            self._batch_shape(codes)  # raises
        return sum_of(self.tables, codes[..., :count])

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Additive:
        """Stage-wise k-means, then ``rounds`` times beam search and joint least squares on x ``(n, dim)``.

        Raises:
            ValueError: for fewer vectors than entries, wrong shapes, or numbers that are not finite.
        """
        check_vectors(x, self._dim, str(self.spec))
        x = x.detach().float()
        full = None if weight is None else weight.float().expand(x.shape)
        tables = start_tables(x, full, self.stages, self._rows, self.beam, generator)
        for _ in range(self.rounds):
            codes = beam_search(x, tables, full, self.beam)
            tables = refill(x, codes, least_squares(x, codes, tables, full))
            tables = normal_form(tables, codes)
        self.tables.copy_(tables)
        return self
