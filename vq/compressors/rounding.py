"""Rounding weight matrices to a codebook with error feedback (LDLQ, equal to GPTQ in blocks)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from vq.codebooks import Codebook
from vq.compressors.rotation import hadamard, random_signs

METHODS = ("ldlq", "nearest")
ROTATIONS = ("input", "both", "none")
_SUPERBLOCK = 128  # columns whose feedback is gathered before one large product


@dataclass(frozen=True)
class RoundingOptions:
    """How a matrix is rounded.

    Attributes:
        method: ``ldlq`` (error feedback through the Hessian) or ``nearest``.
        rotation: ``input``, ``both`` sides, or ``none``.
        damping: part of the Hessian's mean diagonal that is added to its diagonal.
        scale: root mean square of a row in units of the codebook before rounding; scales are refitted after it.
    """

    method: str = "ldlq"
    rotation: str = "input"
    damping: float = 0.01
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("rotation", self.rotation, ROTATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        for name, number in (("damping", self.damping), ("scale", self.scale)):
            if not 0 < number < float("inf"):
                raise ValueError(f"{name}: expected a positive number, got {number!r}")


@dataclass(frozen=True, eq=False)
class RoundedMatrix:
    """One matrix after rounding.

    Attributes:
        codes: ``(row tiles, column tiles, *codes_shape)``.
        scales: float16 ``(out,)``.
        signs_in: float32 ``(in,)`` of +1 and -1; all +1 without rotation.
        signs_out: the same for outputs, or None without a rotation there.
        rotated: whether the input side is rotated.
        proxy_error: ``tr(E H Eᵀ) / tr(W H Wᵀ)`` with ``E`` the error.
        damping: the damping that was needed.
        seconds: time spent, shared equally by the matrices of a group.
    """

    codes: Tensor
    scales: Tensor
    signs_in: Tensor
    signs_out: Tensor | None
    rotated: bool
    proxy_error: float
    damping: float
    seconds: float


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
    generator = torch.Generator().manual_seed(seed)
    rotate_in = options.rotation != "none"
    signs_in = random_signs(width, generator) if rotate_in else torch.ones(width)
    signs_out = {
        name: random_signs(w.shape[0], generator) if options.rotation == "both" else None
        for name, w in weights.items()
    }
    turned = {name: _turn(w, signs_in, signs_out[name], rotate_in) for name, w in weights.items()}
    metric = torch.eye(width) if hessian is None else hessian.float()
    if rotate_in:
        metric = hadamard(hadamard(metric * signs_in[:, None] * signs_in).t()).t().contiguous()
    tiles = [_to_units(w, codebook.tile, options.scale) for w in turned.values()]
    tall = torch.cat([x for x, _ in tiles])
    codes, values, damping = _round(tall, metric, codebook, options)

    results = {}
    first = 0
    for (name, w), (x, scale) in zip(turned.items(), tiles, strict=True):
        rows = slice(first // codebook.tile[0], (first + len(x)) // codebook.tile[0])
        q = values[first : first + w.shape[0], :width]
        first += len(x)
        scales = _refit(w, q, metric, scale[: w.shape[0]])
        error = w - q * scales.float()[:, None]
        results[name] = RoundedMatrix(
            codes=codes[rows].clone(),
            scales=scales,
            signs_in=signs_in,
            signs_out=signs_out[name],
            rotated=rotate_in,
            proxy_error=_energy(error, metric) / max(_energy(w, metric), 1e-30),
            damping=damping,
            seconds=(time.perf_counter() - started) / len(weights),
        )
    return results


def restore(matrix: RoundedMatrix, codebook: Codebook, shape: tuple[int, int]) -> Tensor:
    """The dense matrix ``(out, in)`` float32 that a rounded matrix stands for, in the original basis."""
    rows, columns = codebook.tile
    values = codebook.decode(matrix.codes)
    dense = _untile(values, (rows, columns))[: shape[0], : shape[1]]
    dense = dense * matrix.scales.float()[:, None]
    if matrix.signs_out is not None:
        dense = hadamard(dense.t()).t() * matrix.signs_out[:, None]
    return (hadamard(dense) * matrix.signs_in if matrix.rotated else dense).contiguous()


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


def _turn(weight: Tensor, signs_in: Tensor, signs_out: Tensor | None, rotate: bool) -> Tensor:
    """The matrix in the rotated basis."""
    turned = hadamard(weight.float() * signs_in) if rotate else weight.float()
    if signs_out is not None:
        turned = hadamard((turned * signs_out[:, None]).t()).t()
    return turned


def _to_units(weight: Tensor, tile: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """Rows divided to the wanted root mean square and padded to whole tiles; the divisors."""
    rms = weight.square().mean(1).sqrt() / scale
    rms = torch.where(rms > 0, rms, torch.ones_like(rms))
    rows, columns = (-weight.shape[0] % tile[0], -weight.shape[1] % tile[1])
    return torch.nn.functional.pad(weight / rms[:, None], (0, columns, 0, rows)), rms


def _tile(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """``(rows, columns)`` -> ``(row tiles, column tiles, dim)``."""
    rows, columns = x.shape[0] // tile[0], x.shape[1] // tile[1]
    parts = x.reshape(rows, tile[0], columns, tile[1]).permute(0, 2, 1, 3)
    return parts.reshape(rows, columns, tile[0] * tile[1])


def _untile(x: Tensor, tile: tuple[int, int]) -> Tensor:
    """Inverse of ``_tile``."""
    rows, columns, _ = x.shape
    parts = x.reshape(rows, columns, *tile).permute(0, 2, 1, 3)
    return parts.reshape(rows * tile[0], columns * tile[1])


def _round(
    x: Tensor, metric: Tensor, codebook: Codebook, options: RoundingOptions
) -> tuple[Tensor, Tensor, float]:
    """Codes, values and damping of a tall matrix in units of the codebook."""
    if options.method == "nearest":
        codes = codebook.encode(_tile(x, codebook.tile))
        return codes, _untile(codebook.decode(codes), codebook.tile), 0.0
    width = metric.shape[0]
    padded = torch.eye(x.shape[1]) * metric.diagonal().mean()
    padded[:width, :width] = metric
    feedback, damping = block_ldl(padded, codebook.tile[1], options.damping)
    codes, values = _feedback_rounding(x, feedback, codebook)
    return codes, values, damping


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
    mean = metric.diagonal().mean().clamp_min(1e-20)
    base, used = metric / mean, damping
    while used <= 1000:
        factor, info = torch.linalg.cholesky_ex(base + used * torch.eye(n))
        if int(info) == 0 and bool(torch.isfinite(factor).all()):
            break
        used *= 10
    else:
        raise ValueError("the Hessian is not positive semidefinite; even damping 1000 did not help")
    columns = factor.reshape(n, n // block, block).permute(1, 0, 2)
    index = torch.arange(n // block)
    diagonal = factor.reshape(n // block, block, n // block, block)[index, :, index, :]
    unit = torch.linalg.solve_triangular(diagonal, columns, upper=False, left=False)
    return unit.permute(1, 0, 2).reshape(n, n), used


def _feedback_rounding(x: Tensor, feedback: Tensor, codebook: Codebook) -> tuple[Tensor, Tensor]:
    """Round block columns from last to first, each against its value plus the fed-back error of later ones."""
    rows, block = codebook.tile
    n = x.shape[1]
    error = torch.zeros_like(x)
    values = torch.zeros_like(x)
    codes: list[Tensor] = []
    step = max(block, _SUPERBLOCK // block * block)
    for stop in range(n, 0, -step):
        start = max(0, stop - step)
        target = x[:, start:stop] + error[:, stop:] @ feedback[stop:, start:stop]
        for j in range(stop - block, start - 1, -block):
            here, later = slice(j, j + block), slice(j + block, stop)
            wanted = target[:, j - start : j - start + block]
            wanted = wanted + error[:, later] @ feedback[later, here]
            code = codebook.encode(_tile(wanted, (rows, block)))
            values[:, here] = _untile(codebook.decode(code), (rows, block))
            error[:, here] = x[:, here] - values[:, here]
            codes.append(code)
    return torch.cat(codes[::-1], dim=1), values


def _refit(weight: Tensor, values: Tensor, metric: Tensor, scale: Tensor) -> Tensor:
    """Row scales that minimise the error under the metric, float16; the old one where that is not positive."""
    image = values @ metric
    best = (weight * image).sum(1) / (values * image).sum(1).clamp_min(1e-30)
    best = torch.where((best > 0) & torch.isfinite(best), best, scale)
    return best.clamp(2.0**-24, 65504.0).to(torch.float16)


def _energy(x: Tensor, metric: Tensor) -> float:
    return float(((x @ metric) * x).sum().double())
