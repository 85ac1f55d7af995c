"""Scalar quantizers for N(0, 1): the Lloyd-Max table, exact to rounding."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from vq.codebooks.levels import Levels, check_whole
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec

NDArray = npt.NDArray[np.float64]


@register("scalar")
class Scalar(Levels):
    """The minimum mean squared error scalar quantizer for N(0, 1).

    Levels satisfy both Lloyd-Max conditions: each is the mean of its cell, each boundary lies half-way
    between two levels.
    With 2 bits the distortion is 0.1175, 2.7 dB above Shannon's limit.

    Args:
        bits: 1 to 8; the table has ``2**bits`` levels.

    Reference:
        S. P. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28 (1982), equations (5) and (6);
        J. Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6 (1960), table I.
    """

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        self.bits = check_whole("scalar", "bits", bits, 1, 8)
        table, distortion = lloyd_max(2**bits)
        self._install(table)
        self._distortion = distortion

    @property
    def spec(self) -> Spec:
        """``scalar(bits=...)``."""
        return Spec.make("scalar", bits=self.bits)

    @property
    def distortion(self) -> float:
        """1 minus the second moment of the levels, the closed form for a Lloyd-Max quantizer."""
        return self._distortion


@functools.cache
def lloyd_max(entries: int) -> tuple[tuple[float, ...], float]:
    """Lloyd-Max levels for N(0, 1) and their distortion, by fixed-point iteration in double precision.

    Args:
        entries: number of levels, an even number of at least 2.

    Returns:
        Ascending levels, symmetric about zero, and the mean squared error.

    Raises:
        ValueError: for an odd or too small number of levels.
    """
    if entries < 2 or entries % 2:
        raise ValueError(f"entries: expected an even number of at least 2, got {entries}")
    start = (np.arange(entries // 2) + 0.5) / entries + 0.5
    quantiles = [NormalDist().inv_cdf(float(p)) for p in start]
    levels = _newton(math.sqrt(3) * np.array(quantiles))  # the optimum's point density is N(0, 3)
    mass = _cells(levels)[0]
    full = np.concatenate([-levels[::-1], levels])
    return tuple(full.tolist()), float(1 - 2 * (mass * levels**2).sum())


def _cells(levels: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Probability, mean, edges and density at the edges of the cells of the positive levels."""
    edges = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [math.inf]])
    upper = np.array([0.5 * math.erfc(edge / math.sqrt(2)) for edge in edges])
    density = np.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
    mass = upper[:-1] - upper[1:]
    return mass, (density[:-1] - density[1:]) / mass, edges, density


def _newton(levels: NDArray) -> NDArray:
    """Root of ``levels - cell means``: Lloyd steps to come near, Newton's method to finish."""
    for _ in range(200):
        levels = _cells(levels)[1]
    for _ in range(30):
        step = np.linalg.solve(_jacobian(levels), levels - _cells(levels)[1])
        levels = levels - step
        if np.abs(step).max() < 1e-14:
            break
    return levels


def _jacobian(levels: NDArray) -> NDArray:
    """Derivative of ``levels - cell means``: tridiagonal, as an edge moves with its two levels."""
    mass, mean, edges, density = _cells(levels)
    below = 0.5 * density[:-1] * (mean - edges[:-1]) / mass
    above = 0.5 * density[1:-1] * (edges[1:-1] - mean[:-1]) / mass[:-1]
    below[0] = 0.0  # the edge at zero is fixed by symmetry
    result = np.eye(len(levels)) - np.diag(below[1:], -1) - np.diag(above, 1)
    return result - np.diag(below + np.append(above, 0.0))
