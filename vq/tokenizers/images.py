"""Images in and out: any file that Pillow reads, as float32 ``(channels, height, width)`` in [-1, 1]."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vq._files import atomic_file
from vq.errors import VqError
from vq.tokenizers.atomic import UnreadableFile, check_exists

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ImportError as error:  # pragma: no cover
    raise VqError("images need Pillow: pip install 'vq-toolkit[train]'") from error

IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .tga .avif".split()
)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")  # grey of more than 8 bits
_SIDEWAYS = 5  # orientations of EXIF from here on swap height and width


@dataclass(frozen=True)
class ImageInfo:
    """What the header of an image says.

    Attributes:
        size: (height, width) in pixels, after EXIF rotation.
        channels: 1 for grey, 3 for everything else.
        mode: Pillow's name of the pixel format.
    """

    size: tuple[int, int]
    channels: int
    mode: str


def image_info(path: str | Path) -> ImageInfo:
    """Size and channels of an image, without decoding the pixels.

    Raises:
        UnreadableFile: if this is no image.
    """
    with _opened(Path(path)) as image:
        width, height = image.size
        early = (
            image.format != "PNG" or "exif" in image.info
        )  # PNG decodes all to look for it at the end
        if early and image.getexif().get(0x0112, 1) >= _SIDEWAYS:
            width, height = height, width
        grey = image.mode in ("1", "L", "LA", "La", *_WIDE)
        return ImageInfo((height, width), 1 if grey else 3, image.mode)


def read_image(path: str | Path, channels: int = 3) -> Tensor:
    """Read an image, whatever its pixel format.

    EXIF rotation is applied. Transparent pixels are laid on white. Of an animation the first frame is read. Grey
    becomes three equal channels, colour becomes grey by the luma of ITU-R BT.601. Grey of 16 bits keeps all of them
    (Pillow reduces colour of 16 bits to 8). CMYK and YCbCr are converted by Pillow; colour profiles are not applied.

    Args:
        path: the file.
        channels: 3 for RGB, 1 for grey.

    Returns:
        float32 ``(channels, height, width)`` in [-1, 1].

    Raises:
        UnreadableFile: if the file is missing, broken, cut short or too large; says which and why.
        ValueError: for another number of channels.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels: expected 1 or 3, got {channels}")
    with _opened(Path(path)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        values = _grey(upright, Path(path)) if upright.mode in _WIDE else _colour(upright)
    if values.ndim == 2:
        values = values[..., None]
    if values.shape[2] == 3 and channels == 1:
        values = values @ np.array(LUMA, np.float32)[:, None]
    planes = np.broadcast_to(values, (*values.shape[:2], channels)).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes) * 2 - 1)


def write_image(path: str | Path, image: Tensor) -> None:
    """Write a PNG of 8 bits; values outside [-1, 1] are clipped. Appears complete or not at all.

    Args:
        path: ends in .png.
        image: float ``(channels, height, width)``, 1 or 3 channels.

    Raises:
        ValueError: for another shape, suffix or numbers that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path: images are written as .png, got {path.name!r}")
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"image: expected shape (1 or 3, height, width), got {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("image: expected finite numbers")
    scaled = (image.detach().cpu().float().clamp(-1, 1) + 1) * 127.5
    pixels = scaled.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    with atomic_file(path) as file:
        Image.fromarray(pixels[..., 0] if image.shape[0] == 1 else pixels).save(file, format="PNG")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An open image; whatever goes wrong inside is the file's fault and says so."""
    check_exists(path)
    try:
        with Image.open(path) as image:
            if 0 in image.size:
                raise UnreadableFile(path, f"has no pixels (size {image.size})")
            yield image
    except UnreadableFile:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableFile(path, "is no image that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise UnreadableFile(path, f"is too large: {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, IndexError, ...
        raise UnreadableFile(path, f"is a broken image: {error}") from error


def _grey(image: Image.Image, path: Path) -> np.ndarray:
    """Grey of 16 bits or float as float32 ``(height, width)`` in [0, 1]."""
    values = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise UnreadableFile(
            path,
            f"has grey values of {values.min():g} to {values.max():g}, expected 0 to {top:g}; "
            "scale them first",
        )
    return (values / top).astype(np.float32)


def _colour(image: Image.Image) -> np.ndarray:
    """Pixels of 8 bits as float32 ``(height, width[, 3])`` in [0, 1], transparency on white."""
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        rgba = np.asarray(image.convert("RGBA")).astype(np.float32) / 255
        alpha = rgba[..., 3:]
        return rgba[..., :3] * alpha + (1 - alpha)
    plain = (
        image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
    )
    return np.asarray(plain).astype(np.float32) / 255
