"""How often codes are used: counts of one batch over all ranks, and what to tell about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


def place() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without ``torch.distributed``."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """x, replaced in place by its sum over all processes."""
    if place()[1] > 1:
        dist.all_reduce(x)
    return x


@dataclass(frozen=True)
class BatchUse:
    """Use of a table by the valid vectors of one batch.

    Attributes:
        counts: ``(entries,)`` float32, of all ranks together.
        total: ``()`` float32, valid vectors of all ranks.
        before: ``()`` int64, valid vectors of the ranks before this one.
    """

    counts: Tensor
    total: Tensor
    before: Tensor


def count_use(codes: Tensor, valid: Tensor, entries: int, everywhere: bool) -> BatchUse:
    """Count codes.

    Args:
        codes: ``(n,)`` int64 from 0 to entries - 1.
        valid: ``(n,)`` bool, what counts.
        entries: of the table.
        everywhere: sum over all ranks, each of which must call; else this process alone.
    """
    rank, ranks = place() if everywhere else (0, 1)
    slots = torch.zeros(entries + ranks, device=codes.device)
    slots.index_add_(0, codes, valid.float())
    slots[entries + rank] = valid.sum()
    if everywhere:
        sum_over_ranks(slots)
    counts, totals = slots[:entries], slots[entries:]
    return BatchUse(counts, totals.sum(), totals[:rank].sum().long())


def use_stats(use: BatchUse) -> dict[str, Tensor]:
    """Scalars of one batch.

    ``vectors`` is N; ``utilization`` the share of the K entries that N vectors used; ``utilization_ceiling`` what
    perfectly even use would give, 1 - exp(-N / K); ``perplexity`` exp of the entropy of use.
    """
    entries = len(use.counts)
    share = use.counts / use.total.clamp_min(1)
    return {
        "vectors": use.total,
        "utilization": (use.counts > 0).float().mean(),
        "utilization_ceiling": -torch.expm1(-use.total / entries),
        "perplexity": (-torch.special.xlogy(share, share).sum()).exp(),
    }
