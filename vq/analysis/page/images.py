"""Pictures that a training run has written, before and after the codebook, as parts of the page."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import dataclass
from pathlib import Path

BUDGET = 700_000  # bytes of all pictures, before base64
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_SIDE = 1100


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        name: of its file.
        data: of it, as an address that holds the bytes.
        size: (width, height) in pixels.
        words: what it shows.
    """

    name: str
    data: str
    size: tuple[int, int]
    words: str


def pictures(folder: Path, budget: int = BUDGET) -> list[Picture]:
    """First and last of ``samples/*.png`` of a run; what cannot be read or made small enough is left out."""
    files = sorted((folder / "samples").glob("*.png")) if folder.is_dir() else []
    chosen = files if len(files) < 2 else [files[0], files[-1]]
    found = []
    for file in chosen:
        content = _small(file, budget // len(chosen))
        if content is not None:
            kind, data, size = content
            address = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
            when = (
                "at the first sample"
                if file == files[0] and len(files) > 1
                else "at the last sample"
            )
            words = (
                f"Samples {when} of the run ({file.name}): input beside output of the tokenizer."
            )
            found.append(Picture(file.name, address, size, words))
    return found


def png_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a PNG file's head tells; None for anything else."""
    if data[:8] != _SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return (width, height) if 0 < width < 1 << 16 and 0 < height < 1 << 16 else None


def _small(file: Path, most: int) -> tuple[str, bytes, tuple[int, int]] | None:
    """Bytes as they are, or scaled and coded anew where they are too many."""
    try:
        if file.stat().st_size > 64 << 20:
            return None
        data = file.read_bytes()
    except OSError:
        return None
    size = png_size(data)
    if size is None:
        return None
    return ("png", data, size) if len(data) <= most else _coded(data, most)


def _coded(data: bytes, most: int) -> tuple[str, bytes, tuple[int, int]] | None:
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    for side, quality in ((_MOST_SIDE, 85), (800, 75), (500, 60)):
        small = picture.copy()
        small.thumbnail((side, 2 * side))
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= most:
            return "jpeg", buffer.getvalue(), small.size
    return None
