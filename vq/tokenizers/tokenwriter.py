"""Streaming writer of token shards that a killed run can go on with."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from vq._files import atomic_file
from vq.errors import VqError
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.journal import Journal
from vq.tokenizers.storage import choose_storage, to_bytes
from vq.tokenizers.tokenfile import INDEX, Shard, TokenIndex, TokenItem, shard_size, write_shard

WORK = "unfinished"
SHARD_BYTES = 64 << 20


class TokenWriter:
    """Writes items in the order they are added, into shards of bounded size.

    Codes go to disk item by item. A run that was killed goes on after the last complete item: make the writer with the
    same arguments, skip keys it holds, add the others in the same order; the files end byte-identical to those of a run
    that was not interrupted. Nothing but this writer may use the folder meanwhile (a lock sees to it).

        with TokenWriter(folder, spec, storage="packed") as writer:
            for key in keys:
                if key not in writer:
                    writer.add(key, codes, size)

    Args:
        folder: is made; holds the shards and, after ``close``, index.json.
        spec: of the codes.
        storage: "auto" (smallest integer type), "packed" (exactly the bits of each code), or an integer type.
        shard_bytes: of codes in one shard at most; an item is never split.
        restart: throw away what is in the folder.

    Raises:
        VqError: if the folder holds finished tokens, a run with other arguments, or another process writes there.
        ValueError: for a storage that cannot hold the codes.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: CodeSpec,
        storage: str = "auto",
        shard_bytes: int = SHARD_BYTES,
        restart: bool = False,
    ) -> None:
        if shard_bytes < 1:
            raise ValueError(f"shard_bytes: expected a positive number, got {shard_bytes}")
        self.folder = Path(folder)
        self.spec = spec
        self.storage = choose_storage(spec, storage)
        self.shard_bytes = shard_bytes
        self.shards: list[Shard] = []
        self.items: list[TokenItem] = []
        self._keys: set[str] = set()
        self._open_bytes = 0
        if (self.folder / INDEX).exists() and not restart:
            raise VqError(
                f"{self.folder} holds finished tokens already; choose another folder, or throw them away with "
                "--restart (restart=True)"
            )
        self.journal = Journal(self.folder / WORK)
        try:
            self._begin(restart)
        except BaseException:
            self.journal.close()
            raise

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self.items)

    def add(self, key: str, codes: Tensor, size: Sequence[int], gain: float = 1.0) -> TokenItem:
        """Append an item; it is safe from a kill when this returns.

        Args:
            key: name of the item, new.
            codes: integers ``(Q, *spatial)``.
            size: of the original: (height, width) or (samples,).
            gain: what decoded audio is multiplied by.

        Raises:
            ValueError: for a key that is there already, or codes or sizes that do not fit the description.
        """
        if not key or key in self._keys:
            raise ValueError(
                f"key: expected a new name, got {key!r} again" if key else "key: empty"
            )
        self.spec.positions(size)  # raises for sizes that are none
        if not math.isfinite(gain) or gain <= 0:
            raise ValueError(f"gain: expected a positive number, got {gain}")
        data = to_bytes(codes, self.spec, self.storage)
        if self._open_bytes and self._open_bytes + len(data) > self.shard_bytes:
            self._finish_shard()
        item = TokenItem(
            key=key,
            shape=tuple(codes.shape[1:]),
            size=tuple(int(n) for n in size),
            gain=float(gain),
            shard=len(self.shards),
            offset=self._open_bytes,
            bytes=len(data),
        )
        self.journal.add_item(asdict(item), data)
        self._take(item)
        return item

    def close(self) -> TokenIndex:
        """Finish the last shard, write the index and remove the traces of the run.

        Raises:
            VqError: if no item was added.
        """
        if not self.items:
            raise VqError(f"{self.folder}: no tokens were written; nothing to finish")
        if self._open_bytes:
            self._finish_shard()
        index = TokenIndex(self.spec, self.storage, tuple(self.shards), tuple(self.items))
        index.write(self.folder)
        self.journal.remove()
        return index

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.journal.close()

    def _begin(self, restart: bool) -> None:
        """Start a run, or take up the one that is here."""
        if restart:
            (self.folder / INDEX).unlink(missing_ok=True)
            for path in self.folder.glob("tokens-*.safetensors"):
                path.unlink()
            self.journal.clear()
        settings = {
            "spec": self.spec.to_dict(),
            "storage": self.storage,
            "shard_bytes": self.shard_bytes,
        }
        path = self.folder / WORK / "settings.json"
        if path.exists():
            _check_settings(path, settings)
        else:
            with atomic_file(path) as file:
                file.write((json.dumps(settings, indent=1) + "\n").encode())
        self._replay()

    def _replay(self) -> None:
        """Take over the complete items and shards of the journal."""
        for record in self.journal.read():
            if "shard" in record:
                shard = Shard(**record["shard"])
                if shard_size(self.folder, shard) != shard.bytes:
                    raise VqError(
                        f"{self.folder / shard.name}: changed since it was written; restart"
                    )
                self.shards.append(shard)
                self._open_bytes = 0
            else:
                self._take(TokenItem.from_dict(record["item"]))

    def _take(self, item: TokenItem) -> None:
        self.items.append(item)
        self._keys.add(item.key)
        self._open_bytes += item.bytes

    def _finish_shard(self) -> None:
        """Turn the open bytes into a shard; killed in between, the next run does it again."""
        with self.journal.payload() as payload:
            number = len(self.shards)
            shard = write_shard(self.folder, number, self.storage, payload, self._open_bytes)
        self.journal.add_shard(asdict(shard))
        self.shards.append(shard)
        self._open_bytes = 0


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VqError(
            f"{path}: damaged ({error}); begin anew with --restart (restart=True)"
        ) from error
    changed = [name for name in settings if old.get(name) != settings[name]]
    if changed:
        raise VqError(
            f"{path.parent}: an unfinished run with another {' and '.join(changed)}; repeat its "
            "command to finish it, or throw it away with --restart (restart=True)"
        )
