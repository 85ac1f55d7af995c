"""Training of trellis tables: Lloyd's algorithm with a Viterbi search for the nearest path."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels.trellis import (
    trellis_decode,
    trellis_encode,
    trellis_encode_weighted,
    trellis_states,
)


def sums_of_states(
    x: Tensor, table: Tensor, step_bits: int, memory: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor, float]:
    """Assign sequences to paths and collect what each state was used for.

    Args:
        x: ``(n, length)`` float32.
        table: ``(2**memory, symbols)`` float32.
        step_bits: bits of one step.
        memory: bits of one state.
        weight: ``(n, length)``, factors of the squared errors.

    Returns:
        Sums and counts, both ``(2**memory, symbols)`` float64 and times the weight, and the (weighted) mean squared
        error with ``table``.
    """
    size, symbols = table.shape
    if weight is None:
        weight, codes = torch.ones_like(x), trellis_encode(x, table, step_bits, memory)
    else:
        codes = trellis_encode_weighted(x, weight, table, step_bits, memory)
    square = (trellis_decode(codes, table, step_bits, memory) - x).double().square()
    error = float((square * weight).sum() / weight.double().sum().clamp_min(1e-300))
    states = trellis_states(codes, step_bits, memory).reshape(-1).cpu()
    share = weight.reshape(-1, symbols).double().cpu()
    values = x.reshape(-1, symbols).double().cpu() * share
    found = [
        torch.stack(
            [torch.bincount(states, part[:, v].contiguous(), size) for v in range(symbols)], 1
        )
        for part in (values, share)
    ]
    return found[0], found[1], error


def fit_table(
    x: Tensor,
    table: Tensor,
    step_bits: int,
    memory: int,
    iterations: int,
    weight: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Lloyd iterations on fixed sequences; a state that no path visits keeps its value.

    Args:
        x: ``(n, length)`` float32.
        table: ``(2**memory, symbols)`` to start from.
        step_bits: bits of one step.
        memory: bits of one state.
        iterations: encode-and-average rounds.
        weight: ``(n, length)``, factors of the squared errors.

    Returns:
        The best table seen and its (weighted) mean squared error on ``x``.
    """
    best, least = table, float("inf")
    for _ in range(iterations):
        sums, counts, error = sums_of_states(x, table, step_bits, memory, weight)
        if error < least:
            best, least = table, error
        table = centroids(sums, counts, table)
    *_, error = sums_of_states(x, table, step_bits, memory, weight)
    return (table, error) if error < least else (best, least)


def start_table(
    levels: Tensor,
    x: Tensor,
    step_bits: int,
    symbols: int,
    *,
    draws: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Levels in the order of a multiplicative hash, the best of many: state s takes level ``s * C``.

    Neighbours on the trellis differ in their high or their low bits; a good odd constant C spreads
    both kinds evenly over the levels, which neither Lloyd's algorithm nor a random table finds.

    Args:
        levels: ``(2**memory,)`` ascending.
        x: blocks ``(n, length)`` to compare constants on, of which some hundred are used.
        step_bits: bits of one step.
        symbols: values of a step; each has a constant of its own.
        draws: constants to compare.
        generator: of the constants.

    Returns:
        ``(2**memory, symbols)`` float32.
    """
    size = len(levels)
    memory = size.bit_length() - 1
    state = torch.arange(size).unsqueeze(1)
    found = torch.randint(size // 2, (draws, symbols), generator=generator) * 2 + 1
    for count, keep in ((16, max(20, draws // 10)), (80, 20), (400, 1)):
        some, scores = x[:count], []
        for constants in found:
            table = levels[(state * constants) % size].to(x.device)
            codes = trellis_encode(some, table, step_bits, memory)
            error = trellis_decode(codes, table, step_bits, memory) - some
            scores.append(float(error.double().square().mean()))
        found = found[torch.tensor(scores).argsort(stable=True)[:keep]]
    return levels[(state * found[0]) % size].float().to(x.device)


def centroids(sums: Tensor, counts: Tensor, table: Tensor, prior: float = 0.0) -> Tensor:
    """Mean of what each state was used for, ``prior`` observations of its old value mixed in."""
    old = table.double().cpu()
    mean = (sums + prior * old) / (counts + prior).clamp(min=1e-12)
    return torch.where(counts > 0, mean, old).float().to(table.device)
