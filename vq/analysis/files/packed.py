"""Reader of packed linear layers by the written format (docs/format.md), through the codebook's own decode."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vq.analysis.files.panels import panel_codes
from vq.codebooks import Codebook, unpack_rows
from vq.errors import VqError

_HEADER = struct.Struct("<4sHHIIHHHHHHIQIfHH12x")
_ROWS, _TILES, _BLOCKS, _PANELS = 1, 2, 3, 4
_TILE_ROWS, _TILE_COLUMNS, _GROUP = 64, 4, 8


@dataclass(frozen=True)
class Header:
    """The fields that are needed to decode.

    Attributes:
        layout: 1 rows, 2 trellis tiles, 3 blocks of several rows, 4 panels of 64 rows.
        out_features: rows.
        in_features: columns.
        code_bits: of a code, or of a trellis' step.
        dim: weights of a vector.
        codes_per_vector: codes of a vector, or steps of a tile.
        tile_rows: rows of a vector.
        scale_group: columns that share a scale; 0: a row has one scale.
    """

    layout: int
    out_features: int
    in_features: int
    code_bits: int
    dim: int
    codes_per_vector: int
    tile_rows: int
    scale_group: int

    @classmethod
    def of(cls, data: bytes, name: str) -> Header:
        """Read the first 64 bytes of a packed tensor.

        Raises:
            VqError: for bytes that are no header, or one of a later version.
        """
        if len(data) < _HEADER.size or data[:4] != b"VQPK":
            raise VqError(f"{name}: a uint8 tensor without the header of a packed layer")
        fields = _HEADER.unpack(data[: _HEADER.size])
        if fields[1] != 1 or fields[2] not in (_ROWS, _TILES, _BLOCKS, _PANELS):
            raise VqError(
                f"{name}: packed format version {fields[1]}, layout {fields[2]}; this library reads version 1, "
                "layouts 1 to 4: upgrade vq-toolkit"
            )
        return cls(
            layout=fields[2],
            out_features=fields[3],
            in_features=fields[4],
            code_bits=fields[5],
            dim=fields[6],
            codes_per_vector=fields[10],
            tile_rows=max(fields[15], 1),
            scale_group=fields[16],
        )


def decode_packed(weight: Tensor, book: Codebook, name: str = "layer") -> Tensor:
    """Values ``(out, in)`` float32 in units of the codebook, before scales and rotation.

    Args:
        weight: uint8, header and payload.
        book: that made the codes.
        name: for messages.

    Raises:
        VqError: if the tensor is no packed layer, or its codes are not those of the codebook.
    """
    header = Header.of(weight[: _HEADER.size].numpy().tobytes(), name)
    payload = weight[_HEADER.size :]
    try:
        with torch.no_grad():
            if header.layout == _TILES:
                return _tiles(payload, header, book)
            return _vectors(payload, header, book)
    except (RuntimeError, ValueError) as error:
        raise VqError(f"{name}: does not decode with {book.spec} ({error})") from error


def spread_scales(scales: Tensor, header: Header, name: str) -> Tensor:
    """Factors of the weights of a layer, float32 ``(out, 1)``, or ``(out, in)`` where columns share scales.

    Raises:
        VqError: for scales that are not those of the header.
    """
    group, out = header.scale_group, header.out_features
    expected = (out, -(-header.in_features // group)) if group else (out,)
    if tuple(scales.shape) != expected:
        raise VqError(f"{name}: expected scales of shape {expected}, got {tuple(scales.shape)}")
    if not group:
        return scales.float()[:, None]
    return scales.float().repeat_interleave(group, dim=1)[:, : header.in_features]


def packed_codes(payload: Tensor, header: Header) -> Tensor:
    """Codes of vectors, int64 ``(bands, vectors of a band, codes of a vector)``; not of trellis tiles."""
    bands = -(-header.out_features // header.tile_rows)
    across = -(-header.in_features // (header.dim // header.tile_rows))
    count = across * header.codes_per_vector
    if header.layout == _PANELS:
        codes = panel_codes(payload, bands, count, header.code_bits)
    else:
        codes = unpack_rows(payload, header.code_bits, bands * count)
    return codes.reshape(bands, across, header.codes_per_vector).long()


def _vectors(payload: Tensor, header: Header, book: Codebook) -> Tensor:
    height = header.tile_rows
    codes = packed_codes(payload, header)
    bands, across = codes.shape[:2]
    values = book.decode(codes.reshape(bands, across, *book.codes_shape)).float()
    width = header.dim // height
    rows = values.reshape(bands, across, height, width).transpose(1, 2).reshape(bands * height, -1)
    return rows[: header.out_features, : header.in_features]


def _tiles(payload: Tensor, header: Header, book: Codebook) -> Tensor:
    bands, blocks = -(-header.out_features // _TILE_ROWS), -(-header.in_features // _TILE_COLUMNS)
    words = header.codes_per_vector * header.code_bits // 64
    flat = np.frombuffer(payload.numpy().tobytes(), "<u8").reshape(bands, blocks * words)
    full = blocks // _GROUP * _GROUP
    body = flat[:, : full * words].reshape(bands, -1, words, _GROUP).transpose(0, 1, 3, 2)
    tail = flat[:, full * words :].reshape(bands, words, blocks - full).transpose(0, 2, 1)
    streams = np.concatenate([body.reshape(bands, full, words), tail], 1).reshape(-1, words)
    codes = _steps(streams, header.code_bits)
    values = book.decode(torch.from_numpy(codes)).float()
    tiles = values.reshape(bands, blocks, _TILE_ROWS, _TILE_COLUMNS).transpose(1, 2)
    matrix = tiles.reshape(bands * _TILE_ROWS, -1)
    return matrix[: header.out_features, : header.in_features]


def _steps(streams: np.ndarray, bits: int) -> np.ndarray:
    """Codes ``(tiles, steps)`` of words, first bit most significant."""
    stream = np.ascontiguousarray(streams).astype(">u8").view(np.uint8).reshape(len(streams), -1)
    if bits in (1, 2, 4):  # whole codes in each byte
        shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
        return (
            (stream[:, :, None] >> shifts & (2**bits - 1))
            .reshape(len(streams), -1)
            .astype(np.int64)
        )
    each = np.unpackbits(stream, axis=1).reshape(len(streams), -1, bits)
    weights = 1 << np.arange(bits - 1, -1, -1)
    return each @ weights


def signs_of(packed: Tensor, count: int) -> Tensor:
    """Signs +1 and -1 ``(count,)`` of packed bits; a set bit is -1."""
    bits = np.unpackbits(packed.numpy(), bitorder="little", count=count)
    return torch.from_numpy(1.0 - 2.0 * bits.astype(np.float32))


def rotate(x: Tensor) -> Tensor:
    """Orthonormal Walsh-Hadamard transform of the last dimension in blocks of powers of two, largest first."""
    n, at, pieces = x.shape[-1], 0, []
    for bit in range(n.bit_length() - 1, -1, -1):
        size = 1 << bit
        if not n & size:
            continue
        piece, half = x[..., at : at + size], 1
        while half < size:
            pairs = piece.reshape(*x.shape[:-1], -1, 2, half)
            piece = torch.cat(
                [pairs[..., :1, :] + pairs[..., 1:, :], pairs[..., :1, :] - pairs[..., 1:, :]], -2
            )
            half *= 2
        pieces.append(piece.reshape(*x.shape[:-1], size) / size**0.5)
        at += size
    return torch.cat(pieces, -1)
