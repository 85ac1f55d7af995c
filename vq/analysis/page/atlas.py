"""What codes stand for, as parts of the page: pieces of pictures, or spectrograms, of the most used codes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vq.analysis.page.images import Picture
from vq.analysis.svg.tags import clean, tag

BUDGET = 300_000  # bytes of all pictures, before base64
_GAP = 2  # pixels between pieces


@dataclass(frozen=True, eq=False)
class AtlasEntry:
    """One code.

    Attributes:
        code: its number.
        count: positions that have it.
        pieces: pictures beside each other, bytes ``(height, width)`` or ``(height, width, 3)``, of one size.
        words: what is to be seen.
    """

    code: int
    count: int
    pieces: tuple[np.ndarray, ...]
    words: str


@dataclass(frozen=True, eq=False)
class Atlas:
    """What the most used codes stand for.

    Attributes:
        entries: by falling use.
        positions: that were looked at.
        used: codes that occur there.
        about: a sentence: what the pieces are, and of what.
    """

    entries: tuple[AtlasEntry, ...]
    positions: int
    used: int
    about: str


def atlas_pictures(atlas: Atlas, budget: int = BUDGET) -> list[tuple[AtlasEntry, Picture]]:
    """A picture for each code, the most used first, as many as the budget takes."""
    found, left = [], budget
    for entry in atlas.entries:
        pixels = side_by_side(entry.pieces)
        data = png(pixels)
        left -= len(data)
        if left < 0:
            break
        address = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        words = f"{_title(entry, atlas)}. {entry.words}"
        size = (pixels.shape[1], pixels.shape[0])
        found.append((entry, Picture(f"code {entry.code}", address, size, words)))
    return found


def _title(entry: AtlasEntry, atlas: Atlas) -> str:
    return f"Code {entry.code}, at {entry.count / max(atlas.positions, 1):.2%} of the positions"


def atlas_section(atlas: Atlas | None, budget: int = BUDGET) -> str:
    """The part of the page; empty without an atlas."""
    if atlas is None or not atlas.entries:
        return ""
    parts = []
    for entry, picture in atlas_pictures(atlas, budget):
        width, height = picture.size
        # the address is made here of base64, so nothing of it needs escaping
        image = f'<img src="{picture.data}" alt="{clean(picture.words)}" width="{width}" height="{height}">'
        parts.append(tag("figure", image + tag("figcaption", clean(_title(entry, atlas)))))
    about = (
        f"{atlas.about} Shown: the {len(parts)} most used of {atlas.used:,} codes that occur, over "
    )
    about += f"{atlas.positions:,} positions."
    head = tag("h2", "What the codes stand for", id="atlas") + tag("p", clean(about))
    return tag("section", head + tag("div", parts, class_="atlas"))


def side_by_side(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one size in a row, white between them."""
    gap = np.full((pieces[0].shape[0], _GAP, *pieces[0].shape[2:]), 255, np.uint8)
    row = [part for piece in pieces for part in (gap, piece)][1:]
    return np.concatenate(row, axis=1)


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of bytes ``(height, width)`` grey or ``(height, width, 3)`` red, green, blue."""
    height, width = pixels.shape[:2]
    lines = pixels.reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1).tobytes()
    head = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
