"""A packed linear layer in one operation: ``vq::packed_linear`` and its transpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vq.kernels import decode as oracle
from vq.kernels.dispatch import declare, library
from vq.kernels.formats import HASH_CODE, TILE_ROWS, TILES, PackedHeader, read_header
from vq.kernels.hadamard import _reference as rotate_reference

MODES = ("float", "int15", "int8")
INTEGER_ROWS = 32  # rows of x up to which the integer modes hold; more are computed in float32
PANEL_BYTES = 8 << 20  # decoded float32 weights held at once

_SIGNATURE = (
    "Tensor weight, Tensor scales, Tensor? signs_in, Tensor? signs_out, Tensor table, str mode"
)


def quantize_rows(x: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Rows of x as integers times a unit each: symmetric, round half to even.

    Args:
        x: ``(rows, n)`` float32.
        mode: ``int8`` (largest magnitude 127) or ``int15`` (16319 = 127 * 128 + 63, two int8 planes).

    Returns:
        Integers as float64 ``(rows, n)``, and units float32 ``(rows, 1)``; the unit is NaN for a row
        that holds NaN or infinity, and a row of zeros has unit 0.
    """
    top = 127.0 if mode == "int8" else 16319.0
    peak = x.abs().amax(dim=1, keepdim=True)
    usable = torch.isfinite(peak) & (peak > 1e-30)
    factor = torch.where(usable, top / peak, 0.0)
    unit = torch.where(usable, peak / top, torch.where(torch.isfinite(peak), 0.0, torch.nan))
    integers = torch.round(torch.nan_to_num(x, 0.0, 0.0, 0.0) * factor)
    return integers.double(), unit


def panels(header: PackedHeader) -> Iterator[tuple[int, int]]:
    """First row and number of rows of panels of at most PANEL_BYTES (and at least one band)."""
    bands = max(1, PANEL_BYTES // (4 * TILE_ROWS * header.in_features))
    size = bands * TILE_ROWS
    for first in range(0, header.out_features, size):
        yield first, min(size, header.out_features - first)


def integer_mode(header: PackedHeader, rows: int, mode: str) -> bool:
    """Whether this call computes in integers: hash code, few rows, an integer mode."""
    hashed = header.layout == TILES and header.code == HASH_CODE
    return hashed and mode != "float" and rows <= INTEGER_ROWS


def check(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> PackedHeader:
    """Header of the weight; raises ValueError unless everything fits it."""
    header = read_header(weight)
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    if x.shape[-1:] != (header.in_features,) or not x.is_floating_point():
        raise ValueError(
            f"x: expected floating point of shape (*batch, {header.in_features}), got {x.dtype} "
            f"of shape {tuple(x.shape)}"
        )
    if scales.shape != (header.out_features,):
        raise ValueError(
            f"scales: expected shape ({header.out_features},), got {tuple(scales.shape)}"
        )
    for name, signs, n in (
        ("signs_in", signs_in, header.in_features),
        ("signs_out", signs_out, header.out_features),
    ):
        if signs is not None and (signs.shape != ((n + 7) // 8,) or signs.dtype != torch.uint8):
            raise ValueError(
                f"{name}: expected uint8 of shape ({(n + 7) // 8},), got {signs.dtype} of shape "
                f"{tuple(signs.shape)}"
            )
    expected = _table_shape(header, table)
    if tuple(table.shape) != expected:
        raise ValueError(f"table: expected shape {expected}, got {tuple(table.shape)}")
    if header.codes_per_vector != 1 and header.layout != TILES:
        raise ValueError(
            f"packed_linear: {header.codes_per_vector} codes a vector need the codebook's own "
            "decode; use vq.compressors.linear.QuantizedLinear"
        )
    return header


def _table_shape(header: PackedHeader, table: Tensor) -> tuple[int, ...]:
    """Shape the table must have."""
    if header.layout != TILES:
        return (table.shape[0], header.dim)
    if header.code == HASH_CODE:
        if table.dtype != torch.int8:
            raise ValueError(f"table: the hash code needs 64 levels of int8, got {table.dtype}")
        return (64,)
    return (2**header.memory, header.symbols)


def _rotate(x: Tensor, first: Tensor | None, last: Tensor | None) -> Tensor:
    """Transform with the given signs; x as it is where there are none (no rotation on this side)."""
    if first is None and last is None:
        return x
    return rotate_reference(x, first, last)


def _integer_product(
    x: Tensor, weight: Tensor, header: PackedHeader, table: Tensor, mode: str
) -> Tensor:
    """``x @ W.T`` through integer activations, exactly as the compiled kernels do it."""
    integers, unit = quantize_rows(x.float(), mode)
    parts = [
        integers @ oracle.decode_integers(weight, header, table, first, rows).double().T
        for first, rows in panels(header)
    ]
    return torch.cat(parts, dim=1).float() * unit * header.step


def _reference(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> Tensor:
    header = check(x, weight, scales, signs_in, signs_out, table, mode)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = _rotate(x.reshape(-1, header.in_features).to(wide), signs_in, None)
    if integer_mode(header, rows.shape[0], mode):
        product = _integer_product(rows, weight, header, table, mode).to(wide)
    else:
        parts = [
            rows @ oracle.decode_rows(weight, header, table, first, count).T.to(wide)
            for first, count in panels(header)
        ]
        product = torch.cat(parts, dim=1)
    y = _rotate(product * scales.to(wide), None, signs_out)
    return y.reshape(*x.shape[:-1], header.out_features).to(x.dtype)


def _fake(x: Tensor, weight: Tensor, scales: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], scales.shape[0]))


packed_linear = declare(
    f"packed_linear(Tensor x, {_SIGNATURE}) -> Tensor", fake=_fake, reference=_reference
)
"""``packed_linear(x, weight, scales, signs_in, signs_out, table, mode)``: a whole layer, bias aside.

Args:
    x: ``(*batch, in)`` floating point.
    weight: packed tensor, uint8 of one dimension.
    scales: float16 ``(out,)``.
    signs_in, signs_out: uint8 sign bits; None means no rotation on that side.
    table: see ``decode.decode_rows``.
    mode: ``float``, ``int15`` or ``int8``: how activations of at most INTEGER_ROWS rows enter the hash
        kernel (all other cases compute in float32).

Returns:
    ``(*batch, out)`` in x's dtype.

Raises:
    ValueError: if anything does not fit the header.
"""


def _transposed_reference(
    grad: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    in_features: int,
) -> Tensor:
    header = read_header(weight)
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    rows = _rotate(grad.reshape(-1, header.out_features).to(wide), signs_out, None)
    rows = rows * scales.to(wide)
    total = rows.new_zeros(rows.shape[0], header.in_features)
    for first, count in panels(header):
        panel = oracle.decode_rows(weight, header, table, first, count).to(wide)
        total += rows[:, first : first + count] @ panel
    out = _rotate(total, None, signs_in)
    return out.reshape(*grad.shape[:-1], header.in_features).to(grad.dtype)


def _transposed_fake(grad: Tensor, *rest: Any) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], rest[-1]))


packed_linear_transposed = declare(
    "packed_linear_transposed(Tensor grad, Tensor weight, Tensor scales, Tensor? signs_in, "
    "Tensor? signs_out, Tensor table, SymInt in_features) -> Tensor",
    fake=_transposed_fake,
    reference=_transposed_reference,
)
"""``packed_linear_transposed(grad, ...)``: ``grad @ W`` for the decoded W, the gradient of x, in float32."""


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:6])
    ctx.in_features = inputs[0].shape[-1]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_x = packed_linear_transposed(grad, *ctx.saved_tensors, ctx.in_features)
    return grad_x, None, None, None, None, None, None


torch.library.register_autograd("vq::packed_linear", _backward, setup_context=_setup, lib=library)
