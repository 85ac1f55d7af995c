"""Codes of layout 4 of packed layers, panels of 64 rows, by the written format (docs/format.md)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PANEL = 64


def panel_codes(payload: Tensor, rows: int, count: int, bits: int) -> Tensor:
    """Codes of all rows.

    Args:
        payload: uint8, what follows the header.
        rows: of the matrix.
        count: codes of a row.
        bits: of a code, 1 to 16.

    Returns:
        int64 ``(rows, count)``.

    Raises:
        ValueError: if the payload has another size.
    """
    together = {1: 4, 2: 2, 3: 4}.get(bits, 1)
    units, padded = -(-count // together), -(-rows // 8) * 8
    each = units * together * bits  # bits of a row
    data = payload.numpy()
    if len(data) != padded * each // 8:
        raise ValueError(f"expected {padded * each // 8} bytes of panels, got {len(data)}")
    full = padded // _PANEL
    cut = full * _PANEL * each // 8
    parts = []
    for panels, number, size in ((data[:cut], full, _PANEL), (data[cut:], 1, padded % _PANEL)):
        if len(panels):
            shaped = panels.reshape(number, units, size * together * bits // 8)
            parts.append(_rows(shaped, size, bits, together))
    return torch.from_numpy(np.concatenate(parts)[:rows, :count])


def _rows(panels: np.ndarray, height: int, bits: int, together: int) -> np.ndarray:
    """Bytes ``(panels, units, bytes)`` to codes ``(panels * height, units * together)``."""
    if bits in (1, 2, 4):
        codes = _split(_nibbles(panels), together, bits)
    elif bits == 3:
        low = _split(panels[..., :height].astype(np.int64), together, 2)
        codes = low + 4 * _split(_nibbles(panels[..., height:]), together, 1)
    elif bits <= 8:
        codes = _fields(panels, height, bits)[..., None]
    else:
        high = _fields(panels[..., height:], height, bits - 8)
        codes = (panels[..., :height] + 256 * high)[..., None]
    units = codes.shape[1]
    return codes.transpose(0, 2, 1, 3).reshape(-1, units * together)


def _split(values: np.ndarray, together: int, bits: int) -> np.ndarray:
    """The codes that lie in each value, lowest first: a new last axis."""
    return values[..., None] >> (bits * np.arange(together)) & ((1 << bits) - 1)


def _nibbles(data: np.ndarray) -> np.ndarray:
    """The low halves of all bytes, then the high ones."""
    return np.concatenate([data & 15, data >> 4], -1).astype(np.int64)


def _fields(data: np.ndarray, height: int, bits: int) -> np.ndarray:
    """Values of ``bits`` bits, the lowest bit first."""
    flat = np.unpackbits(np.ascontiguousarray(data), axis=-1, bitorder="little")
    return flat.reshape(*data.shape[:-1], height, bits).astype(np.int64) @ (1 << np.arange(bits))
