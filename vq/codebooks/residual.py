"""Residual codebooks: each stage quantizes what the stages before it left over."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.compose import Composed, has_table, table_of, whole_number
from vq.codebooks.registry import register
from vq.codebooks.shipped import load_shipped, shipped_mse, stack_mse
from vq.codebooks.spec import Spec, Value
from vq.kernels.beam import MAX_BEAM, beam_search

_BEAM = 8
_FACTORS = (1.0, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2)  # of unit scale, tried for parts of fixed values
_NUMBERS = 1 << 16  # to try them on


@register("residual")
class Residual(Composed):
    """A sum of vectors, one of each stage: ``x ≈ Σ_s scale_s · c_s``.

    The search keeps the ``beam`` partial sums with the smallest error of their own (not the smallest sum of the stages'
    errors); a beam of 1 is the greedy search. The first n stages alone are a coarser codebook:
    ``decode(codes, stages=n)``.

    A part that has nothing to fit (a lattice, a trellis) takes the residuals at unit scale: ``fit`` finds the scale
    with the least error around their root mean square, and a part that knows what it leaves of N(0, 1), ``leftover``,
    comes with powers of that.

    Args:
        stages: 1 to 64.
        of: codebook of one stage, of any family.
        beam: partial sums kept, 1 to 256; by default 8 where the vectors of a part can be listed (one index a vector,
            at most 65536 of them), else 1, the only one possible.

    Reference:
        B. H. Juang, A. H. Gray, "Multiple stage vector quantization for speech coding", ICASSP 1982; Y. Chen, T. Guan,
        C. Wang, "Approximate nearest neighbor search by residual vector quantization", Sensors 10 (2010).
    """

    scales: Tensor

    def __init__(
        self,
        stages: int = 2,
        of: str | Spec | Codebook = "kmeans(dim=8, entries=256)",
        beam: int | None = None,
    ) -> None:
        super().__init__(whole_number("residual", "stages", stages, 1, 64), of)
        self._default_beam = _BEAM if has_table(self.part) else 1
        self.beam = self._default_beam
        if beam is not None:
            self.beam = whole_number("residual", "beam", beam, 1, MAX_BEAM)
        if self.beam > 1 and not has_table(self.part):
            raise ValueError(
                f"residual: {self.part.spec} has too many vectors to list; only beam=1 is possible"
            )
        self.register_buffer("scales", self._first_scales())
        load_shipped(self, self.spec)

    def _first_scales(self) -> Tensor:
        """Powers of what a part leaves of N(0, 1), where it knows that."""
        step = (self.part.leftover or 1.0) if self.part.fitted else 1.0
        return torch.tensor(step) ** torch.arange(self.count, dtype=torch.float32)

    @property
    def spec(self) -> Spec:
        """``residual(stages=..., of=...)``, and the beam where it is not the default."""
        args: dict[str, Value] = {"stages": self.count, "of": self.part.spec}
        if self.beam != self._default_beam:
            args["beam"] = self.beam
        return Spec.make("residual", **args)

    @property
    def dim(self) -> int:
        """That of a part."""
        return self.part.dim

    @property
    def tile(self) -> tuple[int, int]:
        """That of a part."""
        return self.part.tile

    @property
    def exact_search(self) -> bool:
        """False for more than one stage: the search is a beam."""
        return self.count == 1 and self.part.exact_search

    @property
    def distortion(self) -> float | None:
        """Measured on held-out N(0, 1) for the shipped tables and this beam, or parts as they come; else None."""
        found = shipped_mse(self, self.spec, self.beam)
        if found is not None or any(part.distortion is None for part in self._parts()):
            return found
        untouched = torch.equal(self.scales.cpu(), self._first_scales())
        return stack_mse(str(self.spec)) if untouched else None

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(*batch, stages, *codes_shape of a part)``.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, before ``fit``, or for a weight that a part
                without a table does not support.
        """
        self._check_vectors(x, weight)
        full = None if weight is None else weight.expand(x.shape).reshape(-1, self.dim)
        codes = self._search(x.detach().reshape(-1, self.dim).float(), full, self.count)
        return codes.reshape(*x.shape[:-1], *self.codes_shape)

    def _search(self, x: Tensor, weight: Tensor | None, stages: int) -> Tensor:
        """Codes ``(n, stages, ...)`` of the first stages."""
        if self.beam > 1:
            parts = list(self._parts())[:stages]
            tables = [s * table_of(part) for s, part in zip(self.scales, parts, strict=False)]
            return beam_search(x, torch.stack(tables), weight, self.beam)
        codes, left = [], x
        for scale, part in zip(self.scales[:stages], self._parts(), strict=False):
            codes.append(part.encode(left / scale, weight))
            left = left - scale * part.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Sum over the stages in order, ``(*batch, dim)``.

        Args:
            codes: ``(*batch, stages, *codes_shape of a part)``.
            stages: only the first of them; then later codes may be left out or hold anything.

        Raises:
            ValueError: for codes of another shape, or too many stages.
        """
        count = self.count
        if stages is not None:
            count = whole_number("residual", "stages to decode", stages, 1, self.count)
        axis = codes.ndim - len(self.codes_shape)
        if axis < 0 or codes.shape[axis] < count or (stages is None and codes.shape[axis] != count):
            self._batch_shape(codes)  # raises
        total = torch.zeros(())
        for stage, part in enumerate(self._parts()):
            if stage == count:
                break
            values = self.scales[stage] * part.decode(codes.select(axis, stage))
            total = values if stage == 0 else total + values
        return total

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Residual:
        """Fit stage after stage on what the best sums of the stages before leave of x ``(n, dim)``.

        Raises:
            ValueError: for wrong shapes or numbers that are not finite, and as the parts raise it.
        """
        check_vectors(x, self.dim, str(self.spec))
        x = x.detach().float()
        full = None if weight is None else weight.float().expand(x.shape)
        left = x
        for stage, part in enumerate(self._parts()):
            self.scales[stage] = 1.0
            try:
                part.fit(left, full, generator)
            except TypeError as error:
                if "nothing to fit" not in str(error):
                    raise
                self.scales[stage] = _best_scale(part, left, full)
            left = x - self.decode(self._search(x, full, stage + 1), stages=stage + 1)
        return self


def _best_scale(part: Codebook, x: Tensor, weight: Tensor | None) -> Tensor:
    """Scale of vectors ``(n, dim)`` at which a part of fixed values codes them best, of some around unit scale."""
    rms = x.square().mean().sqrt().clamp_min(1e-30)
    some = slice(0, max(1, _NUMBERS // part.dim))
    own = None if weight is None else weight[some]
    errors = []
    for factor in _FACTORS:
        scale = rms * factor
        square = (x[some] - scale * part.decode(part.encode(x[some] / scale, own))).square()
        errors.append((square if own is None else square * own).double().mean())
    return rms * _FACTORS[int(torch.stack(errors).argmin())]
