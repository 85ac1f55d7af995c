"""A training run apart from its recipe, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from vq.errors import VqError

PASS = 0.5
"""Items are learnt by heart once their loss is at most this share of a constant signal's."""


@dataclass(frozen=True)
class TrainOptions:
    """A run, apart from its recipe.

    Attributes:
        seed: of weights, data order and every other draw.
        max_minutes: stop cleanly after this time, to be resumed; None for no limit.
        overfit: learn this many fixed items by heart; 0 trains on all.
        fresh: throw away what an earlier run left in the folder.
        workers: processes that read data; 0 reads in the main one.
        devices: processes (GPUs) of Lightning's Trainer.
        accelerator: of Lightning's Trainer.
        tensorboard: also write TensorBoard's event files, in ``tensorboard``.
        log_every: batches between lines of the report; 0 takes a fiftieth of the run, between 1 and 100.
        held_out: held-out items that are measured.
        show: takes each line of the report; None stays silent.
    """

    seed: int = 0
    max_minutes: float | None = None
    overfit: int = 0
    fresh: bool = False
    workers: int = 0
    devices: int = 1
    accelerator: str = "auto"
    tensorboard: bool = False
    log_every: int = 0
    held_out: int = 32
    show: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise VqError(f"max_minutes: expected more than 0, got {self.max_minutes}")
        for name in ("overfit", "workers", "log_every"):
            if getattr(self, name) < 0:
                raise VqError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.tensorboard and not (find_spec("tensorboard") or find_spec("tensorboardX")):
            raise VqError(
                "event files need tensorboard; install it with: pip install 'vq-toolkit[tensorboard]'"
            )
        if self.devices < 1 or self.held_out < 1:
            raise VqError("devices and held_out: expected at least 1")


@dataclass(frozen=True)
class TrainReport:
    """What came out of a run.

    Attributes:
        folder: the run's.
        step: batches done.
        steps: batches of the whole run.
        seconds: of this call.
        values: the last numbers logged.
        model: folder of the tokenizer; None where the quantizer has not started yet.
        model_hash: of the tokenizer.
        overfit: ratio of the loss to that of a constant signal, where items were to be learnt by heart.
    """

    folder: Path
    step: int
    steps: int
    seconds: float
    values: dict[str, float] = field(default_factory=dict)
    model: Path | None = None
    model_hash: str | None = None
    overfit: float | None = None

    @property
    def finished(self) -> bool:
        """Whether the last step was done."""
        return self.step >= self.steps

    @property
    def passed(self) -> bool:
        """False if items were to be learnt by heart and were not."""
        return self.overfit is None or self.overfit <= PASS
