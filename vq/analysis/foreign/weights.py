"""Compressed weights of AQLM and VPTQ: layers with their bits, tables with the use of each entry, codes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vq.analysis.foreign.files import Tensors
from vq.analysis.foreign.vptq import vptq_layer
from vq.analysis.rules.words import natural
from vq.analysis.subject import Chunk, Codes, Layer, Subject, Table
from vq.errors import VqError

_MOST_STREAMS = 8  # streams that are followed pair by pair; use is counted for all
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Packed:
    """One layer: what is told of it, its tables with their use, its codes ``(Q, n)``."""

    layer: Layer
    tables: tuple[Table, ...]
    codes: np.ndarray


def is_weights(names: Iterable[str]) -> bool:
    """Whether names are those of weights compressed by AQLM or VPTQ."""
    return bool(_aqlm_layers(set(names)) or _vptq_layers(set(names)))


def _aqlm_layers(names: set[str]) -> list[str]:
    found = [n.removesuffix("codebooks") for n in names if n.rpartition(".")[2] == "codebooks"]
    return sorted(
        (at for at in found if f"{at}codes" in names and f"{at}scales" in names), key=natural
    )


def _vptq_layers(names: set[str]) -> list[str]:
    end = "centroids.weight"
    found = [n.removesuffix(end) for n in names if n == end or n.endswith(f".{end}")]
    return sorted((at for at in found if f"{at}indices" in names), key=natural)


def open_weights(tensors: Tensors, config: Mapping[str, Any]) -> Subject:
    """Layers, tables and codes of a compressed model.

    Raises:
        VqError: for shapes that do not fit, or a VPTQ file without its configuration.
    """
    names = set(tensors.readers)
    about = config.get("quantization_config") or {}
    aqlm, vptq = _aqlm_layers(names), _vptq_layers(names)
    if aqlm and vptq:
        raise VqError(f"{tensors.path}: layers of AQLM and of VPTQ at once; {tensors.found()}")
    if aqlm:
        packed = [aqlm_layer(tensors, at) for at in aqlm]
    else:
        packed = [_of_vptq(tensors, at, about) for at in vptq]
    own = {at for at in (aqlm or vptq)}
    other = [n for n in names if not n.startswith(tuple(own))] if "" not in own else []
    facts = {
        "library": "AQLM" if aqlm else "VPTQ",
        "model_type": config.get("model_type"),
        "other_bits": sum(bits_of(tensors.get(n)) for n in other),
        "other_weights": sum(tensors.get(n).numel() for n in other),
    }
    tables = tuple(t for p in packed for t in p.tables)
    codes, note = _codes(packed)
    facts |= note
    layers = tuple(p.layer for p in packed)
    path = tensors.path
    return Subject("foreign", path.name, path, facts, tables, codes=codes, layers=layers)


def bits_of(tensor: Tensor) -> int:
    """Stored bits."""
    return 8 * tensor.numel() * tensor.element_size()


def counted(title: str, values: Tensor, codes: np.ndarray) -> Table:
    """A table with the exact use of each entry."""
    counts = np.bincount(codes.reshape(-1), minlength=len(values))
    return Table(title, values.float(), False, torch.from_numpy(counts).float())


def aqlm_layer(tensors: Tensors, at: str) -> Packed:
    """One ``QuantizedLinear``: ``codes`` (out / g_o, in / g_i, M), ``codebooks`` (M, entries, g_o, g_i), ``scales``.

    Raises:
        VqError: for shapes that do not fit, or codes beyond the table.
    """
    name = at.rstrip(".") or tensors.path.stem
    stored, books = tensors.get(f"{at}codes"), tensors.floats(f"{at}codebooks")
    if stored.ndim != 3 or books.ndim != 4 or stored.shape[2] != books.shape[0]:
        raise VqError(
            f"{tensors.path}: {name}: expected codes (out groups, in groups, M) and codebooks (M, entries, out group, "
            f"in group), got {tuple(stored.shape)} and {tuple(books.shape)}"
        )
    count, entries, tall, wide = books.shape
    codes = (stored.long() % entries).movedim(2, 0).flatten(1)  # stored as signed integers
    rows, across = stored.shape[:2]

    def units() -> Tensor:
        """The matrix before its scales, float32 ``(out, in)``."""
        parts = [books[m].flatten(1)[codes[m]] for m in range(count)]
        blocks = torch.stack(parts).sum(0).reshape(rows, across, tall, wide)
        return blocks.transpose(1, 2).reshape(rows * tall, across * wide)

    def dense() -> Tensor:
        """The matrix the layer multiplies by, float32 ``(out, in)``."""
        scales = tensors.floats(f"{at}scales")
        blocks = units().reshape(rows, tall, across, wide).transpose(1, 2) * scales
        return blocks.transpose(1, 2).reshape(rows * tall, across * wide)

    exact = math.ceil(math.log2(entries))
    bits = {part: bits_of(tensors.get(f"{at}{part}")) for part in ("codes", "codebooks", "scales")}
    spec = f"AQLM {count}x{exact}g{tall * wide}"
    layer = Layer(name, (rows * tall, across * wide), spec, bits, {}, dense, units)
    titles = [name if count == 1 else f"{name} codebook {m}" for m in range(count)]
    tables = [counted(titles[m], books[m].flatten(1), codes[m].numpy()) for m in range(count)]
    return Packed(layer, tuple(tables), codes.numpy())


def _of_vptq(tensors: Tensors, at: str, about: Mapping[str, Any]) -> Packed:
    layer, parts = vptq_layer(tensors, at, about)
    tables = tuple(counted(title, values, codes) for title, values, codes in parts)
    longest = max(codes.size for _, _, codes in parts)
    codes = np.full((len(parts), longest), -1, np.int64)
    for row, (_, _, part) in zip(codes, parts, strict=True):
        row[: part.size] = part.reshape(-1)
    return Packed(layer, tables, codes)


def _codes(packed: list[Packed]) -> tuple[Codes, dict[str, Any]]:
    """Streams side by side, -1 behind the shorter ones; the first ones where there are many."""
    streams = [row for p in packed for row in p.codes]
    tables = [t for p in packed for t in p.tables]
    kept = streams[:_MOST_STREAMS]
    positions = max(len(row) for row in kept)

    def read() -> Iterator[Chunk]:
        """All streams from the beginning, a piece at a time."""
        for start in range(0, positions, _CHUNK):
            width = min(_CHUNK, positions - start)
            part = np.full((len(kept), width), -1, np.int64)
            for row, stream in zip(part, kept, strict=True):
                piece = stream[start : start + width]
                row[: len(piece)] = piece
            yield Chunk(part, np.zeros(1 if start == 0 else 0, np.int64))

    note: dict[str, Any] = {}
    if len(streams) > len(kept):
        note["streams"] = f"codes of the first {len(kept)} of {len(streams)} tables"
    entries = tuple(len(t.values) for t in tables[: len(kept)])
    names = tuple(t.name for t in tables[: len(kept)])
    return Codes(entries, read, positions, 1, names if len(kept) > 1 else ()), note
