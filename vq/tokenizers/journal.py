"""What an unfinished token writer has on disk: a list of records, and the codes of the shard that is being filled."""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vq.errors import VqError

RECORDS, PAYLOAD, LOCK = "records.jsonl", "open.bin", "lock"
Record = dict[str, Any]


class Journal:
    """Append-only record of a run: a line per item and per finished shard, and the bytes of the open shard.

    The bytes of an item are written before its line, with their CRC in the line; so after a kill, or a loss of power,
    ``read`` finds the last item that is whole and cuts off the rest.

    Args:
        folder: of the unfinished run; is made and locked against other processes.

    Raises:
        VqError: if another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / LOCK).open("w")
        try:
            _lock(self._lock.fileno())
        except OSError as error:
            self._lock.close()
            raise VqError(
                f"{folder.parent}: another process is writing tokens here; wait for it or choose "
                "another folder"
            ) from error
        self._records: BinaryIO | None = None
        self._payload: BinaryIO | None = None

    def clear(self) -> None:
        """Forget the run."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()

    def read(self) -> list[Record]:
        """Complete records, ``{"item": ...}`` or ``{"shard": ...}``; what follows them is cut off.

        Opens the journal for appending.
        """
        records, open_bytes, good = [], 0, 0
        with _readable(self.folder / RECORDS) as lines, self.payload() as payload:
            lines_read = _parse(lines)
            finished = _last_shard(lines_read)
            for number, (record, end) in enumerate(lines_read):
                if number > finished:
                    data = payload.read(record["item"]["bytes"])
                    if zlib.crc32(data) != record["crc"]:
                        break
                    open_bytes += len(data)
                records.append(record)
                good = end
        self._records = _append_at(self.folder / RECORDS, good)
        self._payload = _append_at(self.folder / PAYLOAD, open_bytes)
        return records

    def add_item(self, item: Record, data: bytes) -> None:
        """Append an item and its bytes."""
        assert self._payload is not None
        self._payload.write(data)
        self._payload.flush()
        self._note({"item": item, "crc": zlib.crc32(data)})

    def add_shard(self, shard: Record) -> None:
        """Note that the open bytes are a shard file now."""
        assert self._payload is not None
        self._note({"shard": shard})
        self._payload.truncate(0)
        self._payload.seek(0)

    @contextlib.contextmanager
    def payload(self) -> Iterator[BinaryIO]:
        """The bytes of the open shard, to read."""
        with _readable(self.folder / PAYLOAD) as file:
            yield file

    def close(self) -> None:
        """Let go of the files and the lock; the run can be taken up again."""
        for file in (self._records, self._payload, self._lock):
            if file is not None:
                file.close()

    def remove(self) -> None:
        """Close, and delete everything: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def _note(self, record: Record) -> None:
        assert self._records is not None
        self._records.write((json.dumps(record) + "\n").encode())
        self._records.flush()


def _parse(lines: BinaryIO) -> list[tuple[Record, int]]:
    """Records up to the first damaged line, each with the offset of its end."""
    found, end = [], 0
    for line in lines:
        end += len(line)
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        found.append((record, end))
    return found


def _last_shard(records: list[tuple[Record, int]]) -> int:
    """Number of the last record of a shard; -1 for none."""
    return max((n for n, (record, _) in enumerate(records) if "shard" in record), default=-1)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[BinaryIO]:
    path.touch()
    with path.open("rb") as file:
        yield file


def _append_at(path: Path, size: int) -> BinaryIO:
    """The file cut to a size and open at its end."""
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


def _lock(handle: int) -> None:
    """Hold a lock until the file is closed; OSError if somebody else does."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
