"""Bits per weight, counted from the bytes of a checkpoint."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vq.errors import VqError

HEADER_BYTES = 64  # of a packed tensor, docs/format.md
_STORED = ("weight", "scales", "signs_in", "signs_out")
_SHARED = "vq_codebooks."


@dataclass(frozen=True)
class Size:
    """What a checkpoint's tensors take.

    Attributes:
        bits_per_weight: all that quantized layers store (codes, headers, scales, signs, shared tables), divided by
            their weights; without quantized layers, of all tensors.
        quantized_weights: weights in quantized layers.
        total_weights: weights in all layers.
        total_bits_per_weight: the same for the whole model, embeddings and norms included.
        file_bytes: size of the safetensors files.
    """

    bits_per_weight: float
    quantized_weights: int
    total_weights: int
    total_bits_per_weight: float
    file_bytes: int


def measure_size(folder: str | Path) -> Size:
    """Count a checkpoint folder.

    Raises:
        VqError: if it holds no safetensors file, or one that is damaged.
    """
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise VqError(
            f"{folder}: expected *.safetensors files, found none; is this a model folder?"
        )
    tensors: dict[str, dict[str, Any]] = {}
    packed: dict[str, tuple[int, int]] = {}
    for file in files:
        entries, base = read_header(file)
        tensors.update(entries)
        with file.open("rb") as stream:
            for name, entry in entries.items():
                if name.endswith(".weight") and entry["dtype"] == "U8":
                    stream.seek(base + entry["data_offsets"][0])
                    packed[name.removesuffix(".weight")] = _shape(stream.read(HEADER_BYTES), name)
    quantized = sum(rows * columns for rows, columns in packed.values())
    own = sum(_bytes(tensors.get(f"{layer}.{part}")) for layer in packed for part in _STORED)
    shared = sum(_bytes(entry) for name, entry in tensors.items() if name.startswith(_SHARED))
    everything = sum(map(_bytes, tensors.values()))
    others = sum(
        _count(entry)
        for name, entry in tensors.items()
        if not name.startswith(_SHARED) and name.rpartition(".")[0] not in packed
    )
    total = quantized + others
    whole = 8 * everything / max(total, 1)
    return Size(
        bits_per_weight=8 * (own + shared) / quantized if quantized else whole,
        quantized_weights=quantized,
        total_weights=total,
        total_bits_per_weight=whole,
        file_bytes=sum(file.stat().st_size for file in files),
    )


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Tensor entries of a safetensors file and the offset its data begin at.

    Raises:
        VqError: if the file is cut short or not safetensors.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            raise VqError(f"{file}: not a whole safetensors file ({size} bytes); copy it again")
        try:
            entries = json.loads(stream.read(length))
        except ValueError as error:
            raise VqError(f"{file}: damaged safetensors header ({error}); copy it again") from error
    entries.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise VqError(
            f"{file}: expected {8 + length + end} bytes, found {size}; it is cut short, copy it again"
        )
    return entries, 8 + length


def _shape(header: bytes, name: str) -> tuple[int, int]:
    if header[:4] != b"VQPK":
        raise VqError(f"{name}: a uint8 tensor without the header of a packed layer")
    rows, columns = struct.unpack_from("<II", header, 8)
    return rows, columns


def _bytes(entry: dict[str, Any] | None) -> int:
    return 0 if entry is None else entry["data_offsets"][1] - entry["data_offsets"][0]


def _count(entry: dict[str, Any]) -> int:
    count = 1
    for length in entry["shape"]:
        count *= length
    return count
