"""The folder of an unfinished run: finished blocks, and what they were made from."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vq.compressors.files.tensorfile import (
    TensorEntry,
    pending,
    read_header,
    write_json,
    write_tensors,
)
from vq.errors import VqError

_MANIFEST, _LOCK = "manifest.json", "lock"
TEACHER, STATE, TUNED = "teacher.safetensors", "tuning.safetensors", "tuned.safetensors"
PLAN = "plan.json"
TUNING_FILES = (TEACHER, STATE, TUNED)


class WorkFolder:
    """``OUTPUT.partial``: one file a block, each complete or absent, and a manifest.

    Args:
        output: the folder that the run will make; the work folder stands beside it.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(output.name + ".partial")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process out for as long as this one lives; a folder in which nothing was done is removed.

        Raises:
            VqError: if another process works there.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / _LOCK
        with lock.open("w") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:
                pass  # no such locks on this system
            except OSError as error:
                raise VqError(
                    f"{self.path}: another process is compressing to this output; wait for it or "
                    "choose another output"
                ) from error
            try:
                yield
            finally:
                if self.path.is_dir() and [item.name for item in self.path.iterdir()] == [_LOCK]:
                    self.remove()

    def begin(
        self, fingerprint: Mapping[str, Any], noted: Mapping[str, Any], restart: bool
    ) -> list[str]:
        """Start a run or go on with the one that is here.

        Args:
            fingerprint: everything that determines the bytes of the result.
            noted: what does so only in the last digit (threads); kept for the record.
            restart: throw away what is here.

        Returns:
            What of ``noted`` differs from the run that is continued.

        Raises:
            VqError: if the folder holds a run with another fingerprint; says what differs.
        """
        if restart:
            self.clear()
        manifest = self.path / _MANIFEST
        if manifest.is_file():
            try:
                stored = json.loads(manifest.read_text(encoding="utf-8"))
                old, old_noted = stored["fingerprint"], stored["noted"]
            except (ValueError, KeyError, TypeError) as error:
                raise VqError(f"{manifest}: damaged ({error}); use --restart") from error
            changes = differences(old, json.loads(json.dumps(fingerprint)))
            if changes:
                raise VqError(
                    f"{self.path} holds an unfinished run with other settings: "
                    f"{'; '.join(changes[:6])}. Repeat its command to finish it, use --restart to "
                    "throw it away, or choose another output"
                )
            return differences(old_noted, dict(noted))
        write_json(manifest, {"fingerprint": dict(fingerprint), "noted": dict(noted)})
        return []

    def clear(self) -> None:
        """Remove results of earlier runs."""
        (self.path / _MANIFEST).unlink(missing_ok=True)
        for name in ("blocks", "assembled"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("codebooks.safetensors", "timings.jsonl", *TUNING_FILES):
            (self.path / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder after the run."""
        shutil.rmtree(self.path, ignore_errors=True)

    def block_file(self, index: int) -> Path:
        """Where the result of a block lies."""
        return self.path / "blocks" / f"block-{index:05d}.safetensors"

    def save_block(
        self, index: int, tensors: Mapping[str, Tensor], reports: Mapping[str, Any]
    ) -> None:
        """Store the tensors and layer reports of a finished block."""
        text = json.dumps(reports, sort_keys=True)
        items = {name: pending(tensor) for name, tensor in tensors.items()}
        write_tensors(self.block_file(index), items, {"reports": text})

    def has_block(self, index: int) -> bool:
        """Whether a block is finished; an unreadable file counts as not finished."""
        try:
            read_header(self.block_file(index))
        except VqError:
            return False
        return True

    def load_block(self, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and layer reports of a finished block."""
        entries, metadata = read_header(self.block_file(index))
        return {name: e.read() for name, e in entries.items()}, json.loads(metadata["reports"])

    def tuned(self) -> dict[str, TensorEntry]:
        """What the tuning of the whole model changed; empty before it is finished."""
        path = self.path / TUNED
        return read_header(path)[0] if path.is_file() else {}

    def tuning_report(self) -> dict[str, Any] | None:
        """Figures of the tuning of the whole model, or None without it."""
        path = self.path / TUNED
        return json.loads(read_header(path)[1]["report"]) if path.is_file() else None

    def note_time(self, index: int, seconds: float) -> None:
        """Log how long a block took; times stay out of files that must not depend on them."""
        with (self.path / "timings.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"block": index, "seconds": round(seconds, 3)}) + "\n")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """What differs between two nested mappings, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        return found
    return [] if old == new else [f"{where} was {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
