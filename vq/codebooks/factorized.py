"""Factorized codebooks: one index for independent tables on parts of a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.compose import build_part, whole_number
from vq.codebooks.registry import register
from vq.codebooks.shipped import load_shipped, shipped_mse
from vq.codebooks.spec import Spec, Value

_MAX_BITS = 32
Factor = str | Spec | Codebook


@register("factorized")
class Factorized(Codebook):
    """Tables on neighbouring parts of a vector, counted as one table of all their combinations.

    The code is a single mixed-radix integer, ``code = j_0 + K_0 (j_1 + K_1 (j_2 + ...))``: one token of a vocabulary of
    ``K_0 K_1 ...`` for whoever models the codes. That, and that the factors may differ in size and family, is what
    sets it apart from ``product``, which keeps one code a group. Sizes need not be powers of 2: three factors of 5
    entries take 7 bits, a product of them 9.

    Args:
        of: codebook of a factor, or a list with one for each; one index a vector each, with known entries.
        factors: how many, where ``of`` is a single one; 2 by default.

    Reference:
        Z. Bai et al., "Factorized visual tokenization and generation" (2024), section 3.2: quantization by several
        small tables in place of one that cannot be trained. Mixed radix as in F. Mentzer et al., "Finite scalar
        quantization: VQ-VAE made simple", ICLR 2024, section 3.1.
    """

    factors: nn.ModuleList

    def __init__(
        self,
        of: Factor | Sequence[Factor] = "kmeans(dim=4, entries=256)",
        factors: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(of, (str, Spec, Codebook)):
            count = 2 if factors is None else whole_number("factorized", "factors", factors, 1, 64)
            of = [of] * count
        elif factors not in (None, len(of)):
            raise ValueError(f"factorized: of lists {len(of)} codebooks, but factors={factors}")
        self.factors = nn.ModuleList(build_part(factor) for factor in of)
        if not len(self.factors):
            raise ValueError("factorized: of must list at least one codebook")
        self._radix = [_radix_of(f) for f in self._each()]
        if math.prod(self._radix) > 1 << _MAX_BITS:
            raise ValueError(
                f"factorized: at most 2^{_MAX_BITS} combinations fit one index, got "
                f"{math.prod(self._radix)}; use product, which keeps one code a group"
            )
        load_shipped(self, self.spec)

    def _each(self) -> list[Codebook]:
        return [f for f in self.factors if isinstance(f, Codebook)]

    @property
    def spec(self) -> Spec:
        """``factorized(of=..., factors=...)``, or ``of`` as a list where the factors differ."""
        specs = [f.spec for f in self._each()]
        if len(set(specs)) == 1:
            return Spec.make("factorized", of=specs[0], factors=len(specs))
        args: dict[str, Value] = {"of": tuple(specs)}
        return Spec.make("factorized", **args)

    @property
    def dim(self) -> int:
        """Sum of the factors' dimensions."""
        return sum(f.dim for f in self._each())

    @property
    def entries(self) -> int:
        """Product of the factors' entries."""
        return math.prod(self._radix)

    @property
    def table_entries(self) -> int:
        """Rows of the largest factor."""
        return max(f.table_entries for f in self._each())

    @property
    def code_bits(self) -> int:
        """Bits of the joint index, ``ceil(log2(entries))``."""
        return (self.entries - 1).bit_length()

    @property
    def exact_search(self) -> bool:
        """Whether all factors search exactly."""
        return all(f.exact_search for f in self._each())

    @property
    def fitted(self) -> bool:
        """Whether all factors are."""
        return all(f.fitted for f in self._each())

    @property
    def distortion(self) -> float | None:
        """Mean of the factors' where all know theirs, weighted by their dimensions; else the shipped figure."""
        total = 0.0
        for factor in self._each():
            if factor.distortion is None:
                return shipped_mse(self, self.spec)
            total += factor.dim * factor.distortion
        return total / self.dim

    def split(self, codes: Tensor) -> Tensor:
        """Indices into the factors ``(*batch, factors)`` int64 of joint codes ``(*batch,)``."""
        left, digits = codes.long(), []
        for radix in self._radix:
            digits.append(left % radix)
            left = left.div(radix, rounding_mode="floor")
        return torch.stack(digits, dim=-1)

    def join(self, digits: Tensor) -> Tensor:
        """Inverse of ``split``: joint codes ``(*batch,)`` int64."""
        code = torch.zeros(digits.shape[:-1], dtype=torch.int64, device=digits.device)
        for index in reversed(range(len(self._radix))):
            code = code * self._radix[index] + digits[..., index].long()
        return code

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Joint codes ``(*batch,)`` int64; weights go to the factors.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, before ``fit``, or for a weight that a factor
                does not support.
        """
        self._check_vectors(x, weight)
        sizes = [f.dim for f in self._each()]
        weights: list[Tensor | None] = [None] * len(sizes)
        if weight is not None:
            weights = list(weight.expand(x.shape).split(sizes, -1))
        pieces = zip(self._each(), x.split(sizes, -1), weights, strict=True)
        return self.join(torch.stack([f.encode(p, w) for f, p, w in pieces], dim=-1))

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(*batch, dim)``: those of the factors side by side."""
        digits = self.split(codes).unbind(-1)
        values = [f.decode(digit) for f, digit in zip(self._each(), digits, strict=True)]
        return torch.cat(values, dim=-1)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Factorized:
        """Fit each factor on its part of the vectors ``(n, dim)``; factors of fixed values stay as they are.

        Raises:
            TypeError: if no factor has anything to fit.
            ValueError: as the factors raise it.
        """
        check_vectors(x, self.dim, str(self.spec))
        sizes = [f.dim for f in self._each()]
        full = None if weight is None else weight.expand(x.shape).split(sizes, -1)
        learned = 0
        for index, factor in enumerate(self._each()):
            if type(factor).fit is Codebook.fit:
                continue
            own = None if full is None else full[index]
            factor.fit(x.split(sizes, -1)[index].contiguous(), own, generator)
            learned += 1
        if not learned:
            raise TypeError(f"{self.spec} has nothing to fit: its values are fixed")
        return self


def _radix_of(factor: Codebook) -> int:
    if factor.codes_shape != () or not factor.entries:
        raise ValueError(
            f"factorized: {factor.spec} does not have one index a vector and a known number of "
            "entries; use product"
        )
    return factor.entries
