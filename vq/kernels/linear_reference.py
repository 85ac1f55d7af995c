"""A packed linear layer in plain torch: what every other implementation is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vq.kernels import decode as oracle
from vq.kernels.formats import (
    BLOCKS,
    E8P_CODE,
    HASH_CODE,
    PANELS,
    ROWS,
    TILE_ROWS,
    TILES,
    PackedHeader,
    read_header,
)
from vq.kernels.hadamard import reference as rotate_reference
from vq.kernels.panels import scale_rows_

MODES = ("float", "int15", "int8")
INTEGER_ROWS = 512  # rows of x up to which the integer modes hold; more are computed in float32
VALUE_ROWS = (
    32  # rows of x up to which a trellis' table is multiplied from packed words, in float32
)
INTEGER_COLUMNS = 65536  # 255 * 127 * columns stays below 2**31
PANEL_BYTES = 8 << 20  # decoded float32 weights held at once


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
    factor = torch.where(usable, torch.full_like(peak, top) / peak, 0.0)
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
    """Whether this call computes in integers: hash code, few rows, an integer mode, sums that fit 32 bits."""
    hashed = header.layout == TILES and header.code == HASH_CODE
    fits = rows <= INTEGER_ROWS and header.in_features <= INTEGER_COLUMNS
    return hashed and fits and mode != "float"


def tabled(header: PackedHeader) -> bool:
    """Whether the matrix is a trellis of one or two values a step whose values stand in a table."""
    return header.layout == TILES and header.code != HASH_CODE and header.symbols in (1, 2)


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
    check_scales(header, scales)
    for name, signs, n in (
        ("signs_in", signs_in, header.in_features),
        ("signs_out", signs_out, header.out_features),
    ):
        if signs is not None and (signs.shape != ((n + 7) // 8,) or signs.dtype != torch.uint8):
            raise ValueError(
                f"{name}: expected uint8 of shape ({(n + 7) // 8},), got {signs.dtype} of shape "
                f"{tuple(signs.shape)}"
            )
    check_table(header, table)
    if header.layout == BLOCKS or (header.layout == ROWS and header.codes_per_vector != 1):
        raise ValueError(
            f"packed_linear: {header.codes_per_vector} codes a vector, or of several rows, need the codebook's own "
            "decode; use vq.compressors.layers.linear.QuantizedLinear"
        )
    return header


def check_scales(header: PackedHeader, scales: Tensor) -> None:
    """Raise ValueError unless the scales are as many as the header asks for."""
    if tuple(scales.shape) != header.scales_shape or scales.dtype != torch.float16:
        group = f" (groups of {header.scale_group} columns)" if header.scale_group else ""
        raise ValueError(
            f"scales: expected float16 of shape {header.scales_shape}{group}, got {scales.dtype} of "
            f"shape {tuple(scales.shape)}"
        )


def check_table(header: PackedHeader, table: Tensor) -> None:
    """Raise ValueError unless the table has the shape that the header asks for."""
    expected = _table_shape(header, table)
    if tuple(table.shape) != expected:
        raise ValueError(f"table: expected shape {expected}, got {tuple(table.shape)}")
    if header.layout == PANELS and (table.dtype == torch.uint8) != (header.code == E8P_CODE):
        raise ValueError(
            f"table: expected uint8 for E8P and floating point for all else, got {table.dtype} for code {header.code}"
        )


def _table_shape(header: PackedHeader, table: Tensor) -> tuple[int, ...]:
    """Shape the table must have."""
    if header.layout == PANELS:
        return _panel_shape(header, table)
    if header.layout != TILES:
        return (table.shape[0], header.dim)
    if header.code == HASH_CODE:
        if table.dtype != torch.int8:
            raise ValueError(f"table: the hash code needs 64 levels of int8, got {table.dtype}")
        return (64,)
    return (2**header.memory, header.symbols)


def _panel_shape(header: PackedHeader, table: Tensor) -> tuple[int, ...]:
    """Shape of a table of layout 4: as many entries as it has, within the codes' reach."""
    if header.code == E8P_CODE:
        return (256, 8)
    parts, most = header.codes_per_vector, 1 << header.code_bits
    entries = min(table.shape[1], most) if table.ndim == 3 else most
    beside = table.ndim == 3 and table.shape[2] * parts == header.dim
    return (parts, entries, header.dim // parts if beside else header.dim)


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


def _panel(
    weight: Tensor,
    header: PackedHeader,
    table: Tensor,
    scales: Tensor,
    first: int,
    dtype: torch.dtype,
) -> Tensor:
    """Rows of the given scales, in units of these; where columns share scales, these are in them."""
    values = oracle.decode_rows(weight, header, table, first, len(scales)).to(dtype)
    return scale_rows_(values, scales, header) if header.scale_group else values


def reference(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
) -> Tensor:
    """``vq::packed_linear`` in plain torch."""
    header = check(x, weight, scales, signs_in, signs_out, table, mode)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows = _rotate(x.reshape(-1, header.in_features).to(wide), signs_in, None)
    if integer_mode(header, rows.shape[0], mode):
        product = _integer_product(rows, weight, header, table, mode).to(wide)
    else:
        parts = [
            rows @ _panel(weight, header, table, scales[first : first + count], first, wide).T
            for first, count in panels(header)
        ]
        product = torch.cat(parts, dim=1)
    if not header.scale_group:
        product = product * scales.to(wide)
    y = _rotate(product, None, signs_out)
    return y.reshape(*x.shape[:-1], header.out_features).to(x.dtype)


def transposed_reference(
    grad: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    in_features: int,
) -> Tensor:
    """``vq::packed_linear_transposed`` in plain torch."""
    header = read_header(weight)
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    rows = _rotate(grad.reshape(-1, header.out_features).to(wide), signs_out, None)
    if not header.scale_group:
        rows = rows * scales.to(wide)
    total = rows.new_zeros(rows.shape[0], header.in_features)
    for first, count in panels(header):
        panel = _panel(weight, header, table, scales[first : first + count], first, wide)
        total += rows[:, first : first + count] @ panel
    out = _rotate(total, None, signs_in)
    return out.reshape(*grad.shape[:-1], header.in_features).to(grad.dtype)
