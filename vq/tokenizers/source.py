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
from vq.tokenizers.atomic import UnreadableFile
from vq.tokenizers.audio import AUDIO_SUFFIXES, audio_info, read_audio
from vq.tokenizers.data import Load, Pieces
from vq.tokenizers.images import IMAGE_SUFFIXES, image_info, read_image
from vq.tokenizers.recipe import Recipe


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
    """Find and look at the files of a folder; broken ones are left out and counted.

    Raises:
        VqError: if there is no folder, or no readable file of the recipe's kind.
    """
    root = Path(data)
    if not root.is_dir():
        raise VqError(f"data: {root} is no folder")
    image = recipe.kind == "image"
    known = IMAGE_SUFFIXES if image else AUDIO_SUFFIXES
    found = sorted(p for p in root.rglob("*") if p.suffix.lower() in known and p.is_file())
    sizes, broken = _sizes(found, image)
    if not sizes:
        hint = f"; {len(broken)} cannot be read, the first: {broken[0]}" if broken else ""
        raise VqError(f"{root} has no {recipe.kind} files ({', '.join(sorted(known))}){hint}")
    train, held_out = split(list(sizes), root)
    shares = [1] * len(train)
    if not image:
        shares = [math.ceil(sizes[path][0] / recipe.seconds) for path in train]
    rows = [("files", f"{len(sizes)}, {len(held_out)} held out"), ("", _extent(sizes, image))]
    if len(sizes) == 1:
        rows[0] = ("files", "1; nothing is held out, measures are of the training file")
    if broken:
        rows.append(("left out", f"{len(broken)} files, the first: {broken[0]}"))
    digest = hashlib.sha256()
    for path in sizes:
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
    load = _image_loader(recipe) if image else _sound_loader(recipe)
    return Source(train, held_out, load, shares, rows, digest.hexdigest())


def _sizes(files: Sequence[Path], image: bool) -> tuple[dict[Path, tuple[float, ...]], list[str]]:
    """Height and width, or seconds, of each readable file; and what is wrong with the others."""
    sizes: dict[Path, tuple[float, ...]] = {}
    broken = []
    for path in files:
        try:
            sizes[path] = image_info(path).size if image else (audio_info(path).seconds,)
        except UnreadableFile as error:
            broken.append(str(error))
    return sizes, broken


def _extent(sizes: dict[Path, tuple[float, ...]], image: bool) -> str:
    if image:
        sides = sorted(sizes.values())
        small, large = min(sides, key=min), max(sides, key=max)
        return f"{small[0]:.0f}x{small[1]:.0f} to {large[0]:.0f}x{large[1]:.0f} pixels"
    seconds = [size[0] for size in sizes.values()]
    return f"{sum(seconds) / 60:.1f} minutes, {min(seconds):.1f} to {max(seconds):.1f} s"


def _image_loader(recipe: Recipe) -> Load:
    """Images as bytes, a quarter of the memory of floats; scaled to ``resize`` where the recipe says so."""

    def load(path: Path) -> Tensor:
        pixels = read_image(path, recipe.channels)
        short = min(pixels.shape[1:])
        if recipe.resize and short != recipe.resize:
            size = [max(round(n * recipe.resize / short), recipe.resize) for n in pixels.shape[1:]]
            pixels = torch.nn.functional.interpolate(
                pixels[None], size, mode="bilinear", antialias=True, align_corners=False
            )[0]
        return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    return load


def _sound_loader(recipe: Recipe) -> Load:
    def load(path: Path) -> Tensor:
        return read_audio(path, recipe.sample_rate, recipe.channels)[0]

    return load
