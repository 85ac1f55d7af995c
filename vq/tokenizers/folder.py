"""A folder of images or sound as it is: what can be read, what cannot and why, and a split that stays."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from vq.errors import VqError
from vq.tokenizers.atomic import UnreadableFile

Kind = Literal["image", "audio"]
Split = Literal["train", "val"]
CLIPPED_SHARE, SILENT_DB = 1e-3, -60.0
_HASHED = 1 << 20
_PATIENCE = 3  # seconds before a progress bar appears


@dataclass(frozen=True)
class MediaFile:
    """A readable file.

    Attributes:
        key: path relative to the folder, with forward slashes.
        path: the file.
        size: (height, width) in pixels, or (samples,) at its own rate.
        channels: of the file.
        sample_rate: in Hz; None for images.
        bytes: of the file.
        digest: hash of its size and first MiB; files of equal content share it.
        split: "train" or "val".
        notes: of audio that was decoded: "silent" (below -60 dBFS), "clipped" (over 0.1% of samples at full scale).
    """

    key: str
    path: Path
    size: tuple[int, ...]
    channels: int
    sample_rate: int | None
    bytes: int
    digest: str
    split: Split
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of audio; 0 for images."""
        return self.size[0] / self.sample_rate if self.sample_rate else 0.0


@dataclass(frozen=True)
class Folder:
    """What lies in a folder.

    Attributes:
        root: the folder.
        kind: "image" or "audio".
        items: readable files, sorted by key.
        unreadable: key and reason of the files of this kind that cannot be used.
        ignored: number of other files.
    """

    root: Path
    kind: Kind
    items: tuple[MediaFile, ...]
    unreadable: tuple[tuple[str, str], ...]
    ignored: int

    @property
    def train(self) -> tuple[MediaFile, ...]:
        """Files to train on."""
        return tuple(item for item in self.items if item.split == "train")

    @property
    def val(self) -> tuple[MediaFile, ...]:
        """Held-out files."""
        return tuple(item for item in self.items if item.split == "val")


def inspect_folder(
    root: str | Path,
    kind: Kind | None = None,
    val_fraction: float = 0.1,
    decode: bool = True,
    minimum: int = 2,
    progress: bool = True,
) -> Folder:
    """Look at every file of a folder and its folders; unreadable ones are listed and the rest goes on.

    The split depends on the content of each file alone: adding, moving or renaming files leaves the others where they
    are, and copies of a file are never on both sides. Where chance leaves a side empty (small folders), the file with
    the smallest hash is held out, or the one with the largest is trained on.

    Args:
        root: the folder. Names that start with a dot are left out; links to folders are not followed.
        kind: "image" or "audio"; None for what most files are.
        val_fraction: share that is held out, 0 to below 1.
        decode: decode every file, which finds those that are cut short; otherwise only headers are read.
        minimum: number of readable files below which it is an error.
        progress: show a bar after a few seconds.

    Raises:
        VqError: for a folder that does not exist, is empty, or has too few readable files.
        ValueError: for an unknown kind or a fraction out of range.
    """
    root = Path(root)
    if kind not in (None, "image", "audio"):
        raise ValueError(f"kind: expected image or audio, got {kind!r}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction: expected 0 to below 1, got {val_fraction}")
    names = list_files(root)
    kind = kind or guess_kind(root, names)
    chosen = [name for name in names if Path(name).suffix.lower() in suffixes(kind)]
    if not chosen:
        raise VqError(f"{root}: no {kind} files here; {_found(names)}")
    items: list[MediaFile] = []
    unreadable: list[tuple[str, str]] = []
    bar = tqdm(
        chosen, "reading", unit="file", delay=_PATIENCE, disable=None if progress else True
    )  # None: no bar where nobody watches
    for name in bar:
        try:
            items.append(_look(root, name, kind, decode, val_fraction))
        except UnreadableFile as error:
            unreadable.append((name, error.reason))
    if len(items) < minimum:
        raise VqError(_too_few(root, kind, len(items), minimum, unreadable))
    split = _both_sides(items) if val_fraction else items
    return Folder(root, kind, tuple(split), tuple(unreadable), len(names) - len(chosen))


def list_files(root: Path) -> list[str]:
    """Relative paths of all files below a folder, sorted; the same on every system.

    Raises:
        VqError: if this is no folder.
    """
    if not root.is_dir():
        raise VqError(f"{root}: {'is a file' if root.exists() else 'not found'}; expected a folder")
    return sorted(_walk(root))


def guess_kind(root: Path, names: list[str]) -> Kind:
    """What most files are.

    Raises:
        VqError: if there is neither an image nor sound.
    """
    ends = Counter(Path(name).suffix.lower() for name in names)
    images = sum(ends[suffix] for suffix in suffixes("image"))
    sounds = sum(ends[suffix] for suffix in suffixes("audio"))
    if not images and not sounds:
        raise VqError(f"{root}: neither images nor audio here; {_found(names)}")
    return "image" if images >= sounds else "audio"


def suffixes(kind: Kind) -> frozenset[str]:
    """Endings, in lower case, of the files that are looked at."""
    if kind == "image":
        from vq.tokenizers.images import IMAGE_SUFFIXES

        return IMAGE_SUFFIXES
    from vq.tokenizers.audio import AUDIO_SUFFIXES

    return AUDIO_SUFFIXES


def split_of(digest: str, val_fraction: float) -> Split:
    """Side of a file, from the first 32 bits of its hash."""
    return "val" if int(digest[:8], 16) < val_fraction * 2**32 else "train"


def content_digest(path: Path) -> str:
    """SHA-256 of a file's size and first MiB."""
    digest = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_HASHED))
    return digest.hexdigest()


def _walk(root: Path) -> Iterator[str]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".") and name != "__MACOSX"]
        for name in names:
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _look(root: Path, key: str, kind: Kind, decode: bool, val_fraction: float) -> MediaFile:
    """What one file is; UnreadableFile if it cannot be used."""
    path = root / key
    size, channels, rate, notes = (_look_image if kind == "image" else _look_audio)(path, decode)
    try:
        digest, length = content_digest(path), path.stat().st_size
    except OSError as error:  # gone since it was read
        raise UnreadableFile(path, error.strerror or str(error)) from error
    split = split_of(digest, val_fraction)
    return MediaFile(key, path, size, channels, rate, length, digest, split, notes)


Look = tuple[tuple[int, ...], int, int | None, tuple[str, ...]]


def _look_image(path: Path, decode: bool) -> Look:
    from vq.tokenizers.images import image_info, read_image

    info = image_info(path)
    size = tuple(read_image(path, info.channels).shape[1:]) if decode else info.size
    return size, info.channels, None, ()


def _look_audio(path: Path, decode: bool) -> Look:
    from vq.tokenizers.audio import audio_info, clipped_share, loudness, read_audio

    if not decode:
        info = audio_info(path)
        return (info.samples,), info.channels, info.sample_rate, ()
    x, rate = read_audio(path)
    silent, clipped = loudness(x) < SILENT_DB, clipped_share(x) > CLIPPED_SHARE
    notes = ("silent",) * silent + ("clipped",) * clipped
    return (x.shape[1],), x.shape[0], rate, notes


def _both_sides(items: list[MediaFile]) -> list[MediaFile]:
    """Give a side that is empty one content, where there are two."""
    digests = sorted({item.digest for item in items})
    sides = {item.split for item in items}
    if len(sides) == 2 or len(digests) < 2:
        return items
    if sides == {"train"}:
        return [replace(i, split="val") if i.digest == digests[0] else i for i in items]
    return [replace(i, split="train") if i.digest == digests[-1] else i for i in items]


def _found(names: list[str]) -> str:
    """What there is instead."""
    if not names:
        return "the folder is empty"
    common = Counter(Path(name).suffix.lower() or "no ending" for name in names).most_common(5)
    return "found " + ", ".join(f"{count} of {suffix}" for suffix, count in common)


def _too_few(
    root: Path, kind: str, count: int, minimum: int, unreadable: list[tuple[str, str]]
) -> str:
    text = f"{root}: {count} readable {kind} files, expected at least {minimum}"
    if unreadable:
        some = "; ".join(f"{name} {reason}" for name, reason in unreadable[:3])
        text += f". {len(unreadable)} cannot be read: {some}"
    return text + ". Add files, or look at those that cannot be read"
