"""Safetensors files: checked reading of headers, and a writer that streams and always makes the same bytes."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vq._files import atomic_file
from vq.errors import VqError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_SAMPLE = 1 << 16  # bytes of one sample in a fingerprint
_SAMPLES = 64


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies in a file.

    Attributes:
        path: the safetensors file.
        dtype: of the tensor.
        shape: of the tensor.
        start: first byte in the file.
        stop: one past the last byte.
    """

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start

    def read(self) -> Tensor:
        """The tensor, in its own memory."""
        if self.size == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.start)
            data = bytearray(file.read(self.size))
        if len(data) != self.size:
            raise VqError(
                f"{self.path}: expected {self.size} bytes at {self.start}, got {len(data)}"
            )
        return torch.frombuffer(data, dtype=torch.uint8).view(self.dtype).reshape(self.shape)


def read_header(path: Path) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Entries and metadata of a safetensors file; nothing else is read.

    Raises:
        VqError: if the file is missing, not safetensors, cut short, or holds an unknown type of number.
    """
    if not path.is_file():
        raise VqError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise VqError(f"{path}: not a complete safetensors file ({size} bytes); fetch it again")
        text = file.read(length)
    try:
        raw: dict[str, Any] = json.loads(text)
        metadata = raw.pop("__metadata__", {})
        entries = {name: _entry(path, name, info, 8 + length) for name, info in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, VqError):
            raise
        raise VqError(f"{path}: damaged safetensors header ({error}); fetch it again") from error
    last = max(entries.items(), key=lambda item: item[1].stop, default=None)
    if last is not None and last[1].stop > size:
        raise VqError(
            f"{path}: cut short: expected {last[1].stop} bytes (tensor {last[0]} ends there), "
            f"got {size}; fetch it again"
        )
    return entries, metadata


def _entry(path: Path, name: str, info: dict[str, Any], base: int) -> TensorEntry:
    if info["dtype"] not in DTYPES:
        raise VqError(f"{path}: tensor {name} has type {info['dtype']}, known: {', '.join(DTYPES)}")
    dtype, shape = DTYPES[info["dtype"]], tuple(int(n) for n in info["shape"])
    start, stop = (base + int(n) for n in info["data_offsets"])
    if stop - start != math.prod(shape) * dtype.itemsize or start < base:
        raise VqError(f"{path}: tensor {name} {list(shape)} does not fit its {stop - start} bytes")
    return TensorEntry(path, dtype, shape, start, stop)


@dataclass(frozen=True)
class Pending:
    """A tensor still to be written.

    Attributes:
        dtype: of the tensor.
        shape: of the tensor.
        load: gives the tensor when its turn comes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def pending(tensor: Tensor) -> Pending:
    """A tensor in memory as something to write."""
    return Pending(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def write_tensors(path: Path, tensors: Mapping[str, Pending], metadata: Mapping[str, str]) -> int:
    """Write a safetensors file atomically, one tensor in memory at a time.

    The bytes depend on nothing but the arguments: tensors lie in order of number size (largest first) and name.

    Returns:
        CRC-32 of the file.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name in order:
        item = tensors[name]
        header[name] = {
            "dtype": _NAMES[item.dtype],
            "shape": list(item.shape),
            "data_offsets": [at, at + item.size],
        }
        at += item.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    crc = zlib.crc32(start)
    with atomic_file(path) as file:
        file.write(start)
        for name in order:
            data = _bytes(tensors[name], name)
            crc = zlib.crc32(data, crc)
            file.write(data)
    return crc


def _bytes(item: Pending, name: str) -> memoryview:
    tensor = item.load()
    assert tuple(tensor.shape) == item.shape and tensor.dtype == item.dtype, name
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically with sorted keys."""
    with atomic_file(path) as file:
        file.write(
            (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
        )


def fingerprint(path: Path) -> str:
    """SHA-256 over a file's size, its first and last bytes and samples between: fast for any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    step = max(_SAMPLE, (size - _SAMPLE) // _SAMPLES)
    with path.open("rb") as file:
        for start in [*range(0, max(size - _SAMPLE, 1), step), max(0, size - _SAMPLE)]:
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
