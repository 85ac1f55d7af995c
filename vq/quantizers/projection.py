"""Learned linear maps into the space of a small codebook and out again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Linear(torch.autograd.Function):
    """``x @ weight.T + bias``, forward in float64 and rounded once, backward in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():  # dynamo does not always know it
            ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        return torch.addmm(bias.to(wide), x.to(wide), weight.to(wide).t()).float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        if grad is None:
            return None, None, None
        with torch.autocast(grad.device.type, enabled=False):
            return grad @ weight, grad.t() @ x, grad.sum(0)


def _columns(rows: int, columns: int, seed: int) -> Tensor:
    """Random orthonormal columns ``(rows, columns)``, or orthonormal rows where there are more columns."""
    if rows < columns:
        return _columns(columns, rows, seed).t()
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q


class Projection(nn.Module):
    """A linear map from ``dim`` numbers to ``inner`` ones and another back; nothing at all where they are equal.

    The sums are float64, rounded once: the numbers of a vector do not depend on the batch it is in, so that codes
    found and values decoded in parts are those of the whole.

    Args:
        dim: of the vectors.
        inner: dimension of the codebook.
        seed: of the orthonormal directions that it starts with; out is the transpose of in.
    """

    def __init__(self, dim: int, inner: int, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.inner = dim, inner
        if dim == inner:
            return
        basis = _columns(dim, inner, seed)
        self.weight_in = nn.Parameter(basis.t().contiguous())
        self.bias_in = nn.Parameter(torch.zeros(inner))
        self.weight_out = nn.Parameter(basis.clone())
        self.bias_out = nn.Parameter(torch.zeros(dim))

    @property
    def identity(self) -> bool:
        """Whether nothing is mapped."""
        return self.dim == self.inner

    def down(self, x: Tensor) -> Tensor:
        """Vectors ``(n, dim)`` in the codebook's space, ``(n, inner)`` float32."""
        if self.identity:
            return x
        found: Tensor = _Linear.apply(x, self.weight_in, self.bias_in)
        return found

    def up(self, z: Tensor) -> Tensor:
        """Vectors ``(n, inner)`` of the codebook's space as ``(n, dim)`` float32."""
        if self.identity:
            return z
        found: Tensor = _Linear.apply(z, self.weight_out, self.bias_out)
        return found

    @torch.no_grad()
    def start(self, x: Tensor, unit: bool = False) -> None:
        """Take mean and principal axes of x ``(n, dim)``, so that ``up(down(x))`` is x as far as inner allows.

        Args:
            x: features.
            unit: the codebook holds unit vectors: a root mean square length goes into the scale.
        """
        if self.identity:
            return
        exact = x.double()
        mean = exact.mean(0)
        centred = exact - mean
        vectors = torch.linalg.eigh(centred.t() @ centred / len(x)).eigenvectors.flip(1)
        axes = torch.zeros(self.dim, self.inner, dtype=torch.float64, device=x.device)
        count = min(self.dim, self.inner)
        axes[:, :count] = vectors[:, :count]
        length = (centred @ axes).square().sum(1).mean().sqrt() if unit else mean.new_ones(())
        scale = torch.where(length > 0, length, torch.ones_like(length))
        self.weight_in.copy_(axes.t() / scale)
        self.bias_in.copy_(-(mean @ axes) / scale)
        self.weight_out.copy_(axes * scale)
        self.bias_out.copy_(mean)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias`` of ``(n, in)``, with float64 sums rounded once: rows do not depend on each other."""
    found: Tensor = _Linear.apply(x, weight, bias)
    return found
