"""Folders of token shards, read by their index alone, many items at a time."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vq.analysis.files.open import OWN, opener
from vq.analysis.subject import Chunk, Codes, Subject
from vq.codebooks import unpack_rows
from vq.errors import VqError

INDEX = "index.json"
_FORMAT, _VERSION = "vq-tokens", 1
_CHUNK = 1 << 22  # codes that are read at once


@dataclass(frozen=True)
class _Item:
    shape: tuple[int, ...]
    shard: int
    offset: int
    bytes: int

    @property
    def positions(self) -> int:
        return math.prod(self.shape)


def _looks(path: Path) -> bool:
    return (path.is_dir() and (path / INDEX).is_file()) or (path.name == INDEX and path.is_file())


@opener("folder of token shards", _looks, OWN)
def open_tokens(path: Path) -> Subject:
    """Streams of codes of a folder that ``vq encode`` wrote.

    Raises:
        VqError: for a damaged or newer index, or a shard that is missing or cut short.
    """
    folder = path.parent if path.is_file() else path
    index = _read_index(folder)
    spec, storage = index["spec"], index["storage"]
    items = [_item(item) for item in index["items"]]
    files = [folder / shard["name"] for shard in index["shards"]]
    for file, shard in zip(files, index["shards"], strict=True):
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            raise VqError(
                f"{file}: missing, cut short or replaced; get the shard again or write the tokens again"
            )
    reader = _Reader(files, items, spec, storage)
    positions = sum(item.positions for item in items)
    size = sum(shard["bytes"] for shard in index["shards"]) + (folder / INDEX).stat().st_size
    widths = {item.shape[-1] for item in items} if spec["kind"] == "image" else set()
    codes = Codes(
        entries=tuple(spec["entries"]),
        read=reader.chunks,
        positions=positions,
        items=len(items),
        names=tuple(f"code {q}" for q in range(len(spec["entries"])))
        if len(spec["entries"]) > 1
        else (),
        row=widths.pop() if len(widths) == 1 else None,
    )
    stored = sum(item.bytes for item in items)
    facts = {
        **{
            k: spec.get(k)
            for k in ("kind", "entries", "strides", "hop", "sample_rate", "model_hash")
        },
        "storage": storage,
        "items": len(items),
        "positions": positions,
        "file_bytes": size,
        "bits_per_position": 8 * stored / max(positions, 1),
        "file_bits_per_position": 8 * size / max(positions, 1),
    }
    return Subject(kind="tokens", name=folder.name, path=folder, facts=facts, codes=codes)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VqError(f"{path}: damaged ({error}); write the tokens again") from error
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise VqError(f"{path}: not an index of tokens (format {_FORMAT!r} expected)")
    if index.get("version") != _VERSION:
        raise VqError(
            f"{path}: version {index.get('version')}, this library reads {_VERSION}; upgrade vq-toolkit"
        )
    missing = {"spec", "storage", "shards", "items"} - index.keys()
    if missing:
        raise VqError(f"{path}: damaged (no {', '.join(sorted(missing))}); write the tokens again")
    return index


def _item(values: dict[str, Any]) -> _Item:
    return _Item(tuple(values["shape"]), values["shard"], values["offset"], values["bytes"])


class _Reader:
    """Items in order; neighbours of one shape in one shard are read as one block."""

    def __init__(
        self, files: list[Path], items: list[_Item], spec: dict[str, Any], storage: str
    ) -> None:
        self.files, self.items, self.storage = files, items, storage
        self.entries: list[int] = list(spec["entries"])
        self.strides: list[int] = list(spec["strides"])

    def chunks(self) -> Iterator[Chunk]:
        """Pieces of bounded size, whole items in each unless one item is larger."""
        for (shard, shape), group in itertools.groupby(self.items, lambda i: (i.shard, i.shape)):
            rows = list(group)
            positions = math.prod(shape)
            at_once = max(_CHUNK // max(positions * len(self.entries), 1), 1)
            data = _payload(self.files[shard])
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                block = data[part[0].offset : part[-1].offset + part[-1].bytes]
                yield from self._pieces(block, len(part), shape)

    def _pieces(self, block: np.ndarray, count: int, shape: tuple[int, ...]) -> Iterator[Chunk]:
        codes = self._codes(block, count, shape)
        positions = math.prod(shape)
        for start in range(0, codes.shape[1], _CHUNK):
            part = codes[:, start : start + _CHUNK]
            first = -(-start // positions) * positions
            yield Chunk(part, np.arange(first, start + part.shape[1], positions) - start)

    def _codes(self, block: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
        """``(Q, count * positions)`` of so many items of one shape."""
        rest, last = math.prod(shape[:-1]), shape[-1]
        stored = [rest * -(-last // stride) for stride in self.strides]
        if self.storage == "packed":
            flat = self._unpacked(block, count, stored)
        else:
            little = np.dtype(self.storage).newbyteorder("<")
            flat = np.ascontiguousarray(block).view(little).reshape(count, sum(stored))
        parts = np.split(flat, np.cumsum(stored)[:-1], axis=1)
        rows = [
            self._repeated(part, rest, last, s) for part, s in zip(parts, self.strides, strict=True)
        ]
        return np.stack(rows)

    @staticmethod
    def _repeated(part: np.ndarray, rest: int, last: int, stride: int) -> np.ndarray:
        if stride > 1:
            grid = part.reshape(len(part), rest, -1).repeat(stride, axis=2)[:, :, :last]
            return grid.reshape(-1)
        return part.reshape(-1)

    def _unpacked(self, block: np.ndarray, count: int, stored: list[int]) -> np.ndarray:
        """Codes of items whose bits follow each other; codes of equal width share bytes."""
        widths = [(entries - 1).bit_length() for entries in self.entries]
        runs = [
            (bits, sum(stored[q] for q in group))
            for bits, group in itertools.groupby(range(len(widths)), key=lambda q: widths[q])
        ]
        each = block.reshape(count, -1)
        out = np.empty((count, sum(stored)), np.int64)
        start = at = 0
        for bits, codes in runs:
            end = start + -(-codes * bits // 8)
            for row in range(count):
                payload = torch.from_numpy(np.array(each[row, start:end]))
                out[row, at : at + codes] = unpack_rows(payload, bits, codes).numpy()
            start, at = end, at + codes
        return out


def _payload(file: Path) -> np.ndarray:
    """Bytes of a shard's one tensor, mapped."""
    with file.open("rb") as stream:
        start = 8 + int.from_bytes(stream.read(8), "little")
    return np.memmap(file, np.uint8, "r", offset=start)
