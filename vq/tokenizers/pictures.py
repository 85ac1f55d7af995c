"""What a tokenizer makes of a few fixed items, as files: PNG for images, WAV and spectrograms for sounds."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor

from vq.tokenizers.callbacks import reconstruct
from vq.tokenizers.module import TokenizerModule


def is_dump_step(step: int, steps: int) -> bool:
    """Whether to look at a step: every power of two, and the last."""
    return step == steps or (step > 0 and step & (step - 1) == 0)


class Samples(lightning.Callback):
    """Writes inputs and outputs of fixed items at log-spaced steps.

    Args:
        folder: gets ``step_000000064.png`` or ``step_000000064_0_input.wav`` and so on.
        items: ``(B, channels, *size)``; a few.
        steps: batches of the run.
        sample_rate: of sounds, in Hz; None for images.
    """

    def __init__(
        self, folder: Path, items: Tensor, steps: int, sample_rate: int | None = None
    ) -> None:
        super().__init__()
        self.folder = folder
        self.items = items
        self.steps = steps
        self.sample_rate = sample_rate

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write when it is time."""
        assert isinstance(pl_module, TokenizerModule)
        if is_dump_step(pl_module.step, self.steps) and trainer.is_global_zero:
            output = reconstruct(pl_module, self.items)
            write_samples(self.folder, pl_module.step, self.items, output, self.sample_rate)


def write_samples(
    folder: Path, step: int, items: Tensor, output: Tensor, sample_rate: int | None = None
) -> None:
    """Write pairs ``(B, channels, *size)`` of one step.

    Images: one PNG, a row for each item: input, output, difference (grey is none). Sounds: two WAV files for each item,
    and a PNG of both spectrograms where matplotlib is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step_{step:09d}"
    if sample_rate is None:
        write_png(folder / f"{name}.png", picture(items, output))
        return
    for number, pair in enumerate(zip(items, output, strict=True)):
        for part, signal in zip(("input", "output"), pair, strict=True):
            write_wav(folder / f"{name}_{number}_{part}.wav", signal, sample_rate)
    _spectrograms(folder / f"{name}.png", items, output, sample_rate)


def picture(items: Tensor, output: Tensor) -> Tensor:
    """Input, output and half their difference side by side, items below each other: bytes ``(C, H, W)``."""
    rows = [
        torch.cat([a, b, (b - a) / 2], dim=-1)
        for a, b in zip(items, output.clamp(-1, 1), strict=True)
    ]
    whole = torch.cat(rows, dim=-2)
    return ((whole + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def write_png(path: Path, pixels: Tensor) -> None:
    """Write bytes ``(1 or 3, H, W)`` as a PNG file; a number of other channels shows the first."""
    from PIL import Image

    shown = pixels if len(pixels) == 3 else pixels[:1]
    array = shown.movedim(0, -1).squeeze(-1).contiguous().numpy()
    temporary = path.with_suffix(".tmp")
    Image.fromarray(array).save(temporary, format="PNG")
    temporary.replace(path)


def write_wav(path: Path, signal: Tensor, sample_rate: int) -> None:
    """Write ``(channels, samples)`` from -1 to 1 as 16-bit WAV."""
    pcm = (signal.clamp(-1, 1) * 32767).round().to(torch.int16).T.contiguous()
    temporary = path.with_suffix(".tmp")
    with wave.open(str(temporary), "wb") as file:
        file.setnchannels(len(signal))
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.numpy().tobytes())
    temporary.replace(path)


def _spectrograms(path: Path, items: Tensor, output: Tensor, sample_rate: int) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 2.5 * len(items)), layout="constrained")
    axes = figure.subplots(len(items), 2, squeeze=False, sharex=True, sharey=True)
    for row, pair in zip(axes, zip(items, output, strict=True), strict=True):
        for axis, title, signal in zip(row, ("input", "output"), pair, strict=True):
            with np.errstate(divide="ignore"):  # silence
                axis.specgram(signal.mean(0).numpy() + 1e-8, NFFT=512, noverlap=384, Fs=sample_rate)
            axis.set_title(title)
            axis.set_ylabel("Hz")
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png", dpi=80)
    temporary.replace(path)
