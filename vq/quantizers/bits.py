"""Entropy of the codes of signs, per vector and over a batch, exactly and without listing the codes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12


def log_odds(points: Tensor, bound: Tensor, temperature: float) -> Tensor:
    """Log odds of + against - in each bit under ``p(c | z) = softmax_c(2 z·c / temperature)``, c of ±bound.

    The logits of a code are sums over its bits, so the bits are independent given z: ``4 z bound / temperature``.
    """
    return 4 * points * bound / temperature


def vector_entropy(odds: Tensor, valid: Tensor) -> Tensor:
    """Mean over valid vectors of the entropy of ``p(c | z)`` in nats: the sum of the entropies of its bits.

    Args:
        odds: ``(n, bits)``.
        valid: bool ``(n,)``.
    """
    each = functional.softplus(odds) - odds * odds.sigmoid()
    return torch.where(valid, each.sum(1), 0.0).sum() / valid.sum().clamp_min(1)


def batch_entropy(odds: Tensor, valid: Tensor, group: int) -> Tensor:
    """Entropy in nats of the mean of ``p(c | z)`` over valid vectors, summed over groups of bits; exact in each group.

    The mean over n vectors of a product of bits is a matrix product of the two halves of the group, so that the largest
    array is n times the square root of the codes of a group.

    Args:
        odds: ``(n, bits)``.
        valid: bool ``(n,)``.
        group: bits of a group; the last one may have fewer.
    """
    total = odds.new_zeros(())
    for piece in odds.split(group, dim=1):
        half = piece.shape[1] // 2
        low, high = _joint(piece[:, :half]), _joint(piece[:, half:])
        low = torch.where(valid[:, None], low, 0.0)
        mean = (low.t() @ high) / valid.sum().clamp_min(1)
        total = total - (mean * mean.clamp_min(_TINY).log()).sum()
    return total


def _joint(odds: Tensor) -> Tensor:
    """Probabilities ``(n, 2^bits)`` of all combinations of independent bits ``(n, bits)``."""
    found = odds.new_ones(len(odds), 1)
    for bit in odds.unbind(1):
        yes, no = bit.sigmoid()[:, None], (-bit).sigmoid()[:, None]
        found = torch.cat([found * no, found * yes], dim=1)
    return found
