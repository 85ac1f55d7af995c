"""One bit and one trit a number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vq.codebooks.base import Codebook
from vq.codebooks.levels import Levels, gaussian_mse
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec, nearest_names

TRITS = 5  # 3^5 = 243 of 256
_RULES = {
    "best": 1.2240064,  # fixed point of level = E[|x| : |x| > level / 2]
    "twn": 1.1841607,  # E[|x| : |x| > 0.7 E|x|]
    "absmean": math.sqrt(2 / math.pi),  # E|x|
}


@register("binary")
class Binary(Levels):
    """The sign: levels ``±E|x|``, which is ``±sqrt(2/pi)`` on N(0, 1); distortion ``1 - 2/pi``.

    Reference:
        M. Rastegari, V. Ordonez, J. Redmon, A. Farhadi, "XNOR-Net", ECCV 2016, equations (4) and (6).
    """

    def __init__(self) -> None:
        super().__init__()
        self._install([-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)])

    @property
    def spec(self) -> Spec:
        """``binary()``."""
        return Spec.make("binary")


@register("ternary")
class Ternary(Codebook):
    """Levels ``-level, 0, +level``, five numbers in one byte: 1.6 bits each, where ``log2(3)`` is 1.585.

    A vector is five numbers, its code the number ``sum_i (t_i + 1) 3^i`` below 243. Each number goes to its nearest
    level. The rule sets the level, for N(0, 1):

    - ``best``: least mean squared error, level 1.224, distortion 0.1902;
    - ``twn``: mean magnitude of what exceeds ``0.7 E|x|``, level 1.184 (ternary weight networks);
    - ``absmean``: ``E|x|``, level 0.798, distortion 0.263 (BitNet b1.58: keeps more numbers away from zero).

    Args:
        rule: ``best``, ``twn`` or ``absmean``.

    Attributes:
        level: the positive level, float32.

    Reference:
        F. Li, B. Liu, "Ternary weight networks" (2016), equations (5) and (6); S. Ma et al., "The era of 1-bit LLMs:
        all large language models are in 1.58 bits" (2024), equations (1) to (3).
    """

    level: Tensor

    def __init__(self, rule: str = "best") -> None:
        super().__init__()
        if rule not in _RULES:
            raise ValueError(f"ternary: unknown rule {rule!r}; {nearest_names(str(rule), _RULES)}")
        self.rule = rule
        level = _RULES[rule]
        self._distortion = gaussian_mse(torch.tensor([-level, 0, level], dtype=torch.float64))
        self.register_buffer("level", torch.tensor(level, dtype=torch.float32))

    @property
    def spec(self) -> Spec:
        """``ternary()``, and the rule where it is not ``best``."""
        return Spec.make("ternary", **({} if self.rule == "best" else {"rule": self.rule}))

    @property
    def dim(self) -> int:
        """5, the numbers of a byte."""
        return TRITS

    @property
    def entries(self) -> int:
        """243."""
        return 3**TRITS

    @property
    def code_bits(self) -> int:
        """8."""
        return 8

    @property
    def distortion(self) -> float:
        """Mean squared error on N(0, 1), in closed form."""
        return self._distortion

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Byte of five trits; half the level goes to zero. ``weight`` changes nothing: numbers are apart.

        Returns:
            ``(*batch,)`` int64 below 243.

        Raises:
            ValueError: for a wrong shape or a number that is not finite.
        """
        self._check_vectors(x, weight)
        x = x.float()
        trits = 1 + (x > self.level / 2).long() - (x < -self.level / 2).long()
        return (trits * _powers(trits)).sum(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Values ``(*batch, 5)`` float32."""
        trits = codes.long().unsqueeze(-1) // _powers(codes) % 3
        return (trits - 1).float() * self.level


def _powers(like: Tensor) -> Tensor:
    """1, 3, 9, 27, 81 on the device of a tensor."""
    return 3 ** torch.arange(TRITS, device=like.device)
