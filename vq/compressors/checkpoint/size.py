"""Bits per weight, counted from the bytes of a checkpoint."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import torch

from vq.compressors.files.tensorfile import TensorEntry, read_header
from vq.compressors.layers.sides import PARTS
from vq.errors import VqError
from vq.kernels.formats import HEADER_BYTES, MAGIC

_SHARED = "vq_codebooks."


@dataclass(frozen=True)
class Size:
    """What a checkpoint's tensors take.

    Attributes:
        bits_per_weight: all that quantized layers store (codes, headers, scales, signs, outliers, low-rank parts,
            tables), divided by their weights; without quantized layers, of all tensors. Packed embeddings and heads
            are not among them.
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
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        tensors.update(read_header(file)[0])
    packed = {
        name.removesuffix(".weight"): _shape(entry, name)
        for name, entry in tensors.items()
        if name.endswith(".weight") and entry.dtype == torch.uint8
    }
    apart = _embeddings(Path(folder))
    embedded = {name: packed.pop(name) for name in apart if name in packed}
    quantized = sum(rows * columns for rows, columns in packed.values())
    own = sum(_bytes(tensors.get(f"{layer}.{part}")) for layer in packed for part in PARTS)
    tables = [name for name in tensors if name.startswith(_SHARED)]
    shared = sum(_bytes(tensors[n]) for n in tables if not n.startswith(f"{_SHARED}embeddings."))
    everything = sum(map(_bytes, tensors.values()))
    others = sum(
        math.prod(entry.shape)
        for name, entry in tensors.items()
        if not name.startswith(_SHARED) and name.rpartition(".")[0] not in {*packed, *embedded}
    ) + sum(rows * columns for rows, columns in embedded.values())
    total = quantized + others
    whole = 8 * everything / max(total, 1)
    return Size(
        bits_per_weight=8 * (own + shared) / quantized if quantized else whole,
        quantized_weights=quantized,
        total_weights=total,
        total_bits_per_weight=whole,
        file_bytes=sum(file.stat().st_size for file in files),
    )


def _embeddings(folder: Path) -> set[str]:
    """Packed embeddings and head of a folder, by name."""
    path = folder / "config.json"
    if not path.is_file():
        return set()
    try:
        config = json.loads(path.read_text(encoding="utf-8")).get("quantization_config") or {}
    except ValueError as error:
        raise VqError(f"{path}: not valid JSON ({error})") from error
    layers = config.get("layers") or {}
    own = {(config.get("embeddings") or {}).get("module", "")}
    return own | {name for name, book in layers.items() if book == "embeddings"}


def _shape(entry: TensorEntry, name: str) -> tuple[int, int]:
    """Rows and columns that a packed tensor's header tells."""
    with entry.path.open("rb") as stream:
        stream.seek(entry.start)
        header = stream.read(HEADER_BYTES)
    if header[:4] != MAGIC:
        raise VqError(f"{name}: a uint8 tensor without the header of a packed layer")
    rows, columns = struct.unpack_from("<II", header, 8)
    return rows, columns


def _bytes(entry: TensorEntry | None) -> int:
    return 0 if entry is None else entry.size
