"""Randomised Hadamard rotation: it spreads outliers, so that weights of any layer look like N(0, 1).

Block-diagonal with powers of two, so that any width works without padding and without tables.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_signs(n: int, generator: torch.Generator) -> Tensor:
    """Float32 vector of n random signs +1 and -1."""
    return torch.randint(0, 2, (n,), generator=generator, device="cpu").float() * 2 - 1


def block_sizes(n: int) -> list[int]:
    """Powers of two that add up to n, largest first: 576 -> [512, 64]."""
    return [1 << bit for bit in range(n.bit_length() - 1, -1, -1) if n >> bit & 1]


def hadamard(x: Tensor) -> Tensor:
    """Orthonormal block Walsh-Hadamard transform of the last dimension; its own inverse.

    Args:
        x: ``(*batch, n)`` float.

    Returns:
        A new tensor of the same shape and dtype.
    """
    parts = [_power_of_two(part) for part in x.split(block_sizes(x.shape[-1]), dim=-1)]
    return torch.cat(parts, dim=-1)


def _power_of_two(x: Tensor) -> Tensor:
    n, half = x.shape[-1], 1
    result = x / math.sqrt(n)
    while half < n:
        pairs = result.reshape(*x.shape[:-1], n // (2 * half), 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        result = torch.stack([first + second, first - second], dim=-2).reshape(x.shape)
        half *= 2
    return result
