"""Reader of token shards: by name, by number, or one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from vq.errors import VqError
from vq.tokenizers.storage import from_bytes
from vq.tokenizers.tokenfile import INDEX, TokenIndex, TokenItem, open_shard, shard_size


@dataclass(frozen=True)
class TokenSize:
    """What a folder of tokens takes.

    Attributes:
        items: number of items.
        positions: of all items; each has Q codes.
        units: what the rates are per: seconds of audio, or pixels.
        nominal_bits: information in the codes at the nominal rate, of whole positions.
        payload_bits: of the stored codes.
        file_bits: of all files of the folder: codes, headers and index.
    """

    items: int
    positions: int
    units: float
    nominal_bits: float
    payload_bits: int
    file_bits: int

    @property
    def rate(self) -> float:
        """Bits on disk, everything counted, per second or per pixel."""
        return self.file_bits / self.units


class TokenReader:
    """Codes of a folder that ``TokenWriter`` finished.

    Shards are mapped, not loaded; each is checked against its SHA-256 when it is first used.

    Args:
        folder: with index.json.
        model_hash: of the tokenizer that will decode; None where the codes are not to be decoded.
        force: read the tokens of another model all the same.
        verify: whether to check hashes.

    Raises:
        VqError: for a folder without tokens, a damaged index, a missing or cut shard (by name), or tokens of another
            model.
    """

    def __init__(
        self,
        folder: str | Path,
        model_hash: str | None = None,
        force: bool = False,
        verify: bool = True,
    ) -> None:
        self.folder = Path(folder)
        self.verify = verify
        self.index = TokenIndex.read(self.folder)
        self.spec = self.index.spec
        if model_hash is not None and model_hash != self.spec.model_hash and not force:
            raise VqError(
                f"{self.folder}: tokens of another model (hash {self.spec.model_hash}, this one is "
                f"{model_hash}); decode them with the tokenizer that made them, or force it"
            )
        for shard in self.index.shards:
            found = shard_size(self.folder, shard)
            if found != shard.bytes:
                raise VqError(
                    f"{self.folder / shard.name}: expected {shard.bytes} bytes, got {found}: cut "
                    "short or replaced; get the shard again or write the tokens again"
                )
        self._numbers = {item.key: n for n, item in enumerate(self.index.items)}
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.index.items)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __iter__(self) -> Iterator[tuple[TokenItem, Tensor]]:
        for number, item in enumerate(self.index.items):
            yield item, self.codes(number)

    def keys(self) -> list[str]:
        """Names of the items in their order."""
        return list(self._numbers)

    def item(self, which: int | str) -> TokenItem:
        """What is known of an item.

        Raises:
            KeyError: for an unknown name.
            IndexError: for a number out of range.
        """
        if isinstance(which, str):
            if which not in self._numbers:
                raise KeyError(f"{self.folder}: no tokens of {which!r}")
            which = self._numbers[which]
        return self.index.items[which]

    def codes(self, which: int | str) -> Tensor:
        """Codes of an item by number or name: int64 ``(Q, *spatial)``.

        Raises:
            KeyError: for an unknown name.
            IndexError: for a number out of range.
            VqError: if the item's shard is damaged.
        """
        item = self.item(which)
        if item.shard not in self._open:
            shard = self.index.shards[item.shard]
            self._open[item.shard] = open_shard(self.folder, shard, self.verify)
        data = self._open[item.shard][item.offset : item.offset + item.bytes]
        try:
            return from_bytes(np.asarray(data), item.shape, self.spec, self.index.storage)
        except ValueError as error:
            name = self.index.shards[item.shard].name
            raise VqError(f"{self.folder / name}: {item.key}: {error}") from error

    def size(self) -> TokenSize:
        """Bits, counted from the files."""
        items = self.index.items
        positions = sum(math.prod(item.shape) for item in items)
        samples = sum(math.prod(item.size) for item in items)
        files = sum(shard.bytes for shard in self.index.shards)
        return TokenSize(
            items=len(items),
            positions=positions,
            units=samples / (self.spec.sample_rate or 1),
            nominal_bits=positions * self.spec.bits_per_position,
            payload_bits=8 * sum(item.bytes for item in items),
            file_bits=8 * (files + (self.folder / INDEX).stat().st_size),
        )
