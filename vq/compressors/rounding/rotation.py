"""Randomised Hadamard rotation: it spreads outliers, so that weights of any layer look like N(0, 1).

Block-diagonal with powers of two, so that any width works without padding and without tables.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels.hadamard import hadamard as kernel


def random_signs(n: int, generator: torch.Generator) -> Tensor:
    """Float32 vector of n random signs +1 and -1."""
    return torch.randint(0, 2, (n,), generator=generator, device="cpu").float() * 2 - 1


def hadamard(x: Tensor) -> Tensor:
    """Orthonormal block Walsh-Hadamard transform of the last dimension; its own inverse.

    Args:
        x: ``(*batch, n)`` float.

    Returns:
        A new tensor of the same shape and dtype.
    """
    return kernel(x, None, None)
