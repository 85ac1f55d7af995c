"""What k-means found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clustering:
    """A fitted table and how it came about.

    Attributes:
        table: ``(*problems, entries, dim)`` float32.
        history: ``(passes, *problems)`` float64, weighted mean squared error of a coordinate before every update;
            on the sample while one is used.
        members: ``(*problems, entries)`` int64, points of each cell in the last pass.
        penalty: ``(*problems, entries)``, what the last pass added to the squared distance to each codeword; None
            without ``rate_weight`` and ``balance``.
    """

    table: Tensor
    history: Tensor
    members: Tensor
    penalty: Tensor | None = None

    @property
    def entropy(self) -> Tensor:
        """Entropy of the codes in the last pass, bits per vector."""
        share = self.members.double() / self.members.sum(-1, keepdim=True).clamp_min(1)
        return -torch.special.xlogy(share, share).sum(-1) / math.log(2)
