"""Regular grids of one number: uniform, through a power map, powers of two, quantiles of N(0, 1)."""

from __future__ import annotations

import functools
from statistics import NormalDist

import torch
from torch import Tensor

from vq.codebooks.levels import (
    Levels,
    best_scale,
    check_positive,
    check_whole,
    round_digits,
)
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec

# exponents of least error on N(0, 1) with the best scale, for 1 to 8 bits
_EXPONENTS = (1.0, 0.91, 0.85, 0.8, 0.76, 0.72, 0.69, 0.66)


@register("uniform")
class Uniform(Levels):
    """Equal steps: what integer formats store.

    Midrise by default: ``2**bits`` levels ``(k + 1/2) step`` on both sides of zero. With ``zero`` midtread: the
    ``2**bits - 1`` levels ``k step`` from ``-(2**(bits-1) - 1)``, symmetric and with a zero, one code unused.
    The step is the best for N(0, 1).

    Args:
        bits: 1 to 8; 2 to 8 with ``zero``.
        zero: whether zero is a level.

    Attributes:
        step: distance of two levels.

    Reference:
        J. Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6 (1960), table II.
    """

    def __init__(self, bits: int = 2, zero: bool = False) -> None:
        super().__init__()
        self.bits, self.zero = check_whole("uniform", "bits", bits, 2 if zero else 1, 8), bool(zero)
        table, self.step = uniform_levels(2**bits - int(self.zero))
        self._install(table)

    @property
    def spec(self) -> Spec:
        """``uniform(bits=...)``, and ``zero=true`` where it is."""
        extra = {"zero": True} if self.zero else {}
        return Spec.make("uniform", bits=self.bits, **extra)

    @property
    def code_bits(self) -> int:
        """``bits``."""
        return self.bits


@register("power")
class Power(Levels):
    """Equal steps after the map ``sign(x) |x|^exponent``, mapped back: finer near zero for an exponent below 1.

    The exponent and the step are the best for N(0, 1) where they are not given; encoding is to the nearest level in
    the domain of x.

    Args:
        bits: 1 to 8.
        exponent: 0.05 to 1; None finds the best.

    Reference:
        E. Yvinec, A. Dapogny, K. Bailly, "NUPES: non-uniform post-training quantization via power exponent search"
        (2023), section 3; "PowerQuant", ICLR 2023, equation (3).
    """

    def __init__(self, bits: int = 3, exponent: float | None = None) -> None:
        super().__init__()
        self.bits = check_whole("power", "bits", bits, 1, 8)
        self._given = exponent
        if exponent is not None and not 0.05 <= check_positive("power", "exponent", exponent) <= 1:
            raise ValueError(f"power: exponent must be from 0.05 to 1, got {exponent!r}")
        self.exponent = _EXPONENTS[bits - 1] if exponent is None else float(exponent)
        shape = power_shape(bits, self.exponent)
        self._install((shape * best_scale(shape)).tolist())

    @property
    def spec(self) -> Spec:
        """``power(bits=...)``, and the exponent where it was given."""
        extra = {} if self._given is None else {"exponent": self._given}
        return Spec.make("power", bits=self.bits, **extra)


@register("pow2")
class PowersOfTwo(Levels):
    """Signed powers of two: multiplication is a shift.

    Without ``zero`` the ``2**bits`` levels ``±scale / 2^k``; with it (the default, as in the literature)
    ``2**bits - 1`` levels: zero and ``±scale / 2^k`` for k below ``2**(bits-1) - 1``. The scale is the best for
    N(0, 1) and is no power of two itself: it goes into the scale of the row. More than 4 bits refine only the
    neighbourhood of zero and gain next to nothing.

    Args:
        bits: 1 to 6; 2 to 6 with ``zero``.
        zero: whether zero is a level.

    Reference:
        A. Zhou et al., "Incremental network quantization", ICLR 2017, equation (1); Y. Li, X. Dong, W. Wang, "Additive
        powers-of-two quantization", ICLR 2020, section 2.2.
    """

    def __init__(self, bits: int = 3, zero: bool = True) -> None:
        super().__init__()
        self.bits, self.zero = check_whole("pow2", "bits", bits, 2 if zero else 1, 6), bool(zero)
        count = 2 ** (bits - 1) - int(self.zero)
        positive = 2.0 ** -torch.arange(count, dtype=torch.float64).flip(0)
        middle = torch.zeros(int(self.zero), dtype=torch.float64)
        shape = torch.cat([-positive.flip(0), middle, positive])
        self._install((shape * best_scale(shape)).tolist())

    @property
    def spec(self) -> Spec:
        """``pow2(bits=...)``, and ``zero=false`` where it is."""
        extra = {} if self.zero else {"zero": False}
        return Spec.make("pow2", bits=self.bits, **extra)


@register("nf")
class NormalFloat(Levels):
    """NormalFloat: quantiles of N(0, 1), evenly spaced in probability on each side of an exact zero.

    Made for weights divided by the largest of their block, where it is the QLoRA table; here the table is scaled
    to be best for N(0, 1). Equal probability of the levels is not least error: ``scalar`` of the same
    bits is better in that.

    Args:
        bits: 2 to 8; 4 is NF4.

    Attributes:
        shape: float64 ``(2**bits,)``, the table from -1 to 1.

    Reference:
        T. Dettmers et al., "QLoRA: efficient finetuning of quantized LLMs", NeurIPS 2023, equation (4) and appendix E.
    """

    def __init__(self, bits: int = 4) -> None:
        super().__init__()
        self.bits = check_whole("nf", "bits", bits, 2, 8)
        self.shape = normal_float(bits)
        self._install((self.shape * best_scale(self.shape)).tolist())

    @property
    def spec(self) -> Spec:
        """``nf(bits=...)``."""
        return Spec.make("nf", bits=self.bits)


@functools.cache
def uniform_levels(entries: int) -> tuple[tuple[float, ...], float]:
    """Equally spaced levels about zero with the best step for N(0, 1), and the step.

    Args:
        entries: at least 2; zero is a level where the number is odd.
    """
    shape = torch.arange(entries, dtype=torch.float64) - (entries - 1) / 2
    step = best_scale(shape, low=0.5)
    return tuple((shape * step).tolist()), step


def power_shape(bits: int, exponent: float) -> Tensor:
    """Midrise levels in the mapped domain, mapped back: float64 ``(2**bits,)`` up to 1."""
    grid = (2 * torch.arange(2**bits, dtype=torch.float64) + 1) / 2**bits - 1
    back = grid.sign() * grid.abs() ** (1 / exponent)
    return back / back[-1]


def normal_float(bits: int) -> Tensor:
    """The NormalFloat table on [-1, 1]: float64 ``(2**bits,)``.

    ``2**(bits-1)`` quantiles above zero, one less below, and zero; the outermost probability is the mean of
    ``1 - 1/(2 n)`` and ``1 - 1/(2 (n - 1))`` for ``n = 2**bits``.
    """
    entries = 2**bits
    offset = (1 - 1 / (2 * (entries - 1)) + 1 - 1 / (2 * entries)) / 2
    half = entries // 2

    def side(count: int) -> list[float]:
        step = (offset - 0.5) / count
        return [NormalDist().inv_cdf(0.5 + step * (i + 1)) for i in range(count)]

    above, below = side(half), side(half - 1)
    table = [-value for value in reversed(below)] + [0.0] + above
    return torch.tensor([round_digits(v / above[-1], 12) for v in table], dtype=torch.float64)
