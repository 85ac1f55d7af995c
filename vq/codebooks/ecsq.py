"""Entropy-coded scalar quantization: equal steps, means of the cells, and real arithmetic coding."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from vq.codebooks import rans
from vq.codebooks.levels import Levels, check_positive, gaussian_cells, round_digits
from vq.codebooks.packing import PackedCodes
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec

REACH = 7.0  # standard deviations that have symbols of their own; what lies beyond saturates


@register("ecsq")
class ECSQ(Levels):
    """Entropy-coded quantizer of single numbers: 1.53 dB above Shannon's limit from 1.5 bits up, any rate.

    Number x has the code ``round(x / step)``, is reproduced by the mean of N(0, 1) in its cell, and ``pack`` writes a
    block of codes with an exact entropy coder whose static model is N(0, 1) in closed form. So the size of a block
    depends on its numbers: ``rate`` is the mean for N(0, 1) in blocks of at least 32768 numbers, the coder's own loss
    included (16-bit frequencies, one end state of 5 bytes for each 32768 numbers). A shorter block costs its codes
    and 5 bytes. Numbers that are not N(0, 1) take other space and come back just as exactly. One code cannot be had
    without reading its block; a layer that multiplies keeps codes at ``code_bits`` each.

    Args:
        rate: bits a number, 0.1 to 6.

    Attributes:
        step: distance of two thresholds.
        entropy: of the codes on N(0, 1), in bits; below ``rate`` by the coder's loss.
        frequencies: int64 ``(entries,)``, the model: whole numbers that sum to 2^16.

    Reference:
        H. Gish, J. N. Pierce, "Asymptotically efficient quantizing", IEEE Trans. Inf. Theory 14 (1968); N. Farvardin,
        J. W. Modestino, "Optimum quantizer performance for a class of non-Gaussian memoryless sources", IEEE Trans.
        Inf. Theory 30 (1984), section III.
    """

    frequencies: Tensor

    def __init__(self, rate: float = 2) -> None:
        super().__init__()
        self._target = check_positive("ecsq", "rate", rate)
        if not 0.1 <= self._target <= 6:
            raise ValueError(f"ecsq: rate must be from 0.1 to 6 bits, got {rate!r}")
        self._target = int(rate) if rate == int(rate) else float(rate)
        self.step = _step_for(self._target)
        mass, mean = gaussian_cells(_edges(self.step))
        frequencies = rans.quantize_frequencies(mass.numpy())
        self._install(mean.tolist())
        self.register_buffer("frequencies", torch.from_numpy(frequencies))
        self.entropy = -float((mass * mass.clamp_min(1e-300).log2()).sum())
        self._rate = _packed_rate(self.step)
        self._distortion = float(1 - (mass * mean.square()).sum())

    @property
    def spec(self) -> Spec:
        """``ecsq(rate=...)``."""
        return Spec.make("ecsq", rate=self._target)

    @property
    def rate(self) -> float:
        """Packed bits a number of long N(0, 1) blocks; at most what was asked for."""
        return self._rate

    @property
    def entropy_coded(self) -> bool:
        """True."""
        return True

    @property
    def distortion(self) -> float:
        """Mean squared error on N(0, 1), in closed form: 1 minus the second moment of the levels."""
        return self._distortion

    def pack(self, codes: Tensor) -> PackedCodes:
        """Codes as one entropy-coded block; see ``vq.codebooks.rans``.

        Raises:
            ValueError: if a code is out of range.
        """
        flat = codes.detach().reshape(-1).cpu().numpy().astype(np.int64)
        if flat.size and (flat.min() < 0 or flat.max() >= self.entries):
            raise ValueError(
                f"{self.spec}: expected codes in [0, {self.entries}), got {flat.min()} to {flat.max()}"
            )
        payload = rans.encode(flat, self.frequencies.cpu().numpy())
        return PackedCodes(
            torch.from_numpy(payload), str(self.spec), self.version, tuple(codes.shape)
        )

    def unpack(self, packed: PackedCodes) -> Tensor:
        """Inverse of ``pack``: int64 codes.

        Raises:
            ValueError: if the codes were packed by another codebook, or are damaged.
        """
        self._check_packed(packed)
        count = int(torch.Size(packed.shape).numel())
        codes = rans.decode(packed.payload.numpy(), self.frequencies.cpu().numpy(), count)
        return torch.from_numpy(codes).reshape(packed.shape)

    def _nearest(self, x: Tensor) -> Tensor:
        """Codes by rounding to steps; half-way belongs to the lower one."""
        half = self.entries // 2
        return (x.float() / self.step - 0.5).ceil().clamp(-half, half).long() + half


def _edges(step: float) -> Tensor:
    """Thresholds of the cells, infinities at the ends: float64."""
    half = math.ceil(REACH / step)
    inner = (torch.arange(2 * half, dtype=torch.float64) - half + 0.5) * step
    infinity = torch.tensor([math.inf], dtype=torch.float64)
    return torch.cat([-infinity, inner, infinity])


def _packed_rate(step: float) -> float:
    """Bits a number that packing takes: cross-entropy under the model, and the end states."""
    mass = gaussian_cells(_edges(step))[0]
    model = torch.from_numpy(rans.quantize_frequencies(mass.numpy())) / 2**rans.PRECISION
    return -float((mass * model.log2()).sum()) + rans.LANE_BITS / rans.LANE_SYMBOLS


@functools.cache
def _step_for(rate: float) -> float:
    """The step whose packed rate is at most ``rate``, to six digits."""
    low, high = 0.02, 50.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _packed_rate(middle) > rate else (low, middle)
    return round_digits(high * (1 + 1e-5))
