"""The signals of a folder, read and written under their names."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from pathlib import Path, PurePosixPath

from torch import Tensor

from vq.errors import VqError
from vq.tokenizers.atomic import UnreadableFile
from vq.tokenizers.audio import read_audio, write_audio
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.folder import Kind, list_files, suffixes
from vq.tokenizers.images import read_image, write_image
from vq.tokenizers.recipe import DEFAULTS, read_recipe
from vq.tokenizers.source import inspect


class Signals:
    """The signals of a folder or of one file, read one at a time in the order of their names.

    Files that cannot be read are passed over; ``skipped`` names them with the reason, once they have been met.

    Args:
        path: folder, searched with its subfolders, or file.
        spec: of the codec: kind, channels and sample rate that are wanted.
        held_out: only the files that ``vq train`` holds out of the folder.

    Attributes:
        files: key (path in the folder, with ``/``) and path of each.
        skipped: what could not be read so far.

    Raises:
        VqError: if there is no such path, or no file of the kind.
    """

    def __init__(self, path: str | Path, spec: CodeSpec, held_out: bool = False) -> None:
        self.spec = spec
        self.files = signal_files(path, spec.kind)
        if held_out and Path(path).is_dir():
            held = inspect(path, read_recipe(DEFAULTS[spec.kind])).held_out
            kept = {item.key for item in held}
            self.files = [pair for pair in self.files if pair[0] in kept]
        self.skipped: list[dict[str, str]] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.without(())

    def without(self, keys: Container[str]) -> Iterator[tuple[str, Tensor]]:
        """Key and signal ``(channels, *size)`` of the files whose keys are not among some."""
        self.skipped.clear()
        for key, path in self.files:
            if key in keys:
                continue
            try:
                yield key, read_signal(path, self.spec)
            except UnreadableFile as error:
                self.skipped.append({"file": key, "reason": error.reason})


def signal_files(path: str | Path, kind: Kind) -> list[tuple[str, Path]]:
    """Key and path of the images or sounds of a folder, or of one file, sorted by key; hidden ones are left out.

    Raises:
        VqError: if there is no such path, or no file of the kind.
    """
    root = Path(path)
    if root.is_file():
        return [(root.name, root)]
    if not root.exists():
        raise VqError(f"{root}: no such file or folder")
    wanted = suffixes(kind)
    found = [(key, root / key) for key in list_files(root) if Path(key).suffix.lower() in wanted]
    if not found:
        raise VqError(f"{root}: no {kind} files ({' '.join(sorted(wanted))})")
    return found


def read_signal(path: Path, spec: CodeSpec) -> Tensor:
    """One signal ``(channels, *size)`` as the codec wants it.

    Raises:
        UnreadableFile: if it cannot be read.
    """
    if spec.kind == "image":
        return read_image(path, spec.channels)
    return read_audio(path, spec.sample_rate, spec.channels)[0]


def write_signal(path: Path, values: Tensor, spec: CodeSpec) -> None:
    """Write a PNG, or a WAV of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if spec.kind == "image":
        write_image(path, values)
    else:
        assert spec.sample_rate is not None
        write_audio(path, values, spec.sample_rate)


def output_names(keys: Sequence[str], kind: str) -> dict[str, str]:
    """File of each key: its suffix becomes ``.png`` or ``.wav``, or that is added where two would be one.

    Raises:
        VqError: for a key that leads out of the folder.
    """
    suffix = ".png" if kind == "image" else ".wav"
    short: dict[str, list[str]] = {}
    for key in keys:
        path = PurePosixPath(key)
        if path.is_absolute() or ".." in path.parts or "\\" in key or not path.name:
            raise VqError(f"tokens of {key!r}: this name leads out of the folder; not written")
        short.setdefault(path.with_suffix(suffix).as_posix(), []).append(key)
    return {
        key: name if len(together) == 1 else key + suffix
        for name, together in short.items()
        for key in together
    }
