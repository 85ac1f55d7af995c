"""Small maps whose rows do not depend on each other."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from vq.quantizers.projection import linear


class Perceptron(nn.Module):
    """A linear map, or two with a ReLU between.

    Args:
        before: numbers in.
        after: numbers out.
        hidden: numbers between; 0 for a single map.
        generator: of the weights, uniform in ±1/sqrt(numbers in).
    """

    def __init__(self, before: int, after: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = [before, hidden, after] if hidden else [before, after]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for low, high in itertools.pairwise(sizes):
            weight = torch.rand(high, low, generator=generator) * 2 - 1
            self.weights.append(nn.Parameter(weight * low**-0.5))
            self.biases.append(nn.Parameter(torch.zeros(high)))

    def forward(self, x: Tensor) -> Tensor:
        """``(n, before)`` to ``(n, after)``."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = linear(functional.relu(x) if i else x, weight, bias)
        return x
