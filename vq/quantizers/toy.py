"""A collapse test of seconds: how much of its table does a quantizer use on correlated data off the origin?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vq.quantizers.base import Quantizer


class CorrelatedGaussian:
    """Gaussian vectors with a random full covariance and a mean of length about 2, the same for a seed.

    A point ``x = mean + matrix @ g`` has variances that fall as 1/axis along random directions; their mean is 1.

    Args:
        dim: length of a vector.
        seed: of mean, directions and everything that is drawn.
    """

    def __init__(self, dim: int = 16, seed: int = 0) -> None:
        self.dim = dim
        self.generator = torch.Generator().manual_seed(seed)
        spread = 1 / torch.arange(1, dim + 1)
        basis = torch.linalg.qr(torch.randn(dim, dim, generator=self.generator)).Q
        self.matrix = basis * (spread / spread.mean()).sqrt()
        direction = torch.randn(dim, generator=self.generator)
        self.mean = 2 * direction / direction.norm()

    def draw(self, count: int) -> Tensor:
        """The next ``(count, dim)`` vectors."""
        noise = torch.randn(count, self.dim, generator=self.generator)
        return noise @ self.matrix.t() + self.mean


@dataclass(frozen=True)
class ToyResult:
    """What a quantizer came to on held-out vectors.

    Attributes:
        utilization: share of the entries that were used.
        ceiling: what even use would give, 1 - exp(-N / K).
        perplexity: exp of the entropy of use.
        snr_db: variance of the data over mean squared error, in decibels.
    """

    utilization: float
    ceiling: float
    perplexity: float
    snr_db: float


def train_toy(
    layer: Quantizer,
    steps: int = 300,
    batch: int = 2048,
    rate: float = 3e-3,
    seed: int = 0,
    per_entry: int = 4,
) -> ToyResult:
    """Train a quantizer alone, on vectors that do not learn: fresh batches, its own losses, Adam.

    Args:
        layer: in place, with one index a vector.
        steps: of training.
        batch: vectors of a step.
        rate: of Adam.
        seed: of the data.
        per_entry: held-out vectors for each entry, N / K.

    Raises:
        ValueError: for a quantizer with more than one index a vector.
    """
    if layer.codes_shape:
        raise ValueError(
            f"expected a quantizer with one index a vector, got codes {layer.codes_shape}"
        )
    source = CorrelatedGaussian(layer.dim, seed)
    learned = [p for p in layer.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(learned, lr=rate) if learned else None
    layer.train()
    for _ in range(steps):
        loss = layer(source.draw(batch)).loss
        if optimiser is not None:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return measure_toy(layer.eval(), source.draw(per_entry * layer.code_entries[0]))


def measure_toy(layer: Quantizer, x: Tensor) -> ToyResult:
    """Use and error of a quantizer with one index a vector on x ``(n, dim)``."""
    codes = layer.encode(x)
    counts = torch.bincount(codes, minlength=layer.code_entries[0]).double()
    share = counts / counts.sum()
    error = (layer.decode(codes) - x).detach().double().square().mean()
    variance = (x - x.mean(0)).double().square().mean()
    return ToyResult(
        float((counts > 0).double().mean()),
        1 - math.exp(-len(x) / len(counts)),
        float((-torch.special.xlogy(share, share).sum()).exp()),
        float(10 * torch.log10(variance / error)),
    )
