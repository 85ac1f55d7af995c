"""Search of the E8P codebook in plain torch; the compiled kernel does the same arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

TRIPLES = 29  # patterns of norm 12
ORBITS = (
    (0, 0),
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (1, 1),
    (2, 1),
)  # coordinates of at least 3/2, of 5/2
_POWERS = tuple(3 ** (7 - d) for d in range(8))


def e8p_search(x: Tensor, tables: Tensor) -> Tensor:
    """Codes int32 ``(n,)`` of vectors ``(n, 8)``; see ``vq.kernels.lattice.e8p_encode``."""
    triples = tables[: 3 * TRIPLES].reshape(TRIPLES, 3).long()
    numbers = tables[3 * TRIPLES :].int()
    across = x.t().contiguous()
    gains, codes = [], []
    for shift, offset in enumerate((0.25, -0.25)):
        y = across + offset
        gain, which = _best_pattern(y, triples.tolist())
        gains.append(gain)
        codes.append(_codes(y, which, triples, numbers) | shift << 15)
    total = across[0]
    for row in across[1:]:
        total = total + row
    second = gains[0] - gains[1] < total  # |x - 1/4|^2 - |x + 1/4|^2 = -total
    return torch.where(second, codes[1], codes[0])


def _best_pattern(y: Tensor, triples: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Largest ``2 y.c - |c|^2`` over signed patterns c with an even sum, and its number: orbit, or triple + 7."""
    a = y.abs()
    odd = (y < 0).sum(0).remainder(2).bool()
    total = a[0]
    for row in a[1:]:
        total = total + row
    s = a.sort(0, descending=True).values
    loss = 2.0 * s[7]
    one = total + 2.0 * s[0]
    two = one + 2.0 * s[1]
    three = two + 2.0 * s[2]
    zero = torch.zeros_like(loss)
    even_loss, odd_loss = torch.where(odd, loss, zero), torch.where(odd, zero, loss)
    scores = [
        (total - 2.0) - even_loss,
        (one - 4.0) - odd_loss,
        (two - 6.0) - even_loss,
        (three - 8.0) - odd_loss,
        ((three + 2.0 * s[3]) - 10.0) - even_loss,
        ((one + 2.0 * s[0]) - 8.0) - even_loss,
        ((two + 2.0 * s[0]) - 10.0) - odd_loss,
    ]
    for i, j, k in triples:
        small = (a[i] + a[j]) + a[k]
        large = torch.cat([a[:i], a[i + 1 : j], a[j + 1 : k], a[k + 1 :]])
        least = torch.minimum(a[[i, j, k]].amin(0), 3.0 * large.amin(0))
        scores.append(((3.0 * total - 2.0 * small) - 12.0) - torch.where(odd, zero, 2.0 * least))
    stacked = torch.stack(scores)
    best = stacked.amax(0)
    return best, (stacked == best).int().argmax(0)


def _codes(y: Tensor, which: Tensor, triples: Tensor, numbers: Tensor) -> Tensor:
    """Pattern number and sign bits of the best pattern."""
    a = y.abs()
    rank = a.argsort(dim=0, descending=True, stable=True).argsort(0)
    orbit = torch.tensor(ORBITS, device=y.device)[which.clamp_max(len(ORBITS) - 1)]
    by_rank = (rank < orbit[:, 0]).int() + (rank < orbit[:, 1]).int()
    small = torch.ones(TRIPLES, 8, dtype=torch.int32, device=y.device).scatter(1, triples, 0)
    by_triple = small[(which - len(ORBITS)).clamp_min(0)].t()
    extra = which >= len(ORBITS)
    digit = torch.where(extra, by_triple, by_rank)
    loss = torch.where(digit > 0, 3.0 * a, a)
    cheapest = (loss == loss.amin(0)).int().argmax(0)
    flip = torch.where(extra, cheapest, (rank == 7).int().argmax(0))
    negative = (y < 0).int()
    wrong = (digit.sum(0) + negative.sum(0)).remainder(2).int()
    negative = negative ^ ((torch.arange(8, device=y.device)[:, None] == flip) & wrong.bool()).int()
    powers = torch.tensor(_POWERS, device=y.device)[:, None]
    signs = (negative[:7] << torch.arange(7, device=y.device)[:, None]).sum(0)
    return (numbers[(digit * powers).sum(0)] | signs << 8).int()
