"""Softmax over the entries of a table, and its gradients, in tiles: no array of vectors x entries is ever kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_ENTRIES = 4096  # of a tile
_SCORES = 1 << 20  # of a tile: 4 MiB


def _row_tiles(count: int, entries: int) -> Iterator[slice]:
    step = max(1, _SCORES // min(entries, _ENTRIES))
    for start in range(0, count, step):
        yield slice(start, start + step)


def _entry_tiles(entries: int) -> Iterator[slice]:
    for start in range(0, entries, _ENTRIES):
        yield slice(start, min(start + _ENTRIES, entries))


def _log_sums(z: Tensor, table: Tensor) -> Tensor:
    """``log Σ_j exp(z_n · c_j)``, ``(n, 1)``."""
    found = z.new_full((len(z), 1), -torch.inf)
    for part in _entry_tiles(len(table)):
        found = torch.logaddexp(found, (z @ table[part].t()).logsumexp(1, keepdim=True))
    return found


def _shares(z: Tensor, table: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and probabilities of one tile."""
    logits = z @ table.t()
    return logits, (logits - logs).exp()


class _IndexBackprop(torch.autograd.Function):
    """Forward ``table[codes]``, backward the gradient of ``onehot + softmax - sg(softmax)`` times the table."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, table: Tensor, codes: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(z, table, codes)
        ctx.scale = scale
        return table[codes]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, table, codes = ctx.saved_tensors
        grad, scale = grads[0], ctx.scale
        to_z, to_table = torch.zeros_like(z), torch.zeros_like(table)
        with torch.autocast(grad.device.type, enabled=False):
            to_table.index_add_(0, codes, grad)
            for rows in _row_tiles(len(z), len(table)):
                scaled, own = z[rows] * scale, grad[rows]
                logs = _log_sums(scaled, table)
                mean = torch.zeros_like(logs)
                for part in _entry_tiles(len(table)):
                    share = _shares(scaled, table[part], logs)[1]
                    mean += (own * (share @ table[part])).sum(1, keepdim=True)
                for part in _entry_tiles(len(table)):
                    share = _shares(scaled, table[part], logs)[1]
                    to_logits = share * (own @ table[part].t() - mean)
                    to_z[rows] += scale * (to_logits @ table[part])
                    to_table[part] += to_logits.t() @ scaled
        return to_z, to_table, None, None


def index_backprop(z: Tensor, table: Tensor, codes: Tensor, temperature: float = 1.0) -> Tensor:
    """Rows of the table by code, with gradients through a softmax over *all* entries.

    Forward exactly ``table[codes]``; backward that of ``o @ table`` with ``o = onehot(codes) + p - sg(p)`` and
    ``p = softmax(z @ table.T / temperature)``: every entry gets a gradient. Memory is that of tiles of 4 MiB; backward
    computes the products again.

    Args:
        z: ``(n, dim)`` float32.
        table: ``(entries, dim)`` float32.
        codes: ``(n,)`` int64.
        temperature: of the softmax.

    Reference:
        F. Shi et al., "Scalable image tokenization with index backpropagation quantization" (2024), equations (5)
        and (6).
    """
    found: Tensor = _IndexBackprop.apply(z, table, codes, 1 / temperature)
    return found


class _Entropies(torch.autograd.Function):
    """Mean entropy of each vector's softmax, and entropy of the mean softmax, in nats."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, table: Tensor, weight: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        logs, own, mean = z.new_zeros(len(z), 1), z.new_zeros(len(z), 1), z.new_zeros(len(table))
        for rows in _row_tiles(len(z), len(table)):
            scaled = z[rows] * scale
            sums = _log_sums(scaled, table)
            logs[rows] = sums
            own[rows] = sums
            for part in _entry_tiles(len(table)):
                logits, share = _shares(scaled, table[part], sums)
                own[rows] -= (share * logits).sum(1, keepdim=True)
                mean[part] += weight[rows] @ share
        ctx.save_for_backward(z, table, weight, logs, own, mean)
        ctx.scale = scale
        return weight @ own[:, 0], -torch.special.xlogy(mean, mean).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, table, weight, logs, own, mean = ctx.saved_tensors
        slope = -(mean.clamp_min(1e-30).log() + 1)
        to_z, to_table = torch.zeros_like(z), torch.zeros_like(table)
        with torch.autocast(z.device.type, enabled=False):
            for rows in _row_tiles(len(z), len(table)):
                scaled, sums = z[rows] * ctx.scale, logs[rows]
                level = torch.zeros_like(sums)
                for part in _entry_tiles(len(table)):
                    share = _shares(scaled, table[part], sums)[1]
                    level += (share * slope[part]).sum(1, keepdim=True)
                for part in _entry_tiles(len(table)):
                    logits, share = _shares(scaled, table[part], sums)
                    to_logits = -grads[0] * (logits - sums + own[rows])
                    to_logits = to_logits + grads[1] * (slope[part] - level)
                    to_logits = to_logits * share * weight[rows, None]
                    to_z[rows] += ctx.scale * (to_logits @ table[part])
                    to_table[part] += to_logits.t() @ scaled
        return to_z, to_table, None, None


def soft_entropies(
    z: Tensor, table: Tensor, valid: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Entropies in nats of ``softmax(z @ table.T / temperature)``: mean of each vector's, and of the mean.

    Args:
        z: ``(n, dim)`` float32.
        table: ``(entries, dim)`` float32.
        valid: ``(n,)`` bool; the others do not count.
        temperature: of the softmax.

    Reference:
        L. Yu et al., "Language model beats diffusion: tokenizer is key to visual generation" (2024), equation (5).
    """
    weight = valid.to(z.dtype) / valid.sum().clamp_min(1)
    found: tuple[Tensor, Tensor] = _Entropies.apply(z, table, weight, 1 / temperature)
    return found
