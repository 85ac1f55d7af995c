"""Outliers: single weights that are kept beside the codes, in a sparse part.

Dense and sparse: T. Dettmers et al., "SpQR: a sparse-quantized representation for near-lossless LLM weight
compression", ICLR 2024, section 4 (sensitivity through the inverse Hessian); S. Kim et al., "SqueezeLLM:
dense-and-sparse quantization", ICML 2024, section 4.2 (magnitude and sensitivity).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vq.compressors.layers.sides import index_dtype
from vq.compressors.rounding.feedback import Book, encode_around, from_tiles, takes_weight
from vq.kernels.sparse import sparse_dense

_GRAM = 1 << 24  # numbers in the systems that are solved at once
_PASSES = 3  # in which sensitive weights are chosen


@dataclass(frozen=True, eq=False)
class Outliers:
    """A sparse matrix by rows, as it is stored.

    Attributes:
        counts: ``(out,)`` numbers of each row.
        columns: ``(n,)`` ascending within a row.
        values: float16 ``(n,)``, what is added to the decoded matrix.
    """

    counts: Tensor
    columns: Tensor
    values: Tensor

    def dense(self, width: int) -> Tensor:
        """Float32 ``(out, width)``."""
        return sparse_dense(self.counts, self.columns, self.values, width)


def most_sensitive(cost: Tensor, share: float) -> Tensor:
    """Positions, bool like cost ``(out, in)``, of the given share of the largest costs."""
    count = round(share * cost.numel())
    chosen = torch.zeros(cost.numel(), dtype=torch.bool)
    if count:
        chosen[cost.flatten().topk(count).indices] = True
    return chosen.reshape(cost.shape)


def sensitivity(weight: Tensor, free: Tensor, book: Book, rms: Tensor, kept: Tensor) -> Tensor:
    """What rounding each weight to nearest costs when all others may answer: ``e² / [H⁻¹]_jj``, twice that of SpQR.

    Args:
        weight: ``(out, in)``.
        free: ``(in,)``, see ``freedom``.
        book: that the weights are rounded to.
        rms: ``(out,)``, scale of each row.
        kept: bool like weight: is kept already, costs nothing, and does not count where a vector is chosen.
    """
    pad = (0, -weight.shape[1] % book.tile[1], 0, -weight.shape[0] % book.tile[0])
    units, aside = (torch.nn.functional.pad(x, pad) for x in (weight / rms[:, None], kept))
    codes = encode_around(book, units, aside, takes_weight(book))
    decoded = from_tiles(book.decode(codes), book.tile)[: weight.shape[0], : weight.shape[1]]
    error = (weight - decoded * rms[:, None]).masked_fill(kept, 0)
    return error.square() * free


def sensitivity_rotated(weight: Tensor, free: Tensor, spread: float) -> Tensor:
    """The same where rounding errors are spread over a row by a rotation, up to a factor.

    Keeping a weight takes its energy out of the row that is rounded, and sets right the error that falls on its place.

    Args:
        weight: ``(out, in)``.
        free: ``(in,)``, see ``freedom``.
        spread: mean conditional variance that is left to a column.
    """
    rms = weight.square().mean(1, keepdim=True)
    return weight.square() * spread + rms * free


def freedom(metric: Tensor) -> tuple[Tensor, float]:
    """``1 / [H⁻¹]_jj`` of each column, what an error costs there if all others may answer; the mean cost in LDLQ.

    In LDLQ only the columns that are rounded later answer: the squared diagonal of the Cholesky factor.
    """
    factor = torch.linalg.cholesky(metric)
    inverse = torch.cholesky_inverse(factor).diagonal()
    return 1 / inverse.clamp_min(1e-30), float(factor.diagonal().square().mean())


def choose_outliers(
    weight: Tensor,
    freed: tuple[Tensor, float],
    book: Book,
    share: float,
    by: str,
    rotated: bool,
) -> Tensor:
    """Positions of the weights that are kept, bool ``(out, in)``; their number depends on the shape alone.

    Args:
        weight: ``(out, in)``.
        freed: of ``freedom``.
        book: that all others are rounded to.
        share: of the weights.
        by: ``sensitivity`` or ``magnitude``.
        rotated: whether the matrix is rounded in another basis.
    """
    if by == "magnitude":
        return most_sensitive(weight.abs(), share)
    if rotated:
        return most_sensitive(sensitivity_rotated(weight, *freed), share)
    kept = torch.zeros(weight.shape, dtype=torch.bool)
    for part in range(
        1, _PASSES + 1
    ):  # what is kept changes the scale of its row and the vector around it
        cost = sensitivity(weight, freed[0], book, rms_without(weight, kept), kept)
        cost = cost.masked_fill(kept, float("inf"))
        kept = most_sensitive(cost, share * part / _PASSES)
    return kept


def rms_without(weight: Tensor, kept: Tensor | None) -> Tensor:
    """Root mean square of each row's other weights; 1 where that is 0."""
    if kept is None:
        rms = weight.square().mean(1).sqrt()
    else:
        rest = (~kept).sum(1).clamp_min(1)
        rms = (weight.square().masked_fill(kept, 0).sum(1) / rest).sqrt()
    return torch.where(rms > 0, rms, torch.ones_like(rms))


def fit_outliers(error: Tensor, metric: Tensor, kept: Tensor) -> Outliers:
    """Values at given positions that minimise ``tr((E - S) H (E - S)ᵀ)``: a small system for each row.

    Args:
        error: E ``(out, in)``, what the rest of the layer leaves of the matrix.
        metric: damped H; the identity copies E.
        kept: bool like error.
    """
    width = error.shape[1]
    counts = kept.sum(1)
    right = error @ metric
    found = torch.zeros_like(error)
    rows = counts.argsort(descending=True, stable=True)
    first = 0
    while first < len(rows) and int(counts[rows[first]]):
        most = int(counts[rows[first]])
        some = rows[first : first + max(1, _GRAM // most**2)]
        found[some] = _solve(right[some], metric, kept[some], most)
        first += len(some)
    small = index_dtype(width)
    return Outliers(
        counts=counts.to(small),
        columns=kept.nonzero()[:, 1].to(small),
        values=found[kept].clamp(-65504, 65504).to(torch.float16),
    )


def _solve(right: Tensor, metric: Tensor, kept: Tensor, most: int) -> Tensor:
    """``H_kk s_k = right_k`` for the columns k of each row; zero elsewhere."""
    order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    real = kept.gather(1, order)
    gram = metric[order[:, :, None], order[:, None, :]]
    both = real[:, :, None] & real[:, None, :]
    gram = torch.where(both, gram, torch.eye(most).expand_as(gram))
    wanted = right.gather(1, order) * real
    solved = torch.cholesky_solve(wanted[..., None], torch.linalg.cholesky(gram))[..., 0]
    return torch.zeros_like(right).scatter_(1, order, solved * real)
