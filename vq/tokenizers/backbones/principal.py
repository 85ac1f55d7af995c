"""Linear maps beside networks, started at the principal axes of the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vq.tokenizers.backbones.reach import Span, reach


class Sum(nn.Module):
    """Layers side by side on one input, their outputs added up."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        first, *others = self.branches
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total

    def reach(self, span: Span) -> Span:
        """What any of them reaches."""
        spans = [reach(branch, span) for branch in self.branches]
        return min(a for a, _ in spans), max(b for _, b in spans)


class Unfold1d(nn.Module):
    """``(B, C * hop, n)`` to ``(B, C, n * hop)``: one block of samples after another."""

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop = hop

    def forward(self, x: Tensor) -> Tensor:
        """Lay the blocks out."""
        return x.unflatten(1, (-1, self.hop)).transpose(2, 3).flatten(2)

    def reach(self, span: Span) -> Span:
        """The blocks that hold the samples."""
        return span[0] // self.hop, span[1] // self.hop


def first_convolution(module: nn.Module) -> nn.Conv1d | nn.Conv2d:
    """The first convolution inside a module: the linear map of a ``Sum`` whose first branch it begins."""
    return next(m for m in module.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d)))


@torch.no_grad()
def quieten(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """Make the last layer of a branch nearly silent, so that training starts from the branch beside it."""
    layer.weight.mul_(0.02)
    assert layer.bias is not None
    layer.bias.zero_()
    return layer


@torch.no_grad()
def start_linear(into: nn.Conv1d | nn.Conv2d, back: nn.Conv1d | nn.Conv2d, rows: Tensor) -> None:
    """Set two linear maps to the first principal axes of vectors, and to their transpose.

    What comes out of ``into`` has mean 0, and a mean square of 1 over all its dimensions together: it keeps the
    proportions of the vectors, so that the nearest feature is the nearest vector.

    Args:
        into: from vectors to features.
        back: from features to vectors.
        rows: ``(n, length)``.
    """
    exact = rows.double()
    mean = exact.mean(0)
    covariance = (exact - mean).T @ (exact - mean) / len(exact)
    values, vectors = torch.linalg.eigh(covariance)
    dim = back.in_channels
    count = min(dim, len(mean))
    axes = vectors.flip(1)[:, :count].T
    scale = (values.clamp_min(0).flip(0)[:count].sum() / dim).sqrt().clamp_min(1e-6)
    for parameter in (into.weight, into.bias, back.weight, back.bias):
        assert parameter is not None
        parameter.zero_()
    assert into.bias is not None and back.bias is not None
    into.weight.flatten(1)[:count] = (axes / scale).to(into.weight.dtype)
    into.bias[:count] = (-(axes @ mean) / scale).to(into.bias.dtype)
    back.weight.flatten(1)[:, :count] = (axes.T * scale).to(back.weight.dtype)
    back.bias[:] = mean.to(back.bias.dtype)
