"""Number formats of computers as codebooks: small floats and Dettmers' dynamic 8-bit type."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vq.codebooks.levels import Levels, best_scale, check_whole
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec


@register("minifloat")
class MiniFloat(Levels):
    """A float of one sign, ``exponent`` and ``mantissa`` bits, times a scale that is best for N(0, 1).

    The value set is that of the standards: subnormals, bias ``2**(exponent-1) - 1``; all patterns finite, but for
    E4M3 (all bits after the sign set is NaN, largest value 448) and E5M2 (the highest exponent is infinity and
    NaN, largest 57344). Codes are the bit patterns themselves, sign first, so a packed E2M1 is the standard's nibble.
    Encoding never gives minus zero, infinity or NaN.

    Args:
        exponent: bits, 1 to 5.
        mantissa: bits, 0 to 5; at most 8 bits with the sign.

    Attributes:
        scale: factor between the format's values and N(0, 1).
        patterns: int64 ``(levels,)``, the bit pattern of each level.

    Reference:
        "OCP Microscaling Formats (MX) Specification" 1.0 (2023), section 5.3; P. Micikevicius et al., "FP8 formats for
        deep learning" (2022), table 1.
    """

    patterns: Tensor

    def __init__(self, exponent: int = 2, mantissa: int = 1) -> None:
        super().__init__()
        self.exponent = check_whole("minifloat", "exponent", exponent, 1, 5)
        self.mantissa = check_whole("minifloat", "mantissa", mantissa, 0, 5)
        if exponent + mantissa > 7:
            raise ValueError(
                f"minifloat: expected at most 8 bits with the sign, got exponent={exponent} and "
                f"mantissa={mantissa}"
            )
        values = float_values(exponent, mantissa)
        kept = [(v, p) for p, v in enumerate(values) if math.isfinite(v)]
        kept = sorted((v, p) for v, p in kept if v != 0 or p == 0)  # minus zero is never written
        shape = torch.tensor([v for v, _ in kept], dtype=torch.float64)
        self.scale = best_scale(shape, low=0.5, high=8.0)
        self._install((shape * self.scale).tolist())
        self.register_buffer("patterns", torch.tensor([p for _, p in kept]))

    @property
    def spec(self) -> Spec:
        """``minifloat(exponent=..., mantissa=...)``."""
        return Spec.make("minifloat", exponent=self.exponent, mantissa=self.mantissa)

    @property
    def entries(self) -> int:
        """Bit patterns: ``2**code_bits``, minus zero and what is no number among them."""
        return 2**self.code_bits

    @property
    def code_bits(self) -> int:
        """``1 + exponent + mantissa``."""
        return 1 + self.exponent + self.mantissa

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Bit pattern of the nearest value; what lies outside saturates. See ``Levels.encode``.

        Raises:
            ValueError: for a wrong shape or a number that is not finite.
        """
        return self.patterns[super().encode(x, weight)]

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(*batch, 1)`` float32 of bit patterns; minus zero is zero, no number (E4M3, E5M2) is NaN."""
        table = self.levels.new_full((2**self.code_bits,), math.nan)
        table[self.patterns] = self.levels
        table[2 ** (self.code_bits - 1)] = 0
        return table[codes.long()].unsqueeze(-1)


@register("dynamic8")
class Dynamic8(Levels):
    """The dynamic tree type: 8 bits that trade exponent for fraction from number to number.

    After the sign, ``e`` zero bits count powers of ten, a one ends them, and the ``6 - e`` bits that are left divide
    [0.1, 1] evenly: ``± 10^-e (0.1 + 0.9 (i + 1/2) / 2^(6-e))``. Zero and one complete the 256 levels. Seven decades
    at a relative error of at best 0.7 %: made for optimizer states, here scaled to be best for N(0, 1).

    Reference:
        T. Dettmers, M. Lewis, S. Shleifer, L. Zettlemoyer, "8-bit optimizers via block-wise quantization", ICLR 2022,
        section 1.3 and appendix F; T. Dettmers, "8-bit approximations for parallelism in deep learning", ICLR 2016.
    """

    def __init__(self) -> None:
        super().__init__()
        shape = dynamic_tree()
        self.scale = best_scale(shape, low=1.0)
        self._install((shape * self.scale).tolist())

    @property
    def spec(self) -> Spec:
        """``dynamic8()``."""
        return Spec.make("dynamic8")


def float_values(exponent: int, mantissa: int) -> list[float]:
    """Value of every bit pattern (sign, exponent, mantissa) of a small float, in the order of the patterns."""
    bias = 2 ** (exponent - 1) - 1
    top = 2**exponent - 1
    values = []
    for pattern in range(2 ** (exponent + mantissa)):
        power, fraction = pattern >> mantissa, pattern & (2**mantissa - 1)
        part = fraction / 2**mantissa
        value = math.ldexp(1 + part if power else part, (power or 1) - bias)
        if (exponent, mantissa) == (4, 3) and pattern == 2**7 - 1:
            value = math.nan
        if (exponent, mantissa) == (5, 2) and power == top:
            value = math.nan if fraction else math.inf
        values.append(value)
    return values + [-value for value in values]


def dynamic_tree() -> Tensor:
    """The 256 levels of the dynamic tree type, ascending, from -0.993 to 1: float64."""
    positive = [
        10.0**-zeros * (0.1 + 0.9 * (i + 0.5) / 2 ** (6 - zeros))
        for zeros in range(7)
        for i in range(2 ** (6 - zeros))
    ]
    return torch.tensor(sorted([0.0, 1.0, *positive, *(-v for v in positive)]), dtype=torch.float64)
