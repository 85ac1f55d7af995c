"""Nearest lattice points and the search of E8P as operations."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from vq.kernels import dispatch
from vq.kernels import lattice_reference as reference
from vq.kernels.e8p_reference import e8p_search
from vq.kernels.golay import columns, hexacode

__all__ = ["LARGEST", "e8p_encode", "leech_in_ball", "nearest_e8", "nearest_leech"]

LARGEST = float(1 << 20)  # of a coordinate: beyond it float32 has no useful fraction
_E8, _LEECH, _E8P, _LEECH_BALL = 0, 1, 2, 3


def nearest_e8(x: Tensor) -> Tensor:
    """Nearest points of E8 (D8 and D8 + 1/2, least norm 2), exact to float32 arithmetic.

    Args:
        x: ``(n, 8)``, magnitudes up to ``LARGEST``.

    Returns:
        float32 ``(n, 8)``; among equally near points, the integer one.

    Raises:
        ValueError: if the shape or a magnitude is out of range.

    Reference:
        J. H. Conway, N. J. A. Sloane, "Fast quantizing and decoding algorithms for lattice quantizers and codes",
        IEEE Trans. Inf. Theory 28 (1982), section V.
    """
    points: Tensor = _E8_OP(_checked("nearest_e8", x, 8))
    return points


def nearest_leech(x: Tensor) -> Tensor:
    """Nearest points of the Leech lattice times sqrt(8) (integers, least norm 32), exact to float32 arithmetic.

    A point is ``2 g + 4 k + h`` with a Golay codeword g, ``h`` 0 or 1 and integers k whose sum has the parity of h.
    For each h and each parity of a column of the Golay code, a column of four coordinates has a cost for every
    element of GF(4), bit of its top row and parity of its k; the 64 words of the hexacode join them.

    Args:
        x: ``(n, 24)``, magnitudes up to ``LARGEST``.

    Returns:
        float32 ``(n, 24)`` of integers, coordinates in the order of ``vq.kernels.golay``.

    Raises:
        ValueError: if the shape or a magnitude is out of range.

    Reference:
        J. H. Conway, N. J. A. Sloane, "Soft decoding techniques for codes and lattices, including the Golay code
        and the Leech lattice", IEEE Trans. Inf. Theory 32 (1986); A. Vardy, Y. Be'ery, "Maximum likelihood decoding
        of the Leech lattice", IEEE Trans. Inf. Theory 39 (1993).
    """
    points: Tensor = _LEECH_OP(_checked("nearest_leech", x, 24))
    return points


def leech_in_ball(x: Tensor, wanted: Tensor, limit: float, top: int = 16) -> Tensor:
    """Points of the Leech lattice (times sqrt(8)) in a ball, from a list of points near x.

    The lattice falls into 256 kinds of points (even or odd, parity of columns, hexacode word). The nearest points to
    x of the ``top`` nearest kinds are the list; the answer is the one of squared norm up to ``limit`` nearest to
    ``wanted``.

    Args:
        x: ``(n, 24)``, where the list is made: ``wanted`` moved into the ball.
        wanted: ``(n, 24)``.
        limit: largest squared norm.
        top: length of the list, 1 to 64.

    Returns:
        float32 ``(n, 24)`` of integers; infinities in rows whose list has no point in the ball.

    Raises:
        ValueError: if a shape or a number is out of range.
    """
    if not 1 <= top <= 64 or wanted.shape != x.shape:
        raise ValueError(
            f"leech_in_ball: expected top from 1 to 64 and wanted {tuple(x.shape)}, got {top} and "
            f"{tuple(wanted.shape)}"
        )
    x, wanted = (_checked("leech_in_ball", v, 24) for v in (x, wanted))
    points: Tensor = _BALL_OP(x, wanted, limit, top)
    return points


def e8p_encode(x: Tensor, tables: Tensor) -> Tensor:
    """Codes of the nearest E8P points, exact to float32 arithmetic; see ``vq.codebooks.lattice_e8p``.

    Args:
        x: ``(n, 8)`` in units of the lattice, magnitudes up to ``LARGEST``.
        tables: uint8 ``(87 + 6561,)``: the 29 triples of coordinates that stay 1/2, then the number of each pattern.

    Returns:
        int32 ``(n,)``.

    Raises:
        ValueError: if the shape or a magnitude is out of range.
    """
    if tables.dtype != torch.uint8 or tables.shape != (87 + 6561,):
        raise ValueError(
            f"e8p_encode: expected tables uint8 (6648,), got {tables.dtype} {tuple(tables.shape)}"
        )
    codes: Tensor = _E8P_OP(_checked("e8p_encode", x, 8), tables)
    return codes


def _checked(name: str, x: Tensor, dim: int) -> Tensor:
    if x.ndim != 2 or x.shape[1] != dim or not x.is_floating_point():
        raise ValueError(
            f"{name}: expected floats of shape (n, {dim}), got {x.dtype} {tuple(x.shape)}"
        )
    if not torch.compiler.is_compiling() and x.numel() and not bool(x.abs().max() <= LARGEST):
        raise ValueError(
            f"{name}: expected magnitudes up to {LARGEST:g}, got {float(x.abs().max()):g}; scale x down"
        )
    return x.float().contiguous()


@functools.cache
def _leech_tables() -> Tensor:
    return torch.from_numpy(np.concatenate([hexacode().reshape(-1), columns().reshape(-1)]))


def _native(
    search: int,
    x: Tensor,
    out: Tensor,
    tables: Tensor | None = None,
    wanted: Tensor | None = None,
    limit: float = 0.0,
    top: int = 0,
) -> Tensor:
    module = dispatch.native()
    assert module is not None
    x, wanted = x.contiguous(), None if wanted is None else wanted.contiguous()
    points, codes = (0, out.data_ptr()) if search == _E8P else (out.data_ptr(), 0)
    more = [0 if t is None else t.data_ptr() for t in (tables, wanted)]
    module.lattice(
        search, x.data_ptr(), len(x), points, codes, *more, limit, top, dispatch.threads()
    )
    return out


def _e8_cpu(x: Tensor) -> Tensor:
    return _native(_E8, x, torch.empty(x.shape))


def _leech_cpu(x: Tensor) -> Tensor:
    return _native(_LEECH, x, torch.empty(x.shape), _leech_tables())


def _ball_cpu(x: Tensor, wanted: Tensor, limit: float, top: int) -> Tensor:
    return _native(_LEECH_BALL, x, torch.empty(x.shape), _leech_tables(), wanted, limit, top)


def _e8p_cpu(x: Tensor, tables: Tensor) -> Tensor:
    return _native(_E8P, x, torch.empty(len(x), dtype=torch.int32), tables.contiguous())


_E8_OP = dispatch.declare(
    "lattice_e8(Tensor x) -> Tensor",
    fake=lambda x: x.new_empty(x.shape),
    reference=reference.nearest_e8,
    cpu=_e8_cpu,
)
_LEECH_OP = dispatch.declare(
    "lattice_leech(Tensor x) -> Tensor",
    fake=lambda x: x.new_empty(x.shape),
    reference=reference.nearest_leech,
    cpu=_leech_cpu,
)
_BALL_OP = dispatch.declare(
    "lattice_leech_in_ball(Tensor x, Tensor wanted, float limit, int top) -> Tensor",
    fake=lambda x, wanted, limit, top: x.new_empty(x.shape),
    reference=reference.leech_in_ball,
    cpu=_ball_cpu,
)
_E8P_OP = dispatch.declare(
    "e8p_encode(Tensor x, Tensor tables) -> Tensor",
    fake=lambda x, tables: x.new_empty(x.shape[0], dtype=torch.int32),
    reference=e8p_search,
    cpu=_e8p_cpu,
)
