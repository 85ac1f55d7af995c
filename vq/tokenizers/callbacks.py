"""Lightning callbacks of a training run: checkpoints, the end, validation, the progress line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from vq.tokenizers.module import TokenizerModule
from vq.tokenizers.monitor import CodebookMonitor

Quality = Callable[[Tensor, Tensor], dict[str, float]]
"""Named measures of outputs against inputs, both ``(B, channels, *size)``."""


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a run, the oldest first."""
    return sorted(folder.glob("step_*.ckpt"))


class Keeper(lightning.Callback):
    """Saves the whole state now and then and ends the run, at its last step or when its time is over.

    When a checkpoint is written changes nothing in the run, so that the clock may decide it.

    Args:
        folder: of the checkpoints.
        steps: batches of the run.
        every: batches between checkpoints.
        seconds: also save when this much time went by.
        limit: seconds after which the run stops, to be resumed; None for no limit.
        keep: how many checkpoints stay.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        every: int = 1000,
        seconds: float = 120.0,
        limit: float | None = None,
        keep: int = 2,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.steps = steps
        self.every = every
        self.seconds = seconds
        self.limit = limit
        self.keep = keep
        self._begun = self._saved = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save or stop when it is time."""
        assert isinstance(pl_module, TokenizerModule)
        now = time.monotonic()
        over = self.limit is not None and now - self._begun >= self.limit
        late = now - self._saved >= self.seconds
        over, late = _of_rank_zero(trainer, over, late)
        done = pl_module.step >= self.steps or over
        if done or late or pl_module.step % self.every == 0:
            self.save(trainer, pl_module.step)
            self._saved = now
        if done:
            trainer.should_stop = True

    def save(self, trainer: lightning.Trainer, step: int) -> None:
        """Write a checkpoint under a temporary name, then rename it; drop the oldest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{step:09d}.ckpt"
        temporary = path.with_suffix(".tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(path)
            for old in checkpoints(self.folder)[: -self.keep]:
                old.unlink()


def _of_rank_zero(trainer: lightning.Trainer, *flags: bool) -> tuple[bool, ...]:
    """The first process' clock decides for all."""
    if trainer.world_size == 1:
        return flags
    return tuple(bool(f) for f in trainer.strategy.broadcast(flags))


class Validation(lightning.Callback):
    """Measures fixed items in eval mode every so many batches, as ``validation/...``.

    Args:
        items: ``(B, channels, *size)``.
        quality: measures.
        every: batches between two looks.

    Attributes:
        latest: values of the last look.
    """

    def __init__(self, items: Tensor, quality: Quality, every: int) -> None:
        super().__init__()
        self.items = items
        self.quality = quality
        self.every = every
        self.latest: dict[str, float] = {}

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure when it is time."""
        assert isinstance(pl_module, TokenizerModule)
        if pl_module.step % self.every == 0 or pl_module.step == pl_module.recipe.steps:
            output = reconstruct(pl_module, self.items)
            found = self.quality(output, self.items)
            self.latest = {f"validation/{name}": value for name, value in found.items()}
            for logger in trainer.loggers:
                logger.log_metrics(self.latest, step=pl_module.step)


@torch.no_grad()
def reconstruct(module: TokenizerModule, items: Tensor, batch: int = 32) -> Tensor:
    """Items through the tokenizer in eval mode, on the CPU; the module's mode and random state stay."""
    tokenizer, training = module.tokenizer, module.tokenizer.training
    tokenizer.eval()
    parts = [tokenizer(part.to(module.device)).values.float().cpu() for part in items.split(batch)]
    tokenizer.train(training)
    return torch.cat(parts)


class Report(lightning.Callback):
    """Logs the means of the losses and shows one line every so many batches; goes after the other callbacks.

    Args:
        steps: batches of the run.
        every: batches between lines.
        monitor: use of the codebook.
        validation: measures.
        show: prints a line; None stays silent.
    """

    def __init__(
        self,
        steps: int,
        every: int,
        monitor: CodebookMonitor,
        validation: Validation,
        show: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.every = every
        self.monitor = monitor
        self.validation = validation
        self.show = show
        self.latest: dict[str, float] = {}
        self._clock = time.monotonic()
        self._items = 0

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Log and show when it is time."""
        assert isinstance(pl_module, TokenizerModule)
        self._items += len(batch) * trainer.world_size
        step = pl_module.step
        if step % self.every and step != self.steps:
            return
        means = pl_module.take_means()
        rate = self._items / max(time.monotonic() - self._clock, 1e-9)
        self._clock, self._items = time.monotonic(), 0
        values = {f"train/{name}": value for name, value in means.items()}
        values["train/learning_rate"] = pl_module.learning_rate(step - 1)
        values["train/skipped"] = float(pl_module.skipped)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        self.latest = {**values, **self.monitor.latest, **self.validation.latest}
        if self.show is not None and trainer.is_global_zero:
            left = (self.steps - step) * len(batch) * trainer.world_size / rate
            head = f"step {step}/{self.steps} {pl_module.phase}"
            self.show(f"{head}  {line(self.latest)}  {rate:.0f} items/s, {duration(left)} left")


def line(values: Mapping[str, float]) -> str:
    """The numbers that matter most, in words."""
    parts = []
    if "train/loss" in values:
        parts.append(f"loss {values['train/loss']:.4f}")
    for name, unit in (("psnr", "PSNR"), ("si_sdr", "SI-SDR")):
        if f"validation/{name}" in values:
            parts.append(f"{unit} {values[f'validation/{name}']:.2f} dB")
    use = {key.removeprefix("codebook/"): v for key, v in values.items() if "codebook/" in key}
    if "utilization" in use:
        parts.append(
            f"utilization {use['utilization']:.1%} (N/K {use['n_over_k']:.1f}, ceiling {use['ceiling']:.0%})"
        )
        parts.append(f"perplexity {use['perplexity']:.0f}")
    if "revived" in use:
        parts.append(f"revived {use['revived']:.0f}")
    if "effective_rank" in use:
        parts.append(f"rank {use['effective_rank']:.1f}")
    if values.get("train/skipped"):
        parts.append(f"skipped {values['train/skipped']:.0f}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """``12 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min"


def to_stderr(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)
