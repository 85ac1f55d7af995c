"""Tables that are a learned affine map of frozen rows."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks.base import Codebook, check_vectors
from vq.kernels.search import nearest

_ROWS = 4096  # rows that are mapped at a time


class Reparametrised(Codebook):
    """``table = basis @ map + offset`` with a frozen basis ``(entries, basis_dim)``.

    The gradient of one chosen row moves all rows through the map, so rows that are not chosen do not die. It reaches
    ``map`` and ``offset`` through ``gathered``, from the frozen rows of the codes alone: nothing of size
    entries x entries, and no one-hot array, is ever made.

    Attributes:
        map: parameter ``(basis_dim, dim)``.
        offset: parameter ``(dim,)``.
        iterations: of ``fit``.
    """

    def __init__(self, basis_dim: int, dim: int, iterations: int) -> None:
        super().__init__()
        self._dim, self.iterations = dim, iterations
        self.map = nn.Parameter(torch.eye(basis_dim, dim))
        self.offset = nn.Parameter(torch.zeros(dim))

    @abc.abstractmethod
    def basis_rows(self) -> Tensor:
        """The frozen rows, ``(entries, basis_dim)`` float32."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def code_bits(self) -> int:
        """Bits of an index: ``ceil(log2(entries))``."""
        assert self.entries is not None
        return (self.entries - 1).bit_length()

    @property
    def table(self) -> Tensor:
        """All vectors ``(entries, dim)`` float32, without a gradient.

        A row is only ever computed with all others, in the same parts, so that it has the same bits every time.
        """
        with torch.no_grad(), torch.autocast(self.map.device.type, enabled=False):
            basis = self.basis_rows()
            table = torch.empty(len(basis), self._dim, device=basis.device)
            for part, out in zip(basis.split(_ROWS), table.split(_ROWS), strict=True):
                torch.addmm(self.offset, part, self.map, out=out)
            return table

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Index ``(*batch,)`` int32 of the nearest row under ``Σ_d weight_d (x_d - c_d)²``; the lowest among equals.

        Raises:
            ValueError: for wrong shapes, numbers that are not finite, or before ``fit``.
        """
        self._check_vectors(x, weight)
        if weight is not None:
            weight = weight.expand(x.shape).reshape(-1, self._dim)
        codes = nearest(x.detach().reshape(-1, self._dim), self.table, weight)
        return codes.reshape(x.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Rows ``(*batch, dim)`` of the table, without a gradient."""
        return self.table[codes.long()]

    def gathered(self, codes: Tensor, table: Tensor | None = None) -> Tensor:
        """The same bits as ``decode``, differentiable in ``map`` and ``offset``.

        Args:
            codes: ``(*batch,)``.
            table: ``self.table``, where it is at hand already.
        """
        table = self.table if table is None else table
        found: Tensor = _Gather.apply(self.map, self.offset, table, self.basis_rows(), codes)
        return found

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Reparametrised:
        """Alternate: nearest rows for x ``(n, dim)``, then the least-squares map for these rows.

        Raises:
            ValueError: for no vectors, wrong shapes, or numbers that are not finite.
        """
        check_vectors(x, self._dim, str(self.spec))
        if x.ndim != 2 or not len(x):
            raise ValueError(
                f"{self.spec}: expected vectors (n, {self._dim}), got {tuple(x.shape)}"
            )
        x = x.detach().float()
        full = None if weight is None else weight.float().expand(x.shape)
        basis = self.basis_rows()
        self._set(*self._start(x, basis))
        for _ in range(self.iterations):
            codes = nearest(x, self.table, full).long()
            self._set(*solve_map(x, codes, basis, full, self.map.detach(), self.offset.detach()))
        return self

    def _start(self, x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
        """Map and offset that ``fit`` starts from."""
        return match_moments(x, basis)

    def _set(self, matrix: Tensor, offset: Tensor) -> None:
        with torch.no_grad():
            self.map.copy_(matrix)
            self.offset.copy_(offset)


class _Gather(torch.autograd.Function):
    """Rows of the table, with the gradient of ``basis[codes] @ map + offset``."""

    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, offset: Tensor, table: Tensor, basis: Tensor, codes: Tensor
    ) -> Tensor:
        ctx.save_for_backward(basis, codes)
        return table[codes.long()]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        basis, codes = ctx.saved_tensors
        flat, index = grads[0].reshape(-1, grads[0].shape[-1]), codes.reshape(-1).long()
        if len(basis) < len(flat):  # a sum for each row, then the smaller product
            flat = flat.new_zeros(len(basis), flat.shape[1]).index_add_(0, index, flat)
            rows = basis
        else:
            rows = basis.index_select(0, index)
        return rows.to(flat.dtype).t() @ flat, flat.sum(0), None, None, None


def match_moments(x: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Map and offset that give the rows mean and covariance of x, as far as their rank allows."""
    mean = x.double().mean(0)
    low, high = _axes(basis.double()), _axes(x.double())
    rank = min(basis.shape[1], x.shape[1])
    (spread_in, axes_in), (spread_out, axes_out) = low, high
    gain = spread_out[:rank] / spread_in[:rank].clamp_min(1e-12)
    matrix = axes_in[:, :rank] * gain @ axes_out[:, :rank].t()
    return matrix.float(), (mean - basis.double().mean(0) @ matrix).float()


def _axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations along the principal axes, falling, and the axes as columns."""
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.t() @ centred / len(x))
    return values.clamp_min(0).sqrt().flip(0), vectors.flip(1)


def solve_map(
    x: Tensor,
    codes: Tensor,
    basis: Tensor,
    weight: Tensor | None,
    matrix: Tensor,
    offset: Tensor,
) -> tuple[Tensor, Tensor]:
    """Map and offset that minimise ``Σ weight (x - basis[codes] @ map - offset)²``; a little ridge towards the old.

    Only sums over the points of each row enter, ``(entries, dim)``, in float64.
    """
    entries = len(basis)
    rows = torch.cat([basis.double(), basis.new_ones(entries, 1, dtype=torch.float64)], dim=1)
    old = torch.cat([matrix, offset[None]]).double()
    mass_of = torch.ones_like(x[:, :1]) if weight is None else weight
    mass = rows.new_zeros(entries, mass_of.shape[1]).index_add_(0, codes, mass_of.double())
    total = rows.new_zeros(entries, x.shape[1]).index_add_(0, codes, (mass_of * x).double())
    right = rows.t() @ total
    ridge = 1e-6 * mass.sum(0).clamp_min(1e-30) / rows.shape[1] * rows.square().mean()
    columns = []
    for d in range(mass.shape[1]):
        here = slice(None) if weight is None else slice(d, d + 1)
        damped = rows.t() @ (mass[:, d : d + 1] * rows) + ridge[d] * torch.eye(
            rows.shape[1], dtype=torch.float64, device=x.device
        )
        columns.append(torch.linalg.solve(damped, right[:, here] + ridge[d] * old[:, here]))
    solved = torch.cat(columns, dim=1).float()
    return solved[:-1], solved[-1]
