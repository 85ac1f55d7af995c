"""The files a tokenizer is trained on: found, inspected, split, read."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vq.errors import VqError
from vq.tokenizers.data import Load, Pieces
from vq.tokenizers.recipe import Recipe

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
_SOUNDS = {".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif"}


@dataclass(frozen=True)
class Source:
    """Files of a folder, in two parts that share none.

    Attributes:
        train: files to learn from.
        held_out: files to measure on; the training files again where there is only one.
        load: reads one.
        shares: visits of each training file in an epoch.
        rows: what to tell about the folder.
        digest: of names and sizes; a resumed run compares it.
    """

    train: list[Path]
    held_out: list[Path]
    load: Load
    shares: list[int]
    rows: list[tuple[str, str]]
    digest: str

    def pieces(self, recipe: Recipe, seed: int) -> Pieces:
        """Random pieces of the training files."""
        return Pieces(
            self.train,
            self.load,
            recipe.item_size,
            seed=seed,
            shares=self.shares,
            flip=recipe.flip and recipe.kind == "image",
        )

    def fixed(self, recipe: Recipe, count: int, seed: int = 0) -> Tensor:
        """The same held-out pieces every time, ``(count, channels, *size)``."""
        pieces = Pieces(self.held_out, self.load, recipe.item_size, seed=seed)
        return torch.stack([pieces[n] for n in range(count)])


def split(files: Sequence[Path], root: Path, part: float = 0.1) -> tuple[list[Path], list[Path]]:
    """Training files and about ``part`` of all to hold out, by a hash of each name: a new file moves no other.

    Of two files and more, at least one is held out and one stays.
    """
    keys = {path: _key(path.relative_to(root)) for path in files}
    held = [path for path in files if keys[path] < part]
    if not held:
        held = [min(files, key=lambda path: keys[path])]
    rest = [path for path in files if path not in set(held)]
    if not rest:
        return list(files), list(files)
    return rest, held


def _key(name: Path) -> float:
    digest = hashlib.sha256(name.as_posix().encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def inspect(data: str | Path, recipe: Recipe) -> Source:
    """Find and look at the files of a folder.

    Raises:
        VqError: if there is no folder, no readable file of the recipe's kind, or numpy arrays are needed.
    """
    root = Path(data)
    if not root.is_dir():
        raise VqError(f"--data: {root} is no folder")
    known = _IMAGES if recipe.kind == "image" else _SOUNDS
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in known and p.is_file())
    if not files:
        raise VqError(f"{root} has no {recipe.kind} files ({', '.join(sorted(known))})")
    train, held_out = split(files, root)
    load = _image_loader(recipe) if recipe.kind == "image" else _sound_loader(recipe)
    shares = [1] * len(train)
    if recipe.kind == "audio":
        import soundfile

        shares = [math.ceil(soundfile.info(p).duration / recipe.seconds) for p in train]
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
    rows = [("files", f"{len(files)}, {len(held_out)} held out")]
    return Source(train, held_out, load, shares, rows, digest.hexdigest())


def _image_loader(recipe: Recipe) -> Load:
    def load(path: Path) -> Tensor:
        import numpy
        from PIL import Image

        with Image.open(path) as image:
            array = numpy.array(image.convert("RGB" if recipe.channels == 3 else "L"))
        tensor = torch.from_numpy(array)
        return tensor.movedim(-1, 0).contiguous() if tensor.ndim == 3 else tensor[None]

    return load


def _sound_loader(recipe: Recipe) -> Load:
    def load(path: Path) -> Tensor:
        import soundfile

        array, _rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(array).mean(1)[None]

    return load
