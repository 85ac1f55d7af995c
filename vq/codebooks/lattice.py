"""Nearest points of lattices, and the figures of the lattice codebooks we ship."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vq._data_files import data_path
from vq.codebooks.base import check_vectors
from vq.codebooks.spec import nearest_names
from vq.kernels import lattice as kernels
from vq.kernels.lattice_reference import nearest_dn

FIGURES_FILE = "lattice.json"
_ROOT_EIGHT = 8**0.5
_FAR = 4096.0  # units of the lattice: beyond it, only the direction of a vector counts


def nearest_point(name: str, x: Tensor) -> Tensor:
    """Nearest point of a lattice to each vector, exact to float32 arithmetic.

    Args:
        name: ``z4`` or ``zn`` (integers), ``d4`` or ``dn`` (integers with an even sum), ``e8`` (least norm 2),
            ``leech`` (unit volume, least norm 4); ``zn`` and ``dn`` take any length.
        x: ``(*batch, dim)`` float, magnitudes up to 2^18.

    Returns:
        float32, shaped as x. Points of the Leech lattice are integers over sqrt(8), rounded.

    Raises:
        ValueError: for an unknown lattice, a wrong last dimension, a number that is not finite or is too large.

    Reference:
        J. H. Conway, N. J. A. Sloane, "Fast quantizing and decoding algorithms for lattice quantizers and codes",
        IEEE Trans. Inf. Theory 28 (1982), sections III to V; for the Leech lattice see
        ``vq.kernels.lattice.nearest_leech``.
    """
    find, dim = _decoder(name, x)
    check_vectors(x, dim, f"nearest_point({name!r})")
    if x.numel() and float(x.abs().max()) > 2**18:
        raise ValueError(
            f"nearest_point({name!r}): expected magnitudes up to 2^18, got {float(x.abs().max()):g}; "
            "float32 has no useful fraction there"
        )
    return find(x.reshape(-1, dim).float()).reshape(x.shape)


def _decoder(name: str, x: Tensor) -> tuple[Callable[[Tensor], Tensor], int]:
    match = re.fullmatch(r"([zd])(n|[1-9]\d*)", name)
    if name == "e8":
        return kernels.nearest_e8, 8
    if name == "leech":
        return _leech, 24
    if match is None or name == "d1":
        known = ("zn", "dn", "z4", "d4", "e8", "leech")
        raise ValueError(f"unknown lattice {name!r}; {nearest_names(name, known)}")
    dim = x.shape[-1] if match[2] == "n" and x.ndim else int(match[2].replace("n", "0"))
    if match[1] == "z":
        return torch.round, dim
    return lambda v: nearest_dn(v.t().contiguous()).t().contiguous(), dim


def _leech(x: Tensor) -> Tensor:
    return kernels.nearest_leech(x * _ROOT_EIGHT) / _ROOT_EIGHT


@dataclass(frozen=True)
class Figures:
    """Measured on N(0, 1).

    Attributes:
        step: size of the lattice's unit where the mean squared error is least.
        distortion: that error over the variance, on other numbers.
    """

    step: float
    distortion: float


@functools.cache
def _figures() -> dict[str, dict[str, float]]:
    data: dict[str, dict[str, float]] = json.loads(
        data_path("codebooks", FIGURES_FILE).read_text()
    )["codebooks"]
    return data


def figures_for(spec: str, step: float | None) -> tuple[float, float | None]:
    """Step (rounded to float32) and distortion of a codebook: those we ship, or the caller's step and None.

    Raises:
        ValueError: if no step is given and none was measured, or it is not a positive number.
    """
    if step is not None:
        if not (isinstance(step, (int, float)) and 0 < step < math.inf):
            raise ValueError(f"{spec}: step must be a positive number, got {step!r}")
        return float(torch.tensor(step, dtype=torch.float32)), None
    found = _figures().get(spec)
    if found is None:
        raise ValueError(
            f"{spec}: no step was measured for it; pass step=, or take one of "
            f"{'; '.join(_figures())}"
        )
    return float(torch.tensor(found["step"], dtype=torch.float32)), found["distortion"]


def in_units(x: Tensor, step: float) -> Tensor:
    """Vectors ``(n, dim)`` over step as float32; those that are very far are moved toward the origin.

    A codebook lies within a few units, so that the nearest of its points depends on the direction alone.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    return (wide * (_FAR * step / largest).clamp_max(1.0)).float() / step
