"""What is said about files that cannot be read."""

from __future__ import annotations

from pathlib import Path

from vq.errors import VqError


class UnreadableFile(VqError):
    """A file of a folder that cannot be used; the others can.

    Attributes:
        path: the file.
        reason: why, in a few words.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


def check_exists(path: Path) -> None:
    """Raise UnreadableFile where there is no file, or an empty one."""
    try:
        if path.is_dir():
            raise UnreadableFile(path, "is a folder, expected a file")
        if path.stat().st_size == 0:
            raise UnreadableFile(path, "is empty (0 bytes)")
        with path.open("rb"):
            pass
    except OSError as error:
        raise UnreadableFile(path, error.strerror or str(error)) from error
