"""Scales of rows, or of groups of columns in each row: the first ones, and the best ones for given codes.

Groups of columns: E. Frantar et al., "GPTQ: accurate post-training quantization for generative pre-trained
transformers", ICLR 2023, section 5 (group size); the joint least squares for their scales is that of one scale a row,
with a normal matrix for each row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vq.compressors.rounding.outliers import rms_without

# factors of a group's root mean square that are tried: few weights have another spread than a row's, and where nothing
# is rotated a heavy tail pays for large ones
FACTORS = (1.0, 0.7, 0.78, 0.86, 0.93, 1.07, 1.15, 1.25, 1.37, 1.5, 1.7, 2.0, 2.4, 2.9)
_GRAM = 1 << 24  # numbers in the systems that are solved at once
_RIDGE = 1e-6  # part of a system's mean diagonal that is added: a group of zeros has no equation
_SMALLEST, _LARGEST = 2.0**-24, 65504.0  # positive numbers of float16


@dataclass(frozen=True, eq=False)
class GroupScales:
    """Scales of groups of columns.

    Attributes:
        scales: float32 ``(rows, groups)``.
        group: columns of a group; the last one may have fewer.
    """

    scales: Tensor
    group: int

    def at(self, column: int) -> Tensor:
        """Scales of one column, ``(rows, 1)``."""
        place = column // self.group
        return self.scales[:, place : place + 1]

    def spread(self, width: int) -> Tensor:
        """Scales of the first columns, ``(rows, width)``."""
        return spread_scales(self.scales, self.group, width)


def spread_scales(scales: Tensor, group: int, width: int) -> Tensor:
    """Float32 factors of a matrix: ``(rows, 1)`` of scales a row, ``(rows, width)`` of scales a group."""
    if scales.ndim == 1:
        return scales.float()[:, None]
    return scales.float().repeat_interleave(group, 1)[:, :width]


def first_scales(weight: Tensor, aside: Tensor | None, group: int) -> Tensor:
    """Root mean squares: ``(rows,)``, or with a group ``(rows, groups)``; 1 where that is 0.

    Args:
        weight: ``(rows, columns)``.
        aside: bool like weight, what does not count; None for nothing.
        group: columns that share a scale; 0 for all.
    """
    if not group:
        return rms_without(weight, aside)
    masks = [None] * weight.shape[1] if aside is None else aside.split(group, 1)
    pieces = zip(weight.split(group, 1), masks, strict=False)
    return torch.stack([rms_without(piece, mask) for piece, mask in pieces], 1)


def search_scales(
    weight: Tensor,
    aside: Tensor | None,
    start: GroupScales,
    importance: Tensor,
    nearest: Callable[[Tensor], Tensor],
) -> Tensor:
    """The scales, each one of ``FACTORS`` times the first one, with the least squared error of nearest rounding.

    Args:
        weight: ``(rows, columns)``.
        aside: bool like weight, what does not count; None for nothing.
        start: the first scales.
        importance: ``(columns,)`` of an error.
        nearest: values of the nearest codes, in units.
    """
    best, chosen = None, start.scales
    for factor in FACTORS:
        tried = GroupScales(start.scales * factor, start.group)
        spread = tried.spread(weight.shape[1])
        error = (weight - nearest(weight / spread) * spread).square() * importance
        if aside is not None:
            error = error.masked_fill(aside, 0)
        loss = torch.stack([part.sum(1) for part in error.split(start.group, 1)], 1)
        better = torch.ones_like(loss, dtype=torch.bool) if best is None else loss < best
        chosen = torch.where(better, tried.scales, chosen)
        best = loss if best is None else torch.where(better, loss, best)
    return chosen


def refit(weight: Tensor, values: Tensor, metric: Tensor, scale: Tensor) -> Tensor:
    """Row scales that minimise the error under the metric, float16; the old one where that is not positive."""
    image = values @ metric
    best = (weight * image).sum(1) / (values * image).sum(1).clamp_min(1e-30)
    best = torch.where((best > 0) & torch.isfinite(best), best, scale.float())
    return _half(best)


def refit_groups(weight: Tensor, values: Tensor, metric: Tensor, start: GroupScales) -> Tensor:
    """Scales of groups that minimise ``(w - s v) H (w - s v)ᵀ`` of each row together, float16 ``(rows, groups)``.

    A row keeps its old scales where the new ones, as float16 has them, are not better; a group keeps its own where
    the new one is not positive.

    Args:
        weight: w ``(rows, columns)``.
        values: v like weight, in units.
        metric: H.
        start: the scales now.
    """
    groups = start.scales.shape[1]
    found = []
    for rows in torch.arange(len(weight)).split(max(1, _GRAM // groups**2)):
        gram, right = _systems(weight[rows], values[rows], metric, start.group)
        old = _half(start.scales[rows])
        ridge = gram.diagonal(dim1=1, dim2=2).mean(1) * _RIDGE + 1e-30
        held = gram + torch.diag_embed(ridge[:, None].expand(-1, groups))
        pull = right + ridge[:, None] * old.float()
        factor, info = torch.linalg.cholesky_ex(held)
        best = torch.cholesky_solve(pull[..., None], factor)[..., 0]
        fine = (best > 0) & torch.isfinite(best) & (info == 0)[:, None]
        best = _half(torch.where(fine, best, old.float()))
        better = _loss(gram, right, best) < _loss(gram, right, old)
        found.append(torch.where(better[:, None], best, old))
    return torch.cat(found)


def _systems(weight: Tensor, values: Tensor, metric: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Normal matrices ``(rows, groups, groups)`` and right sides ``(rows, groups)``."""

    def sums(x: Tensor) -> Tensor:
        """Over the columns of each group."""
        return torch.stack([part.sum(1) for part in x.split(group, 1)], 1)

    parts = zip(values.split(group, 1), metric.split(group, 0), strict=True)
    gram = torch.stack([sums((part @ own) * values) for part, own in parts], 1)
    return gram, sums((weight @ metric) * values)


def _loss(gram: Tensor, right: Tensor, scales: Tensor) -> Tensor:
    """Loss of each row, up to a constant."""
    s = scales.double()
    return torch.einsum("rg,rgh,rh->r", s, gram.double(), s) - 2 * (s * right.double()).sum(1)


def _half(scales: Tensor) -> Tensor:
    return scales.clamp(_SMALLEST, _LARGEST).to(torch.float16)
