"""Codes of one item as bytes and back: whole numbers of 8 to 64 bits, or exactly the bits of each code."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vq.codebooks import pack_rows, unpack_rows
from vq.tokenizers.code_spec import CodeSpec

PACKED = "packed"
DTYPES = {"uint8": "U8", "uint16": "U16", "uint32": "U32", "int64": "I64"}
"""Storage of whole numbers, and the name that safetensors has for it."""


def choose_storage(spec: CodeSpec, wanted: str = "auto") -> str:
    """Name of a storage that can hold the codes.

    Args:
        spec: of the codes.
        wanted: "auto" for the smallest whole number that holds every code, "packed", or a name of ``DTYPES``.

    Raises:
        ValueError: for an unknown name, or one that is too small.
    """
    sizes = {name: np.iinfo(name).max + 1 for name in DTYPES}
    largest = max(spec.entries)
    if wanted == PACKED:
        return PACKED
    fitting = [name for name, size in sizes.items() if size >= largest]
    if wanted == "auto":
        return fitting[0]
    if wanted not in fitting:
        raise ValueError(
            f"storage: expected auto, packed or one of {', '.join(fitting)} for {largest} entries, "
            f"got {wanted!r}"
        )
    return wanted


def check_codes(codes: Tensor, spec: CodeSpec) -> None:
    """Raise ValueError unless these are codes ``(Q, *spatial)`` of this description."""
    axes = 1 + len(spec.hop)
    quantity = spec.codes_per_position
    if codes.ndim != axes or codes.shape[0] != quantity or 0 in codes.shape:
        raise ValueError(
            f"codes: expected shape ({quantity}, *spatial) with {axes} axes, "
            f"got {tuple(codes.shape)}"
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"codes: expected integers, got {codes.dtype}")
    flat = codes.reshape(quantity, -1)
    low, high = flat.amin(1).tolist(), flat.amax(1).tolist()
    for q, entries in enumerate(spec.entries):
        if low[q] < 0 or high[q] >= entries:
            raise ValueError(
                f"codes[{q}]: expected values in [0, {entries}), got {low[q]} to {high[q]}"
            )


def stored_rows(codes: Tensor, spec: CodeSpec) -> list[Tensor]:
    """The Q rows of codes that are stored, each flat, a repeated code once.

    Raises:
        ValueError: if a code of stride s is not the same at s positions in a row.
    """
    rows = [
        codes[q, ..., ::stride].reshape(-1).long().cpu() for q, stride in enumerate(spec.strides)
    ]
    if max(spec.strides) > 1 and not torch.equal(_repeated(rows, codes.shape[1:], spec), codes):
        raise ValueError(
            f"codes: expected each code to repeat along the last axis as strides {spec.strides} say"
        )
    return rows


def to_bytes(codes: Tensor, spec: CodeSpec, storage: str) -> bytes:
    """Codes ``(Q, *spatial)`` of one item as bytes, code by code in row-major order.

    Packed codes of equal width follow each other without gaps; a change of width starts a new byte.

    Raises:
        ValueError: if the codes do not fit the description.
    """
    check_codes(codes, spec)
    rows = stored_rows(codes, spec)
    if storage != PACKED:
        return torch.cat(rows).numpy().astype(np.dtype(storage).newbyteorder("<")).tobytes()
    return b"".join(
        pack_rows(torch.cat([rows[q] for q in group]), bits).numpy().tobytes()
        for bits, group in _runs(spec)
    )


def byte_count(spatial: Sequence[int], spec: CodeSpec, storage: str) -> int:
    """Bytes that ``to_bytes`` makes of codes of this shape."""
    counts = spec.stored_codes(spatial)
    if storage != PACKED:
        return sum(counts) * np.dtype(storage).itemsize
    return sum(_bytes_of(sum(counts[q] for q in group), bits) for bits, group in _runs(spec))


def from_bytes(data: np.ndarray, spatial: Sequence[int], spec: CodeSpec, storage: str) -> Tensor:
    """Inverse of ``to_bytes``: int64 ``(Q, *spatial)``.

    Args:
        data: uint8, exactly ``byte_count`` bytes.
        spatial: shape of the codes.
        spec: of the codes.
        storage: as written.

    Raises:
        ValueError: for another number of bytes, or codes that the description does not allow.
    """
    expected = byte_count(spatial, spec, storage)
    if data.size != expected:
        raise ValueError(f"codes: expected {expected} bytes for shape {spatial}, got {data.size}")
    counts = spec.stored_codes(spatial)
    if storage == PACKED:
        flat, start = [], 0
        for bits, group in _runs(spec):
            count = sum(counts[q] for q in group)
            end = start + _bytes_of(count, bits)
            flat.append(unpack_rows(torch.from_numpy(data[start:end].copy()), bits, count))
            start = end
        values = torch.cat(flat)
    else:
        little = np.dtype(storage).newbyteorder("<")
        values = torch.from_numpy(data.view(little).astype(np.int64))
    codes = _repeated(list(values.split(list(counts))), spatial, spec)
    check_codes(codes, spec)
    return codes


def _repeated(rows: Sequence[Tensor], spatial: Sequence[int], spec: CodeSpec) -> Tensor:
    """Codes ``(Q, *spatial)`` of stored rows."""
    grids = [
        row.reshape(*spatial[:-1], -1).repeat_interleave(stride, -1)[..., : spatial[-1]]
        for row, stride in zip(rows, spec.strides, strict=True)
    ]
    return torch.stack(grids)


def _runs(spec: CodeSpec) -> list[tuple[int, list[int]]]:
    """Widths in bits, and which of the Q codes in a row have it."""
    pairs = itertools.groupby(range(len(spec.entries)), key=lambda q: spec.code_bits[q])
    return [(bits, list(group)) for bits, group in pairs]


def _bytes_of(count: int, bits: int) -> int:
    return -(-count * bits // 8)
