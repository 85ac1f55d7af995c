"""Learned latent scalars, and Lloyd's algorithm for numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.codebooks.base import check_vectors
from vq.codebooks.grids import uniform_levels
from vq.codebooks.implicit import MAX_BITS, Grid
from vq.codebooks.levels import check_whole, gaussian_mse, lloyd, round_digits
from vq.codebooks.registry import register
from vq.codebooks.spec import Spec


@register("latent")
class Latent(Grid):
    """Learned latent scalars: each dimension has its own short list of values, trained or fitted.

    Starts from the best levels for N(0, 1); ``fit`` runs Lloyd's algorithm in each dimension. A trainable layer may
    move ``table`` freely: digits follow the order of the values in a row, whatever it is.

    Args:
        dim: number of dimensions.
        levels: values of each, 2 to 4096; ``levels ** dim`` up to 2^62.
        iterations: Lloyd steps of ``fit``.

    Attributes:
        table: float32 ``(dim, levels)``, the values; rows ascend after ``fit``.

    Reference:
        K. Hsu, W. Dorrell, J. Whittington, J. Wu, C. Finn, "Disentanglement via latent quantization", NeurIPS 2023,
        equation (1).
    """

    table: Tensor

    def __init__(self, dim: int = 8, levels: int = 8, iterations: int = 25) -> None:
        super().__init__()
        count = check_whole("latent", "levels", levels, 2, 4096)
        self.iterations = check_whole("latent", "iterations", iterations, 1, 10000)
        self._shape([count] * check_whole("latent", "dim", dim, 1, MAX_BITS))
        start = torch.tensor(uniform_levels(count)[0], dtype=torch.float64)
        row = [round_digits(float(v)) for v in lloyd(start, 100)]
        self.register_buffer("table", torch.tensor(row).repeat(dim, 1))

    @property
    def spec(self) -> Spec:
        """``latent(dim=..., levels=...)``, and the iterations where they are not 25."""
        extra = {} if self.iterations == 25 else {"iterations": self.iterations}
        return Spec.make("latent", dim=self.dim, levels=self._levels[0], **extra)

    @property
    def distortion(self) -> float:
        """Mean squared error per dimension of the table as it is on N(0, 1), in closed form."""
        rows = self.table.detach().cpu().double().sort(dim=1).values
        return sum(gaussian_mse(row) for row in rows) / self.dim

    def digits(self, x: Tensor) -> Tensor:
        """Place of the nearest value of each coordinate's row; half-way belongs to the lower value."""
        rows, order = self.table.sort(dim=1)
        bounds = (rows[:, 1:] + rows[:, :-1]) / 2
        flat = x.reshape(-1, self.dim).t().contiguous()
        place = torch.searchsorted(bounds.contiguous(), flat)
        return order.gather(1, place).t().reshape(x.shape)

    def values(self, digits: Tensor) -> Tensor:
        """Values at digits."""
        flat = digits.reshape(-1, self.dim).t()
        return self.table.gather(1, flat).t().reshape(digits.shape)

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Latent:
        """Lloyd's algorithm in each dimension, from the quantiles of the data; nothing is random.

        Args:
            x: ``(n, dim)`` with ``n >= levels``.
            weight: importance of each coordinate, broadcastable to x.
            generator: not used.

        Raises:
            ValueError: for fewer vectors than levels, wrong shapes, or numbers that are not finite.
        """
        check_vectors(x, self.dim, str(self.spec))
        levels = self._levels[0]
        if x.ndim != 2 or len(x) < levels:
            raise ValueError(
                f"{self.spec}: expected at least {levels} vectors (n, {self.dim}) to fit, got "
                f"{tuple(x.shape)}"
            )
        self._check_vectors(x, weight)
        columns = x.double().sort(dim=0)
        mass = torch.ones_like(columns.values)
        if weight is not None:
            mass = weight.double().expand(x.shape).gather(0, columns.indices)
        for i in range(self.dim):
            row = lloyd_rows(columns.values[:, i], mass[:, i], levels, self.iterations)
            self.table[i] = row.float()
        return self


def lloyd_rows(
    x: Tensor, mass: Tensor, levels: int, iterations: int, start: Tensor | None = None
) -> Tensor:
    """Weighted Lloyd's algorithm on sorted numbers, by prefix sums.

    Args:
        x: float64 ``(n,)``, ascending.
        mass: weights ``(n,)``.
        levels: number of values.
        iterations: steps.
        start: ``(levels,)`` ascending; the weighted quantiles of x by default.

    Returns:
        float64 ``(levels,)``, ascending; a value without mass stays where it was.
    """
    zero = x.new_zeros(1)
    sums = torch.cat([zero, mass.cumsum(0)]), torch.cat([zero, (mass * x).cumsum(0)])
    if start is None:
        share = (torch.arange(levels, device=x.device) + 0.5) / levels
        place = torch.searchsorted(sums[0][1:], share.double() * sums[0][-1])
        start = x[place.clamp_max(len(x) - 1)].contiguous()
    table = start
    for _ in range(iterations):
        inner = torch.searchsorted(x.contiguous(), (table[1:] + table[:-1]) / 2, right=True)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(x))])
        total, first = (s[edges[1:]] - s[edges[:-1]] for s in sums)
        table = torch.where(total > 0, first / total.clamp_min(1e-300), table)
    return table.sort().values
