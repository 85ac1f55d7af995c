"""Rows that follow the moving means of their cells."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vq.quantizers.usage import BatchUse, sum_over_ranks


class MovingMeans(nn.Module):
    """The next table of an exponential moving average; the layer takes it over one step later.

    With moving averages n of an entry's share and m of its sum of vectors, the row is ``m / n``. Here the row itself
    is stored, ``row + (1 - decay) Σ (x - row) / (N n)``, which is the same number, but leaves rows that nothing
    chose untouched to the bit, divides by no small n, and has rows that meet themselves for fixed points.

    Args:
        table: ``(entries, dim)`` to begin with.
        decay: of the average.

    Reference:
        A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural discrete representation learning" (2017), appendix A.1,
        equations (6) to (8), with n and m of shares instead of counts.
    """

    following: Tensor

    def __init__(self, table: Tensor, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("following", table.clone())

    @torch.no_grad()
    def collect(
        self, away: Tensor, codes: Tensor, table: Tensor, usage: Tensor, use: BatchUse
    ) -> None:
        """Compute the next table from one batch, over all ranks.

        Args:
            away: ``(n, dim)`` points of this rank minus their rows, zero for those that do not count.
            codes: ``(n,)`` their entries.
            table: ``(entries, dim)`` with these rows.
            usage: ``(entries,)`` moving average of shares, this batch included.
            use: of this batch.
        """
        self.following.zero_().index_add_(0, codes, away)
        sum_over_ranks(self.following)
        rate = (1 - self.decay) / (usage * use.total)
        rate = torch.where(use.counts > 0, rate, rate.new_zeros(()))
        torch.addcmul(table, self.following, rate[:, None], out=self.following)
