"""Rounding columns with error feedback: the block LDL decomposition and the pass over the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vq.compressors.rounding.scales import GroupScales

SUPERBLOCK = 128  # columns whose feedback is gathered before one large product


class Book(Protocol):
    """What rounding needs of a codebook."""

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns that a vector covers."""

    def encode(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Codes ``(row tiles, column tiles, *codes_shape)`` of ``(row tiles, column tiles, dim)``."""

    def decode(self, codes: Tensor) -> Any:
        """The inverse."""


def to_tiles(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """``(rows, columns)`` -> ``(row tiles, column tiles, dim)``."""
    rows, columns = x.shape[0] // tile[0], x.shape[1] // tile[1]
    parts = x.reshape(rows, tile[0], columns, tile[1]).permute(0, 2, 1, 3)
    return parts.reshape(rows, columns, tile[0] * tile[1])


def from_tiles(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """Inverse of ``to_tiles``."""
    rows, columns, _ = x.shape
    parts = x.reshape(rows, columns, *tile).permute(0, 2, 1, 3)
    return parts.reshape(rows * tile[0], columns * tile[1])


def block_ldl(metric: Tensor, block: int, damping: float) -> tuple[Tensor, float]:
    """Feedback matrix of a block LDL decomposition.

    ``H + damping · mean(diag H) · I = L Lᵀ``; each block column of L is multiplied from the right by the inverse of its
    diagonal block. Where the decomposition fails, damping grows tenfold until it holds.

    Args:
        metric: ``(n, n)`` symmetric, n a multiple of block.
        block: columns rounded at a time.
        damping: of the first try.

    Returns:
        Lower block-triangular ``(n, n)`` with identities on the diagonal, and the damping that was used.

    Raises:
        ValueError: if no damping up to 1000 helps (the matrix is not a Hessian).
    """
    n = metric.shape[0]
    factor, used = damp(metric, damping)[1:]
    columns = factor.reshape(n, n // block, block).permute(1, 0, 2)
    index = torch.arange(n // block)
    diagonal = factor.reshape(n // block, block, n // block, block)[index, :, index, :]
    unit = torch.linalg.solve_triangular(diagonal, columns, upper=False, left=False)
    return unit.permute(1, 0, 2).reshape(n, n), used


def damp(metric: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """A Hessian over its mean diagonal, with damping that grows tenfold until there is a Cholesky factor.

    Returns:
        ``H / mean(diag H) + damping · I``, its lower factor, and the damping that was used.

    Raises:
        ValueError: if no damping up to 1000 helps (the matrix is not a Hessian).
    """
    mean, used = metric.diagonal().mean().clamp_min(1e-20), damping
    while used <= 1000:
        damped = metric / mean
        damped.diagonal().add_(used)
        factor, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0 and bool(torch.isfinite(factor.diagonal()).all()):
            return damped, factor, used
        used *= 10
    raise ValueError("the Hessian is not positive semidefinite; even damping 1000 did not help")


def feedback_rounding(
    x: Tensor,
    feedback: Tensor,
    book: Book,
    kept: Tensor | None = None,
    exact: Tensor | None = None,
    scales: GroupScales | None = None,
) -> tuple[Tensor, Tensor]:
    """Round block columns from last to first, each against its value plus the fed-back error of later ones.

    Args:
        x: ``(rows, columns)`` in units of the codebook, or of what ``scales`` leads to; whole tiles.
        feedback: of ``block_ldl``.
        book: with the tile.
        kept: bool like x, weights that are kept beside the codes: what they should be, they are.
        exact: bool ``(columns,)``, columns that are rounded like others, but leave no error, for what is missing is
            put in later.
        scales: units of the codebook where they are those of groups of columns.

    Returns:
        Codes ``(row tiles, column tiles, *codes_shape)`` and the values they stand for, like x but in units of the
        codebook.
    """
    rows, block = book.tile
    n = x.shape[1]
    error = torch.zeros_like(x)
    values = torch.zeros_like(x)
    codes: list[Tensor] = []
    weighted = kept is not None and takes_weight(book)
    step = max(block, SUPERBLOCK // block * block)
    for stop in range(n, 0, -step):
        start = max(0, stop - step)
        target = x[:, start:stop] + error[:, stop:] @ feedback[stop:, start:stop]
        for j in range(stop - block, start - 1, -block):
            here, later = slice(j, j + block), slice(j + block, stop)
            wanted = target[:, j - start : j - start + block]
            wanted = wanted + error[:, later] @ feedback[later, here]
            own = None if kept is None else kept[:, here]
            unit = None if scales is None else scales.at(j)
            units = wanted if unit is None else wanted / unit
            code = encode_around(book, units, own, weighted)
            values[:, here] = from_tiles(book.decode(code), (rows, block))
            reached = values[:, here] if unit is None else values[:, here] * unit
            reached = reached if own is None else torch.where(own, wanted, reached)
            if exact is not None:
                reached = torch.where(exact[here], wanted, reached)
            error[:, here] = x[:, here] - reached
            codes.append(code)
    return torch.cat(codes[::-1], dim=1), values


def takes_weight(book: Book) -> bool:
    """Whether a codebook's search takes weights of coordinates."""
    size = book.tile[0] * book.tile[1]
    if size == 1 or book.tile[0] > 1:
        return False
    try:
        book.encode(torch.zeros(1, 1, size), torch.ones(1, 1, size))
    except (ValueError, TypeError, NotImplementedError):
        return False
    return True


def encode_around(book: Book, wanted: Tensor, kept: Tensor | None, weighted: bool) -> Tensor:
    """Codes of a matrix in whole tiles; kept coordinates do not count, where the search can leave them out.

    Args:
        book: to round to.
        wanted: ``(rows, columns)``.
        kept: bool like wanted, or None.
        weighted: whether the search takes weights, see ``takes_weight``.
    """
    tiles = to_tiles(wanted, book.tile)
    if kept is None or tiles.shape[-1] == 1 or not bool(kept.any()):
        return book.encode(tiles)
    out = to_tiles(kept, book.tile)
    tiles = torch.where(out, torch.zeros_like(tiles), tiles)  # an outlier is far from every entry
    codes = book.encode(tiles)
    if not weighted:
        return codes
    some = out.any(-1)
    some = some.reshape(*some.shape, *[1] * (codes.ndim - 2))
    return torch.where(some, book.encode(tiles, (~out).float()), codes)
