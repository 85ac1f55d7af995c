"""Give entries that hardly anything uses a second life at vectors of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vq.quantizers.usage import BatchUse, sum_over_ranks

_MOST = 4096  # entries that are revived at a time
_STRIDES = (2272212871, 3960419417, 2962882037, 2850562469, 3738866393, 3304030187, 4213800203)


def mix(x: Tensor) -> Tensor:
    """A hash of int64 numbers below 2**32 to numbers below 2**32: a draw without a generator's state.

    Two rounds of xor-shift and multiplication modulo 2**32; the factors are below 2**31, so that products fit int64.
    """
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return x ^ (x >> 15)


def draw_places(count: int, total: Tensor, steps: Tensor, seed: int) -> Tensor:
    """Numbers ``(count,)`` int64 from 0 to total - 1, all different as far as total allows.

    An arithmetic progression modulo ``total`` whose start and stride are hashes of seed and step. Strides are primes
    above any number of vectors, so it runs through all of them before it repeats. The same on every rank.
    """
    key = mix((steps + 0x9E3779B9 * (seed + 1)) & 0xFFFFFFFF)
    strides = torch.tensor(_STRIDES, device=total.device)
    stride = strides.index_select(0, (key % len(_STRIDES)).reshape(1))
    places = torch.arange(count, device=total.device)
    return (stride * places + mix(key)) % total.clamp_min(1)


class Revival(nn.Module):
    """Usage of the entries, and the entries to be replaced because they have almost none.

    Usage is a moving average of each entry's *share* of a batch. Every ``every`` training steps, entries below
    ``threshold`` times the mean usage are set to vectors drawn from the batch (of all ranks) and their usage to the
    mean. The threshold is relative, so tables with more entries than the batch has vectors are not shuffled for ever.
    The table gets the rows at the start of the next step (``apply``).

    Args:
        entries: of the table.
        dim: of its rows.
        threshold: 0 to 1; 0 never revives.
        every: steps between two looks.
        decay: of the moving average.
        seed: of the draws, which are hashes of seed and step: nothing to save, the same on all ranks.
    """

    usage: Tensor
    steps: Tensor
    entries: Tensor
    rows: Tensor
    fresh: Tensor

    def __init__(
        self, entries: int, dim: int, threshold: float, every: int, decay: float, seed: int
    ) -> None:
        super().__init__()
        self.threshold, self.every, self.decay, self.seed = threshold, every, decay, seed
        count = min(entries, _MOST) if threshold else 0
        self.register_buffer("usage", torch.zeros(entries))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("entries", torch.arange(count))
        self.register_buffer("rows", torch.zeros(count, dim))
        self.register_buffer("fresh", torch.zeros(count, dtype=torch.bool))

    @torch.no_grad()
    def reset(self, usage: Tensor | float) -> None:
        """Forget what waits and set the usage: shares ``(entries,)``, one number for all, 0 for "nothing known"."""
        self.usage.copy_(torch.as_tensor(usage).expand_as(self.usage))
        self._forget()

    @torch.no_grad()
    def apply_to(self, table: Tensor) -> None:
        """Write the rows that wait into the table ``(entries, dim)``, in place."""
        if len(self.entries) and not nothing(self.fresh):
            kept = table.index_select(0, self.entries)
            table.index_copy_(0, self.entries, torch.where(self.fresh[:, None], self.rows, kept))

    @torch.no_grad()
    def count(self, use: BatchUse) -> None:
        """One step of the moving average; a batch without valid vectors changes nothing."""
        self.steps.add_(1)
        share = use.counts / use.total.clamp_min(1)
        moved = torch.lerp(self.usage, share, 1 - self.decay)
        self.usage.copy_(torch.where(use.total > 0, moved, self.usage))

    @torch.no_grad()
    def choose(self, points: Tensor, valid: Tensor, use: BatchUse) -> Tensor:
        """Pick entries to be replaced and the vectors for them; returns how many.

        Args:
            points: ``(n, dim)`` of this rank.
            valid: ``(n,)`` bool.
            use: of this batch, over all ranks.
        """
        if not len(self.entries):
            return torch.zeros((), device=points.device)
        mean = self.usage.mean()
        dead = (self.usage < self.threshold * mean) & (self.steps % self.every == 0)
        if nothing(dead):
            if not nothing(self.fresh):
                self._forget()
            return torch.zeros((), device=points.device)
        count = len(self.entries)
        order = torch.argsort(dead.to(torch.uint8), descending=True, stable=True)[:count]
        total = use.total.long()
        places = draw_places(count, total, self.steps, self.seed)
        unused = torch.arange(count, device=points.device) < total
        self.fresh.copy_(dead[order] & unused)
        self.entries.copy_(order)
        rows = sum_over_ranks(_own_rows(points, valid, places - use.before))
        self.rows.copy_(torch.where(self.fresh[:, None], rows, 0.0))
        usage = torch.where(self.fresh, mean, self.usage[order])
        self.usage.index_copy_(0, order, usage)
        return self.fresh.sum().float()

    def _forget(self) -> None:
        """No row waits: what ``choose`` leaves behind where no entry is dead."""
        self.fresh.fill_(False)
        self.rows.zero_()
        self.entries.copy_(torch.arange(len(self.entries), device=self.entries.device))


def nothing(flags: Tensor) -> bool:
    """Whether no flag is set, where that is known without waiting for a device or cutting a compiled graph.

    False says that some may be set, and only costs time.
    """
    if torch.compiler.is_compiling() or flags.device.type != "cpu":
        return False
    return not bool(flags.any())


def _own_rows(points: Tensor, valid: Tensor, places: Tensor) -> Tensor:
    """The valid points at these places among the valid ones, ``(count, dim)``; zero for places of other ranks."""
    if not len(points):
        return points.new_zeros(len(places), points.shape[1])
    ends = valid.long().cumsum(0)
    mine = (places >= 0) & (places < ends[-1])
    index = torch.searchsorted(ends, places.clamp_min(0) + 1).clamp_max(len(points) - 1)
    return torch.where(mine[:, None], points[index], points.new_zeros(()))
