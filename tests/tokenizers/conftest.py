"""Tiny folders of pictures and sounds, and recipes that train on them in a second."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

BACKBONE = {"name": "conv2d", "factor": 4, "dim": 8, "width": 8}
SOUND = {"name": "seanet", "strides": [4, 5], "dim": 8, "width": 8, "dilations": [1]}


def waves(number: int, height: int, width: int) -> torch.Tensor:
    """A smooth colourful picture, bytes ``(3, height, width)``."""
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None, :]
    planes = [
        torch.sin(7 * x + number + c) * torch.cos(5 * y * (1 + number % 3) - c) for c in range(3)
    ]
    return ((torch.stack(planes) + 1) * 127.5).round().to(torch.uint8)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Six pictures of different sizes, one of them in a subfolder."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for number in range(6):
        pixels = waves(number, 40 + 3 * number, 60 - 4 * number).movedim(0, -1).contiguous()
        place = folder / "more" if number == 3 else folder
        image.fromarray(pixels.numpy()).save(place / f"p{number}.png")
    return folder


@pytest.fixture(scope="session")
def sounds(tmp_path_factory) -> Path:
    """Four sounds of 0.1 to 0.4 seconds at 8 kHz."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(4):
        t = torch.arange(800 * (1 + number)) / 8000
        x = 0.5 * torch.sin(2 * math.pi * (200 + 90 * number) * t)
        soundfile.write(folder / f"s{number}.wav", x.numpy(), 8000)
    return folder


@pytest.fixture(scope="session")
def image_recipe() -> Callable[..., Any]:
    """Function: a recipe of a few steps on 16x16 crops, with changes."""
    from vq.tokenizers.recipe import Recipe

    def make(**changes: Any) -> Any:
        values = {
            "size": 16,
            "backbone": BACKBONE,
            "quantizer": {"kind": "vq", "codebook": "kmeans(dim=8, entries=32)"},
            "loss": {"l1": 1.0},
            "steps": 12,
            "batch": 4,
            "warmup": 0.34,
            "start_vectors": 128,
        }
        return Recipe.from_dict({**values, **changes})

    return make


@pytest.fixture(scope="session")
def sound_recipe() -> Callable[..., Any]:
    """Function: a recipe of a few steps on 0.1 s clips, with changes."""
    from vq.tokenizers.recipe import Recipe

    def make(**changes: Any) -> Any:
        values = {
            "kind": "audio",
            "channels": 1,
            "sample_rate": 8000,
            "seconds": 0.1,
            "backbone": SOUND,
            "quantizer": {"kind": "vq", "codebook": "kmeans(dim=8, entries=16)"},
            "loss": {"l1": 1.0},
            "steps": 6,
            "batch": 2,
            "warmup": 0.34,
            "start_vectors": 64,
        }
        return Recipe.from_dict({**values, **changes})

    return make
