"""Packed weights back to numbers, in plain torch: the oracle of the compiled kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels.formats import (
    HASH_CODE,
    HEADER_BYTES,
    PANELS,
    TILE_COLUMNS,
    TILE_ROWS,
    TILES,
    PackedHeader,
)
from vq.kernels.layouts import unpack_rows, unpack_tiles
from vq.kernels.panels import decode_panels, unpack_panels


def unpack_codes(weight: Tensor, header: PackedHeader, first: int, rows: int) -> Tensor:
    """Codes that cover rows ``first .. first + rows - 1``, of layout 1, 3 or 4.

    Returns:
        int64 ``(rows, ceil(in / dim), codes_per_vector)``; in layout 3 bands of ``tile_rows`` in place of rows.
    """
    if header.layout == PANELS:
        codes = unpack_panels(weight[HEADER_BYTES:], header, first, rows)
        return codes.reshape(rows, header.vectors_per_row, header.codes_per_vector)
    begin, end = first // header.tile_rows, -(-(first + rows) // header.tile_rows)
    each = header.vectors_per_row * header.codes_per_vector
    payload = weight[HEADER_BYTES:]
    codes = unpack_rows(payload, header.code_bits, (end - begin) * each, begin * each)
    return codes.reshape(end - begin, header.vectors_per_row, header.codes_per_vector)


def place_vectors(values: Tensor, header: PackedHeader, first: int, rows: int) -> Tensor:
    """Vectors ``(bands, blocks, dim)`` of ``unpack_codes`` as rows ``first ..`` of the matrix, ``(rows, in)``."""
    bands, blocks, dim = values.shape
    height = header.tile_rows
    tiles = values.reshape(bands, blocks, height, dim // height).transpose(1, 2)
    skip = first % height
    return tiles.reshape(bands * height, -1)[skip : skip + rows, : header.in_features]


def trellis_states(streams: Tensor, step_bits: int, memory: int) -> Tensor:
    """States of circular streams.

    Args:
        streams: int64 ``(*batch, words)``, first stream bit in the most significant bit of word 0.
        step_bits: stream bits from one state to the next.
        memory: bits of a state, at most 16.

    Returns:
        int64 ``(*batch, words * 64 / step_bits)``: the windows of ``memory`` bits.
    """
    words = streams.shape[-1]
    start = torch.arange(words * 64 // step_bits, device=streams.device) * step_bits
    word, offset = start // 64, start % 64
    here = streams[..., word] << offset
    after = streams[..., (word + 1) % words] >> 1 >> (63 - offset)  # arithmetic: mask the sign
    window = here | (after & ((1 << offset) - 1))
    return (window >> (64 - memory)) & ((1 << memory) - 1)


def hash_indices(states: Tensor, memory: int, constant: int) -> Tensor:
    """Indices into the 64 levels: ``(*shape, 2)`` for states ``(*shape,)``."""
    product = (states << (16 - memory)) * constant
    return torch.stack([product >> 16 & 63, product >> 8 & 63], dim=-1)


def decode_integers(
    weight: Tensor, header: PackedHeader, levels: Tensor, first: int, rows: int
) -> Tensor:
    """Integer levels of the hash code, ``(rows, in)`` int8; times ``header.step`` they are the values."""
    states, shape = _tile_states(weight, header, first, rows)
    index = hash_indices(states, header.memory, header.hash_constant)
    return _matrix(levels[index], shape, first, rows, header.in_features)


def decode_rows(
    weight: Tensor, header: PackedHeader, table: Tensor, first: int, rows: int
) -> Tensor:
    """Values of rows ``first .. first + rows - 1`` in units of the codebook, without scales.

    Args:
        weight: packed tensor.
        header: its header.
        table: hash code: int8 ``(64,)`` levels; trellis table: ``(2**memory, symbols)``; layout 1: ``(entries, dim)``;
            layout 4: ``(codes_per_vector, entries, dim)``, whose vectors add up, or with ``dim / codes_per_vector`` in
            place of dim, whose vectors stand side by side; E8P: uint8 ``(256, 8)``, ``panels.e8p_magnitudes``.
        first: first row.
        rows: how many.

    Returns:
        float32 ``(rows, in)``.
    """
    if header.layout == PANELS:
        return decode_panels(weight, header, table, first, rows)
    if header.layout != TILES:
        codes = unpack_codes(weight, header, first, rows)[..., 0]
        return table.float()[codes].reshape(rows, -1)[:, : header.in_features]
    if header.code == HASH_CODE:
        return decode_integers(weight, header, table, first, rows).float() * header.step
    states, shape = _tile_states(weight, header, first, rows)
    return _matrix(table.float()[states], shape, first, rows, header.in_features)


def _tile_states(
    weight: Tensor, header: PackedHeader, first: int, rows: int
) -> tuple[Tensor, tuple[int, int]]:
    """States of the tiles that hold the rows, and how many bands and blocks they are."""
    begin, end = first // TILE_ROWS, -(-(first + rows) // TILE_ROWS)
    band_bytes = header.blocks * header.words * 8
    payload = weight[HEADER_BYTES + begin * band_bytes : HEADER_BYTES + end * band_bytes]
    streams = unpack_tiles(payload, end - begin, header.blocks, header.words)
    return trellis_states(streams, header.code_bits, header.memory), (end - begin, header.blocks)


def _matrix(values: Tensor, shape: tuple[int, int], first: int, rows: int, width: int) -> Tensor:
    """Tiles ``(bands, blocks, ...256)`` as rows of a matrix."""
    bands, blocks = shape
    tiles = values.reshape(bands, blocks, TILE_ROWS, TILE_COLUMNS).transpose(1, 2)
    skip = first % TILE_ROWS
    return tiles.reshape(bands * TILE_ROWS, blocks * TILE_COLUMNS)[skip : skip + rows, :width]
