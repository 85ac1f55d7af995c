"""Layout 4: codes in panels of 64 rows, in the order in which the kernels use them (docs/format.md)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vq.kernels.formats import HEADER_BYTES, PANEL_ROWS, PackedHeader

TOKENS = 512  # rows of x up to which the kernels take integers; more decode panels of the matrix to float32
FLOAT_TOKENS = 32  # the same in mode float, which has no kernel for many rows


def pack_panels(codes: Tensor, header: PackedHeader) -> Tensor:
    """Payload of layout 4.

    Args:
        codes: ``(out, codes of a row)`` integers in ``[0, 2**code_bits)``.
        header: the format.

    Returns:
        uint8 ``(payload_bytes,)``.

    Raises:
        ValueError: if a code does not fit.
    """
    array = codes.detach().cpu().numpy().astype(np.int64)
    bits = header.code_bits
    if array.size and (array.min() < 0 or array.max() >> bits):
        raise ValueError(
            f"codes: expected values in [0, {2**bits}) for {bits} bits, got {array.min()} to {array.max()}"
        )
    rows = -(-header.out_features // 8) * 8
    padded = np.zeros((rows, header.units * header.fold), dtype=np.int64)
    padded[: array.shape[0], : array.shape[1]] = array
    whole = rows // PANEL_ROWS * PANEL_ROWS
    pieces = [
        _encode(part.reshape(-1, height, header.units, header.fold), bits).reshape(-1)
        for part, height in ((padded[:whole], PANEL_ROWS), (padded[whole:], rows - whole))
        if height and len(part)
    ]
    return torch.from_numpy(np.concatenate(pieces))


def _encode(codes: np.ndarray, bits: int) -> np.ndarray:
    """Units of ``(panels, rows, units, fold)`` as bytes ``(panels, units, bytes)``."""
    by_unit = codes.transpose(0, 2, 3, 1)  # (panels, units, fold, rows)
    fold = np.arange(codes.shape[3])[:, None]
    if bits == 3:
        low = ((by_unit & 3) << (2 * fold)).sum(2)
        return np.concatenate([_bytes(low), _nibbles(((by_unit >> 2) << fold).sum(2))], axis=2)
    if bits <= 4:
        return _nibbles((by_unit << (bits * fold)).sum(2))
    single = by_unit[:, :, 0]
    if bits <= 8:
        return _fields(single, bits)
    return np.concatenate([_bytes(single & 255), _fields(single >> 8, bits - 8)], axis=2)


def _bytes(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8)


def _nibbles(values: np.ndarray) -> np.ndarray:
    """Two rows a byte: row r low, row r + rows / 2 high."""
    half = values.shape[2] // 2
    return _bytes(values[:, :, :half] | values[:, :, half:] << 4)


def _fields(values: np.ndarray, bits: int) -> np.ndarray:
    """Fields of ``bits`` bits of the rows, one after the other, lowest bit first."""
    if bits == 8:
        return _bytes(values)
    spread = np.unpackbits(_bytes(values)[..., None], axis=3, count=bits, bitorder="little")
    return np.packbits(spread.reshape(*values.shape[:2], -1), axis=2, bitorder="little")


def unpack_panels(payload: Tensor, header: PackedHeader, first: int, rows: int) -> Tensor:
    """Codes of rows ``first .. first + rows - 1`` as int64 ``(rows, codes of a row)``, on the payload's device."""
    begin, end = first // PANEL_ROWS, -(-(first + rows) // PANEL_ROWS)
    size = header.panel_bytes(PANEL_ROWS)
    parts = []
    full = min(end, header.out_features // PANEL_ROWS)
    if full > begin:
        body = payload[begin * size : full * size].reshape(full - begin, header.units, -1)
        parts.append(_decode(body, PANEL_ROWS, header.code_bits, header.fold))
    if end > full:
        tail = payload[header.out_features // PANEL_ROWS * size :]
        height = -(-(header.out_features % PANEL_ROWS) // 8) * 8
        parts.append(
            _decode(tail.reshape(1, header.units, -1), height, header.code_bits, header.fold)
        )
    codes = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])
    skip = first - begin * PANEL_ROWS
    return codes[skip : skip + rows, : header.codes_per_row]


def _decode(units: Tensor, rows: int, bits: int, fold: int) -> Tensor:
    """Inverse of ``_encode``: int64 ``(panels, rows, units * fold)`` of bytes ``(panels, units, bytes)``."""
    units = units.long()
    shifts = torch.arange(fold, device=units.device)
    if bits == 3:
        low = units[..., :rows, None] >> (2 * shifts) & 3
        codes = low | (_open_nibbles(units[..., rows:])[..., None] >> shifts & 1) << 2
    elif bits <= 4:
        codes = _open_nibbles(units)[..., None] >> (bits * shifts) & ((1 << bits) - 1)
    elif bits <= 8:
        codes = _open_fields(units, rows, bits)[..., None]
    else:
        high = _open_fields(units[..., rows:], rows, bits - 8)
        codes = (units[..., :rows] | high << 8)[..., None]
    panels, count = codes.shape[:2]  # (panels, units, rows, fold)
    return codes.transpose(1, 2).reshape(panels, rows, count * fold)


def _open_nibbles(values: Tensor) -> Tensor:
    return torch.cat([values & 15, values >> 4], dim=-1)


def _open_fields(values: Tensor, rows: int, bits: int) -> Tensor:
    if bits == 8:
        return values
    stream = (values[..., None] >> torch.arange(8, device=values.device) & 1).flatten(-2)
    fields = stream.reshape(*stream.shape[:-1], rows, bits)
    return (fields << torch.arange(bits, device=values.device)).sum(-1)


def e8p_values(codes: Tensor, magnitudes: Tensor, step: float) -> Tensor:
    """Points of E8P, float32 ``(*batch, 8)``.

    Args:
        codes: ``(*batch,)``; bits 0..7 the pattern, 8..14 signs, 15 the move (``vq.codebooks.E8P``).
        magnitudes: uint8 ``(256, 8)``: magnitude + 3.5, or 3.5 - magnitude for a last coordinate that is negative where
            no other is.
        step: unit of the coordinates.
    """
    places = torch.arange(7, device=codes.device)
    negative = codes.unsqueeze(-1) >> (8 + places) & 1
    flips = torch.cat([negative, negative.sum(-1, keepdim=True) & 1], -1)
    values = (magnitudes[codes & 255].long() ^ (7 * flips)).float() - 3.5
    return (values + torch.where(codes >> 15 == 1, 0.25, -0.25).unsqueeze(-1)) * step


def e8p_magnitudes(digits: Tensor) -> Tensor:
    """The table of E8P's kernels, uint8 ``(256, 8)``, from its patterns: 0, 1, 2 for magnitudes 1/2, 3/2, 5/2."""
    table = digits + 4
    odd = digits.sum(1) % 2 == 1
    last = torch.where(odd, 7 - table[:, 7], table[:, 7])
    return torch.cat([table[:, :7], last.unsqueeze(1)], dim=1).to(torch.uint8)


def table_values(codes: Tensor, header: PackedHeader, table: Tensor) -> Tensor:
    """Weights of codes ``(rows, codes of a row)``: float32 ``(rows, vectors * dim)``."""
    parts = header.codes_per_vector
    grouped = codes.reshape(codes.shape[0], -1, parts)
    if table.shape[2] * parts == header.dim and parts > 1:  # side by side
        values = [table[s].float()[grouped[..., s]] for s in range(parts)]
        return torch.cat(values, dim=-1).reshape(codes.shape[0], -1)
    total = table[0].float()[grouped[..., 0]]
    for s in range(1, parts):
        total = total + table[s].float()[grouped[..., s]]
    return total.reshape(codes.shape[0], -1)


def scale_rows_(values: Tensor, scales: Tensor, header: PackedHeader) -> Tensor:
    """Multiply rows ``(rows, in)`` in place by their scales ``(rows,)``, or ``(rows, groups of columns)``."""
    scales = scales.to(values.dtype)
    if not header.scale_group:
        return values.mul_(scales.unsqueeze(1))
    for group in range(scales.shape[1]):
        columns = slice(group * header.scale_group, (group + 1) * header.scale_group)
        values[:, columns].mul_(scales[:, group : group + 1])
    return values


def decode_panels(
    weight: Tensor, header: PackedHeader, table: Tensor, first: int, rows: int
) -> Tensor:
    """Rows of a matrix in layout 4, in units of the codebook: float32 ``(rows, in)``."""
    codes = unpack_panels(weight[HEADER_BYTES:], header, first, rows)
    if table.dtype == torch.uint8:
        values = e8p_values(codes, table, header.step).reshape(rows, -1)
    else:
        values = table_values(codes, header, table)
    return values[:, : header.in_features]
