"""Pyramid vector quantization: a direction by whole numbers, a length by a few bits."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from vq.codebooks.base import Codebook, check_vectors
from vq.codebooks.latent import lloyd_rows
from vq.codebooks.levels import check_whole, round_digits
from vq.codebooks.pyramid_index import MAX_BITS, from_index, pyramid_points, to_index
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec
from vq.kernels.pyramid import pyramid_search


@register("pvq")
class PVQ(Codebook):
    """Pyramid vector quantization with a quantized gain.

    A vector is ``gain * y / |y|``: y holds whole numbers whose magnitudes sum to ``pulses``, and the gain is one of
    ``2**gain_bits``. No table of directions exists: the index of y is computed. Any rate, no
    training, no memory; at 2.25 bits (dim 16) 2.3 dB above Shannon's limit, where a lattice or a trellis does better.

    A code is ``index(y) * 2**gain_bits + gain``.

    Args:
        dim: length of a vector, 2 to 1024.
        pulses: sum of magnitudes, 1 to 4096; at most 2^62 codes.
        gain_bits: 0 to 8.

    Attributes:
        gains: float32 ``(2**gain_bits,)``, ascending. The default is Lloyd's quantizer of ``|x| cos``: the length
            of N(0, I), whose density is known, times the mean cosine between a vector and its direction, which is
            measured on 2^18 fixed numbers.

    Reference:
        T. R. Fischer, "A pyramid vector quantizer", IEEE Trans. Inf. Theory 32 (1986); product form with a gain: J.
        Hamkins, K. Zeger, "Gaussian source coding with spherical codes", IEEE Trans. Inf. Theory 48 (2002), section II.
    """

    gains: Tensor

    def __init__(self, dim: int = 16, pulses: int = 13, gain_bits: int = 2) -> None:
        super().__init__()
        self._dim = check_whole("pvq", "dim", dim, 2, 1024)
        self.pulses = check_whole("pvq", "pulses", pulses, 1, 4096)
        self.gain_bits = check_whole("pvq", "gain_bits", gain_bits, 0, 8)
        self.points = pyramid_points(dim, pulses)
        if self.code_bits > MAX_BITS:
            raise ValueError(
                f"pvq: expected codes of at most {MAX_BITS} bits, got {self.code_bits} for dim={dim}, "
                f"pulses={pulses}, gain_bits={gain_bits}; use fewer pulses, or shorter vectors"
            )
        gains, self._distortion = gaussian_gains(dim, pulses, 2**gain_bits)
        self.register_buffer("gains", torch.tensor(gains))

    @property
    def spec(self) -> Spec:
        """``pvq(dim=..., pulses=..., gain_bits=...)``."""
        return Spec.make("pvq", dim=self._dim, pulses=self.pulses, gain_bits=self.gain_bits)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def entries(self) -> int:
        """Directions times gains."""
        return self.points << self.gain_bits

    @property
    def code_bits(self) -> int:
        """Bits of the index of a direction, rounded up, and of the gain."""
        return (self.points - 1).bit_length() + self.gain_bits

    @property
    def distortion(self) -> float:
        """Mean squared error per number on N(0, I) with the default gains.

        ``1 - E[cos^2] + D E[cos]^2 / dim``, where D is that of the length's quantizer and the cosines are measured.
        """
        return self._distortion

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Code of the direction found by ``pyramid_search`` and of the gain nearest to the projection on it.

        With a weight both count ``sum_d weight_d (x_d - c_d)^2``.

        Returns:
            ``(*batch,)`` int64.

        Raises:
            ValueError: for wrong shapes or numbers that are not finite.
        """
        self._check_vectors(x, weight)
        flat = x.float().reshape(-1, self._dim)
        if weight is not None:
            weight = weight.float().expand(x.shape).reshape(-1, self._dim)
        points = pyramid_search(flat, self.pulses, weight)
        gains = self.gains.double()
        projected = _projection(flat, points, weight)
        place = torch.bucketize(projected, (gains[1:] + gains[:-1]) / 2)
        index = to_index(points, self.pulses)
        return ((index << self.gain_bits) + place).reshape(x.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors ``(*batch, dim)`` float32.

        Raises:
            ValueError: if a code is out of range.
        """
        codes = codes.long()
        checked = codes.numel() and not torch.compiler.is_compiling()
        if checked and (int(codes.min()) < 0 or int(codes.max()) >= self.entries):
            raise ValueError(
                f"{self.spec}: expected codes in [0, {self.entries}), got {int(codes.min())} to "
                f"{int(codes.max())}"
            )
        points = from_index(codes >> self.gain_bits, self._dim, self.pulses)
        gain = self.gains[codes & (2**self.gain_bits - 1)]
        length = points.square().sum(-1).float().sqrt()  # of a whole number: the same everywhere
        return points.float() * (gain / length).unsqueeze(-1)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> PVQ:
        """Lloyd's quantizer of the projections of these vectors on their directions; nothing is random.

        Args:
            x: ``(n, dim)`` with at least as many vectors as gains.
            weight: not supported.
            generator: not used.

        Raises:
            ValueError: for too few vectors, wrong shapes, numbers that are not finite, or a weight.
        """
        check_vectors(x, self._dim, str(self.spec))
        if weight is not None:
            raise ValueError(f"{self.spec}: weight is not supported in fit")
        if x.ndim != 2 or len(x) < len(self.gains):
            raise ValueError(
                f"{self.spec}: expected at least {len(self.gains)} vectors (n, {self._dim}) to fit, got "
                f"{tuple(x.shape)}"
            )
        projected = _projection(x.float(), pyramid_search(x, self.pulses), None).sort().values
        found = lloyd_rows(projected, torch.ones_like(projected), len(self.gains), 100)
        self.gains.copy_(found)
        return self


def _projection(x: Tensor, points: Tensor, weight: Tensor | None) -> Tensor:
    """The best gain for each vector's direction: float64 ``(n,)``."""
    value, y = x.double(), points.double()
    metric = torch.ones_like(value) if weight is None else weight.double()
    norm = (metric * y * y).sum(1)
    gain = (metric * value * y).sum(1) / norm.clamp_min(1e-300) * y.norm(dim=1)
    return torch.where(norm > 0, gain, 0.0)


@functools.cache
def gaussian_gains(dim: int, pulses: int, count: int) -> tuple[list[float], float]:
    """Gains for N(0, I) to six digits, and the distortion per number that they give."""
    draws = np.random.RandomState(0).standard_normal(((1 << 18) // dim, dim))  # frozen for ever
    x = torch.from_numpy(draws).float()
    share = _projection(x, pyramid_search(x, pulses), None) / x.double().norm(dim=1)
    cosine, square = round_digits(float(share.mean()), 4), float(share.square().mean())
    levels, error = chi_levels(dim, count)
    return [round_digits(cosine * v) for v in levels], 1 - square + error * cosine**2 / dim


def chi_levels(dim: int, count: int) -> tuple[list[float], float]:
    """Lloyd's quantizer of the length of an N(0, I) vector, on a fine grid of its density, and its squared error."""
    grid = np.linspace(0, math.sqrt(dim) + 9, 1 << 16)[1:]
    log = (dim - 1) * np.log(grid) - grid**2 / 2
    mass = np.exp(log - log.max())
    x, weight = torch.from_numpy(grid), torch.from_numpy(mass / mass.sum())
    levels = lloyd_rows(x, weight, count, 2000)
    nearest = levels[torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)]
    return levels.tolist(), float((weight * (x - nearest).square()).sum())
