"""The files a tokenizer is trained on: which, how often, and how they are read."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vq.tokenizers.audio import normalise_loudness, read_audio
from vq.tokenizers.data import Load, Pieces
from vq.tokenizers.folder import Folder, Kind, MediaFile, inspect_folder, list_files
from vq.tokenizers.images import read_image
from vq.tokenizers.recipe import Recipe

_DECODED = 5000
"""Folders of more files are looked at by their headers alone."""


@dataclass(frozen=True)
class Source:
    """A folder as a recipe reads it.

    Attributes:
        folder: what lies in it, split in two.
        load: reads one file.
    """

    folder: Folder
    load: Load

    @property
    def held_out(self) -> tuple[MediaFile, ...]:
        """Files to measure on; those of training where the folder has one file only."""
        return self.folder.val or self.folder.train

    @property
    def digest(self) -> str:
        """Hash of names and contents: a resumed run needs the same files in the same order."""
        names = "".join(f"{item.key} {item.digest} {item.split}\n" for item in self.folder.items)
        return hashlib.sha256(names.encode()).hexdigest()

    def shares(self, recipe: Recipe) -> list[int]:
        """Visits of each training file in an epoch: one for each clip that fits, one for a picture."""
        if recipe.kind == "image":
            return [1] * len(self.folder.train)
        return [max(math.ceil(item.seconds / recipe.seconds), 1) for item in self.folder.train]

    def pieces(self, recipe: Recipe, seed: int) -> Pieces:
        """Random pieces of the training files."""
        return Pieces(
            [item.path for item in self.folder.train],
            self.load,
            recipe.item_size,
            seed=seed,
            shares=self.shares(recipe),
            flip=recipe.flip and recipe.kind == "image",
        )

    def fixed(self, recipe: Recipe, count: int, seed: int = 0) -> Tensor:
        """The same held-out pieces every time, ``(count, channels, *size)``."""
        paths = [item.path for item in self.held_out]
        pieces = Pieces(paths, self.load, recipe.item_size, seed=seed)
        return torch.stack([pieces[n] for n in range(count)])


def inspect(data: str | Path, recipe: Recipe) -> Source:
    """Find and look at the files of a folder; broken ones are left out and told.

    Raises:
        VqError: if there is no folder, or no readable file of the recipe's kind.
    """
    decode = len(list_files(Path(data))) <= _DECODED
    kind: Kind = "image" if recipe.kind == "image" else "audio"
    folder = inspect_folder(data, kind, decode=decode, minimum=1)
    return Source(folder, _image_loader(recipe) if kind == "image" else _sound_loader(recipe))


def _image_loader(recipe: Recipe) -> Load:
    """Images as bytes, a quarter of the memory of floats; scaled to ``resize`` where the recipe says so."""

    def load(path: Path) -> Tensor:
        """``(channels, height, width)`` uint8 of a file."""
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
    """Sounds at the recipe's rate and, where it says so, at one loudness: that of the whole file, as in encoding."""

    def load(path: Path) -> Tensor:
        x = read_audio(path, recipe.sample_rate, recipe.channels)[0]
        return normalise_loudness(x)[0] if recipe.normalisation == "loudness" else x

    return load
