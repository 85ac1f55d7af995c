"""Rounding weight matrices to a codebook: error feedback (LDLQ, equal to GPTQ in blocks) and what may follow it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vq.codebooks import Codebook
from vq.compressors.layers.header import header_for
from vq.compressors.layers.tables import has_free_tables
from vq.compressors.rounding.columns import Columns
from vq.compressors.rounding.feedback import block_ldl, from_tiles
from vq.compressors.rounding.group import Group
from vq.compressors.rounding.low_rank import LowRank
from vq.compressors.rounding.matrix import Frame, Matrix, signs_of
from vq.compressors.rounding.options import METHODS, ROTATIONS, RoundingOptions
from vq.compressors.rounding.outliers import Outliers
from vq.compressors.rounding.rotation import hadamard, random_signs
from vq.compressors.rounding.scales import spread_scales
from vq.compressors.rounding.tables import OwnTables

__all__ = [
    "METHODS",
    "ROTATIONS",
    "RoundedMatrix",
    "RoundingOptions",
    "block_ldl",
    "restore",
    "round_matrices",
]


@dataclass(frozen=True, eq=False)
class RoundedMatrix:
    """One matrix after rounding.

    Attributes:
        codes: ``(row tiles, column tiles, *codes_shape)``.
        scales: float16 ``(out,)``, or ``(out, groups of columns)``.
        signs_in: float32 ``(in,)`` of +1 and -1; all +1 without rotation.
        signs_out: the same for outputs, or None without a rotation there.
        rotated: whether the input side is rotated.
        proxy_error: ``tr(E H Eᵀ) / tr(W H Wᵀ)`` with ``E`` the error.
        damping: the damping that was needed.
        seconds: time spent, shared equally by the matrices of a group.
        outliers: the sparse part, or None.
        low_rank: the low-rank part, or None.
        tables: float16 ``(groups of rows, codes of a vector, entries, dim)`` in place of the codebook's, or None.
        columns: second codes of some columns, or None.
        group: columns that share a scale; 0 for all.
    """

    codes: Tensor
    scales: Tensor
    signs_in: Tensor
    signs_out: Tensor | None
    rotated: bool
    proxy_error: float
    damping: float
    seconds: float
    outliers: Outliers | None = None
    low_rank: LowRank | None = None
    tables: Tensor | None = None
    columns: Columns | None = None
    group: int = 0

    def sides(self) -> dict[str, Tensor]:
        """What stands beside the codes, as a layer stores it."""
        found: dict[str, Tensor] = {}
        if self.outliers is not None:
            found["outlier_counts"] = self.outliers.counts
            found["outlier_columns"] = self.outliers.columns
            found["outlier_values"] = self.outliers.values
        if self.low_rank is not None:
            found["low_rank_left"] = self.low_rank.left
            found["low_rank_right"] = self.low_rank.right
        if self.tables is not None:
            found["tables"] = self.tables
        if self.columns is not None:
            found["column_index"] = self.columns.index
            found["column_codes"] = self.columns.codes
            found["column_scales"] = self.columns.scales
            found["column_table"] = self.columns.table
        return found


def round_matrices(
    weights: dict[str, Tensor],
    hessian: Tensor | None,
    codebook: Codebook,
    options: RoundingOptions | None = None,
    seed: int = 0,
) -> dict[str, RoundedMatrix]:
    """Round matrices that share their input.

    They share the input signs, and are rounded together as one tall matrix: rows do not influence each other.

    Args:
        weights: ``(out, in)`` by name.
        hessian: ``(in, in)``, the mean of ``x xᵀ`` over inputs; None means the identity.
        codebook: of any family; its tiles may not fit, then the matrix is padded with zeros.
        options: see RoundingOptions.
        seed: of the signs.

    Returns:
        The rounded matrices by name.

    Raises:
        ValueError: for shapes that do not fit or numbers that are not finite.

    Reference:
        A. Tseng et al., "QuIP#: even better LLM quantization with Hadamard incoherence and lattice codebooks", ICML
        2024, section 4.1 (BlockLDLQ); E. Frantar et al., "GPTQ", ICLR 2023.
    """
    options = options or RoundingOptions()
    started = time.perf_counter()
    width = _check(weights, hessian)
    _check_parts(codebook, width, options)
    generator = torch.Generator().manual_seed(seed)
    rotated = options.rotation != "none"
    signs_in = random_signs(width, generator) if rotated else torch.ones(width)
    signs_out = {n: signs_of(len(w), generator, options.rotation) for n, w in weights.items()}
    frame = Frame.make(hessian, width, rotated, signs_in)
    matrices = {n: Matrix(w.float(), frame, signs_out[n]) for n, w in weights.items()}
    group = Group(list(matrices.values()), frame, codebook, options, seed)
    group.choose()
    found: dict[str, RoundedMatrix] = {}
    for _ in range(1 if options.low_rank is None else options.low_rank.rounds):
        group.round()
        for name, m in matrices.items():
            if options.low_rank is not None and group.damped is not None:
                m.fit_low_rank(options.low_rank.rank, group.damped)
            error = m.proxy_error()
            if name not in found or error < found[name].proxy_error:
                found[name] = _result(m, error, group.damping)
    seconds = (time.perf_counter() - started) / len(weights)
    return {name: replace(matrix, seconds=seconds) for name, matrix in found.items()}


def _result(m: Matrix, error: float, damping: float) -> RoundedMatrix:
    return RoundedMatrix(
        codes=m.codes.clone(),
        scales=m.scales,
        signs_in=m.frame.signs_in,
        signs_out=m.signs_out,
        rotated=m.frame.rotated,
        proxy_error=error,
        damping=damping,
        seconds=0.0,
        outliers=m.outliers,
        low_rank=m.low_rank,
        tables=m.tables,
        columns=m.columns,
        group=m.group,
    )


def restore(matrix: RoundedMatrix, codebook: Codebook, shape: tuple[int, int]) -> Tensor:
    """The dense matrix ``(out, in)`` float32 that a rounded matrix stands for, in the original basis."""
    if matrix.tables is None:
        values = codebook.decode(matrix.codes)
    else:
        group = torch.arange(shape[0]) // -(-shape[0] // len(matrix.tables))
        values = OwnTables(matrix.tables, group).decode(matrix.codes)
    dense = from_tiles(values, codebook.tile)[: shape[0], : shape[1]]
    if matrix.columns is not None:
        dense = dense + matrix.columns.dense(*shape)
    dense = dense * spread_scales(matrix.scales, matrix.group, shape[1])
    if matrix.signs_out is not None:
        dense = hadamard(dense.t()).t() * matrix.signs_out[:, None]
    dense = hadamard(dense) * matrix.signs_in if matrix.rotated else dense
    if matrix.outliers is not None:
        dense = dense + matrix.outliers.dense(shape[1])
    if matrix.low_rank is not None:
        dense = dense + matrix.low_rank.dense()
    return dense.contiguous()


def _check(weights: dict[str, Tensor], hessian: Tensor | None) -> int:
    widths = {w.shape[1] for w in weights.values() if w.ndim == 2}
    if len(widths) != 1 or any(w.ndim != 2 for w in weights.values()):
        shapes = {name: tuple(w.shape) for name, w in weights.items()}
        raise ValueError(f"weights: expected matrices of one width, got {shapes}")
    width = widths.pop()
    for name, w in weights.items():
        if not bool(torch.isfinite(w).all()):
            index = tuple(int(i) for i in (~torch.isfinite(w)).nonzero()[0])
            raise ValueError(f"weights: {name}{list(index)} is {float(w[index])}; expected finite")
    if hessian is not None and hessian.shape != (width, width):
        raise ValueError(
            f"hessian: expected ({width}, {width}) for these weights, got {tuple(hessian.shape)}"
        )
    if hessian is not None and not bool(torch.isfinite(hessian).all()):
        bad = (~torch.isfinite(hessian.diagonal())).nonzero()[:, 0].tolist()
        raise ValueError(
            f"hessian of {', '.join(weights)}: not finite in input channels {bad[:8]} "
            f"({len(bad)} of {width}); the activations overflowed, check the calibration text and dtype"
        )
    return width


def _check_parts(codebook: Codebook, width: int, options: RoundingOptions) -> None:
    """Raise for a codebook that cannot have what the options ask for."""
    header_for(codebook, 1, width, options.group)
    if options.tables is not None and not has_free_tables(codebook):
        raise ValueError(
            f"tables: {codebook.spec} has no table that could be learned for each matrix; use "
            "kmeans(dim=1, entries=4) for scalars, kmeans(dim=..., entries=...) or additive(...)"
        )
