"""Pictures for people: signals from a tokenizer and from a codec side by side; see train_tokenizers.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vq.tokenizers.baselines import to_bytes

SHOWN = 2  # signals
WIDTH = 360  # pixels of each image
SECONDS = 1.5  # of each sound

Pair = tuple[str, Tensor]


def draw(codecs: Sequence[Any], signals: Sequence[Pair], target: Path) -> None:
    """A row for each of a few signals: itself, then what each codec makes of it."""
    kind = codecs[0].kind
    enough = [x for _, x in signals if kind == "image" or x.shape[-1] >= SECONDS * _rate(codecs)]
    step = max(len(enough) // SHOWN, 1)
    rows = []
    for x in enough[::step][:SHOWN]:
        rows.append([x, *(codec.restore(codec.encode(x), x.shape[1:]) for codec in codecs)])
    names = ["original", *(codec.name.split(" residual")[0] for codec in codecs)]
    target.parent.mkdir(parents=True, exist_ok=True)
    (_images if kind == "image" else _spectrograms)(rows, names, target, _rate(codecs))


def _rate(codecs: Sequence[Any]) -> int:
    return int(codecs[0].spec.sample_rate or 0)


def _images(rows: Sequence[Sequence[Tensor]], names: Sequence[str], target: Path, _: int) -> None:
    from PIL import Image

    lines = []
    for row in rows:
        small = [
            functional.interpolate(
                x.clamp(-1, 1)[None],
                (round(WIDTH * x.shape[1] / x.shape[2]), WIDTH),
                mode="bilinear",
                antialias=True,
            )[0]
            for x in row
        ]
        lines.append(torch.cat(small, 2))
    pixels = to_bytes(torch.cat(lines, 1)).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(target, quality=90)
    print(f"{target}: {', '.join(names)}")


def _spectrograms(
    rows: Sequence[Sequence[Tensor]], names: Sequence[str], target: Path, rate: int
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(names), 2.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(names), squeeze=False, sharex=True, sharey=True)
    for line, row in zip(axes, rows, strict=True):
        for axis, name, x in zip(line, names, row, strict=True):
            cut = x.mean(0)[: round(SECONDS * rate)]
            axis.specgram(cut.numpy() + 1e-9, NFFT=512, noverlap=384, Fs=rate, vmin=-130, vmax=-30)
            if axis in axes[0]:
                axis.set_title(name)
            if axis in axes[:, 0]:
                axis.set_ylabel("Hz")
            if axis in axes[-1]:
                axis.set_xlabel("s")
    figure.savefig(target, dpi=64, metadata={"Software": None})
