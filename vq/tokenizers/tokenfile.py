"""The folder of token shards: what lies in it, and how its index and shards are written.

``index.json`` describes everything; ``tokens-00000.safetensors`` and on hold the codes of the items one after another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vq._files import atomic_file
from vq.errors import VqError
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.storage import DTYPES, PACKED, byte_count

FORMAT = "vq-tokens"
VERSION = 1
INDEX = "index.json"
TENSOR = "codes"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TokenItem:
    """Where the codes of one file are and what is needed to make the file again.

    Attributes:
        key: name of the item: the file's path relative to its folder.
        shape: spatial shape of the codes; they are ``(Q, *shape)``.
        size: of the original: (height, width), or (samples,) at the rate of the tokenizer. Decoded output is cut to it.
        gain: what decoded audio is multiplied by to have its own loudness again.
        shard: number of the shard.
        offset: first byte of the codes in the shard's tensor.
        bytes: of the codes.
    """

    key: str
    shape: tuple[int, ...]
    size: tuple[int, ...]
    gain: float
    shard: int
    offset: int
    bytes: int

    def to_json(self) -> str:
        """One line of the index."""
        return json.dumps(asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TokenItem:
        """Inverse of ``to_json`` after parsing; KeyError or TypeError for anything else."""
        lists = {name: tuple(int(n) for n in values[name]) for name in ("shape", "size")}
        return cls(**{**values, **lists})


@dataclass(frozen=True)
class Shard:
    """One shard file.

    Attributes:
        name: of the file.
        bytes: of the whole file.
        sha256: of the whole file.
    """

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TokenIndex:
    """Everything in ``index.json``.

    Attributes:
        spec: what the codes mean.
        storage: how they are stored: "packed" or the name of an integer type.
        shards: in order.
        items: in the order they were written.
    """

    spec: CodeSpec
    storage: str
    shards: tuple[Shard, ...]
    items: tuple[TokenItem, ...]

    def write(self, folder: Path) -> None:
        """Write ``index.json``, complete or not at all; equal content makes equal bytes."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "storage": self.storage,
            "positions": sum(math.prod(item.shape) for item in self.items),
        }
        lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
        lines.append(f'"shards": {_rows(json.dumps(asdict(shard)) for shard in self.shards)}')
        lines.append(f'"items": {_rows(item.to_json() for item in self.items)}')
        with atomic_file(folder / INDEX) as file:
            file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())

    @classmethod
    def read(cls, folder: Path) -> TokenIndex:
        """Read ``index.json``.

        Raises:
            VqError: if there is none, or it is damaged, of another format, or newer.
        """
        path = folder / INDEX
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise VqError(_no_index(folder)) from error
        except ValueError as error:
            raise VqError(f"{path}: damaged ({error}); write the tokens again") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise VqError(f"{path}: not an index of tokens (format {FORMAT!r} expected)")
        if values.get("version") != VERSION:
            raise VqError(
                f"{path}: version {values.get('version')}, this library reads {VERSION}; "
                "upgrade vq-toolkit"
            )
        try:
            items = tuple(TokenItem.from_dict(item) for item in values["items"])
            shards = tuple(Shard(**shard) for shard in values["shards"])
            index = cls(CodeSpec.from_dict(values["spec"]), values["storage"], shards, items)
            index.check()
        except (KeyError, TypeError, ValueError) as error:
            raise VqError(f"{path}: damaged ({error}); write the tokens again") from error
        return index

    def check(self) -> None:
        """Raise ValueError where the index contradicts itself."""
        if self.storage != PACKED and self.storage not in DTYPES:
            raise ValueError(f"unknown storage {self.storage!r}")
        ends = [0] * len(self.shards)
        for item in self.items:
            if not 0 <= item.shard < len(ends) or item.offset != ends[item.shard]:
                raise ValueError(f"item {item.key!r} is not where its shard continues")
            if item.bytes != byte_count(item.shape, self.spec, self.storage):
                raise ValueError(f"item {item.key!r} has {item.bytes} bytes for {item.shape}")
            ends[item.shard] += item.bytes


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"tokens-{number:05d}.safetensors"


def write_shard(folder: Path, number: int, storage: str, payload: BinaryIO, size: int) -> Shard:
    """Copy ``size`` bytes of payload into a safetensors file with the one tensor "codes".

    The header is written here, since the order of metadata in the library's own is not fixed: equal codes must make
    equal files.
    """
    width = 1 if storage == PACKED else np.dtype(storage).itemsize
    dtype = "U8" if storage == PACKED else DTYPES[storage]
    tensor = {"dtype": dtype, "shape": [size // width], "data_offsets": [0, size]}
    text = json.dumps({TENSOR: tensor}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    front = len(text).to_bytes(8, "little") + text
    digest, left = hashlib.sha256(front), size
    path = folder / shard_name(number)
    with atomic_file(path) as file:
        file.write(front)
        while left:
            part = payload.read(min(_CHUNK, left))
            assert part, "the journal promised more bytes than there are"
            file.write(part)
            digest.update(part)
            left -= len(part)
    return Shard(path.name, len(front) + size, digest.hexdigest())


def open_shard(folder: Path, shard: Shard, verify: bool = True) -> np.ndarray:
    """Bytes of a shard's tensor, mapped from the file.

    Raises:
        VqError: if the shard is missing, cut short, or has other content than when it was written.
    """
    path = folder / shard.name
    found = shard_size(folder, shard)
    if found != shard.bytes:
        raise VqError(
            f"{path}: expected {shard.bytes} bytes, got {found}: cut short or replaced; "
            "get the shard again or write the tokens again"
        )
    if verify and sha256(path) != shard.sha256:
        raise VqError(f"{path}: its SHA-256 is not the one in {INDEX}; get the shard again")
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
    if start >= shard.bytes:
        raise VqError(f"{path}: its header is damaged; get the shard again")
    return np.memmap(path, np.uint8, "r", offset=start)


def shard_size(folder: Path, shard: Shard) -> int:
    """Bytes of a shard's file.

    Raises:
        VqError: if it is not there.
    """
    try:
        return (folder / shard.name).stat().st_size
    except OSError as error:
        raise VqError(f"{folder / shard.name}: shard is missing; get it again") from error


def sha256(path: Path) -> str:
    """Hash of a whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for part in _parts(file):
            digest.update(part)
    return digest.hexdigest()


def _parts(file: BinaryIO) -> Iterator[bytes]:
    while part := file.read(_CHUNK):
        yield part


def _rows(lines: Iterable[str]) -> str:
    text = ",\n  ".join(lines)
    return f"[\n  {text}\n]" if text else "[]"


def _no_index(folder: Path) -> str:
    if (folder / "unfinished").is_dir():
        return (
            f"{folder}: writing these tokens was interrupted; repeat the command that wrote them, "
            "it goes on where it stopped"
        )
    return f"{folder}: no {INDEX} here; expected a folder of tokens"
