"""Training of trellis tables: Lloyd's algorithm with a Viterbi search for the nearest path."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels.trellis import trellis_decode, trellis_encode, trellis_states


def sums_of_states(
    x: Tensor, table: Tensor, step_bits: int, memory: int
) -> tuple[Tensor, Tensor, float]:
    """Assign sequences to paths and collect what each state was used for.

    Args:
        x: ``(n, length)`` float32.
        table: ``(2**memory, symbols)`` float32.
        step_bits: bits of one step.
        memory: bits of one state.

    Returns:
        Sums ``(2**memory, symbols)`` and counts ``(2**memory, 1)`` in float64, and the mean squared
        error with ``table``.
    """
    symbols = table.shape[1]
    codes = trellis_encode(x, table, step_bits, memory)
    error = float((trellis_decode(codes, table, step_bits, memory) - x).double().square().mean())
    states = trellis_states(codes, step_bits, memory).reshape(-1).cpu()
    values = x.reshape(-1, symbols).double().cpu()
    size = 1 << memory
    sums = [torch.bincount(states, values[:, v].contiguous(), size) for v in range(symbols)]
    counts = torch.bincount(states, minlength=size).double()
    return torch.stack(sums, 1), counts.unsqueeze(1), error


def fit_table(
    x: Tensor, table: Tensor, step_bits: int, memory: int, iterations: int
) -> tuple[Tensor, float]:
    """Lloyd iterations on fixed sequences; a state that no path visits keeps its value.

    Args:
        x: ``(n, length)`` float32.
        table: ``(2**memory, symbols)`` to start from.
        step_bits: bits of one step.
        memory: bits of one state.
        iterations: encode-and-average rounds.

    Returns:
        The best table seen and its mean squared error on ``x``.
    """
    best, least = table, float("inf")
    for _ in range(iterations):
        sums, counts, error = sums_of_states(x, table, step_bits, memory)
        if error < least:
            best, least = table, error
        table = centroids(sums, counts, table)
    *_, error = sums_of_states(x, table, step_bits, memory)
    return (table, error) if error < least else (best, least)


def centroids(sums: Tensor, counts: Tensor, table: Tensor, prior: float = 0.0) -> Tensor:
    """Mean of what each state was used for, ``prior`` observations of its old value mixed in."""
    old = table.double().cpu()
    mean = (sums + prior * old) / (counts + prior).clamp(min=1e-12)
    return torch.where(counts > 0, mean, old).float().to(table.device)
