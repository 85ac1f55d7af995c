"""A run's folder: what it was started with, and where it stands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from vq.errors import VqError
from vq.tokenizers.callbacks import checkpoints

VERSION = 1
_OURS = ("checkpoints", "samples", "model", "tensorboard")
_FILES = ("run.json", "recipe.yaml", "metrics.csv")


class RunFolder:
    """Paths of a run, and its settings in ``run.json``.

    Args:
        root: the folder; made when the run starts.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.checkpoints = self.root / "checkpoints"
        self.samples = self.root / "samples"
        self.model = self.root / "model"
        self.metrics = self.root / "metrics.csv"
        self._settings = self.root / "run.json"

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        found = checkpoints(self.checkpoints)
        return found[-1] if found else None

    @property
    def last_step(self) -> int:
        """Batches the newest checkpoint has seen."""
        return int(self.last.stem.removeprefix("step_")) if self.last else 0

    def open(self, settings: dict[str, Any], *, fresh: bool = False) -> None:
        """Start a run here, or go on with the one there is.

        Args:
            settings: recipe, seed and whatever else a resumed run must share, JSON-able.
            fresh: throw away what a run has left here.

        Raises:
            VqError: if the folder holds a run with other settings (each is named), or files that are no run's.
        """
        known = self._settings.exists()
        if known and not fresh:
            self._compare(settings)
            return
        if known:
            self._clear()
        elif self.root.exists() and any(self.root.iterdir()):
            raise VqError(
                f"{self.root} holds files but no run; give another folder with --out, or empty it"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": VERSION, **settings}, indent=2)
        temporary = self._settings.with_suffix(".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self._settings)

    def _compare(self, settings: dict[str, Any]) -> None:
        try:
            before = json.loads(self._settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise VqError(f"{self._settings} is damaged; give --fresh to start anew") from error
        now = json.loads(json.dumps({"version": VERSION, **settings}))
        changed = [
            f"{key} {_short(old)} -> {_short(new)}"
            for key, (old, new) in sorted(_pairs(before, now).items())
            if old != new
        ]
        if changed:
            raise VqError(
                f"{self.root} holds a run with other settings: {'; '.join(changed)}. Give the same ones to go on "
                "with it, --fresh to throw it away, or another --out"
            )

    def _clear(self) -> None:
        """Remove what runs leave; other files stay."""
        for name in _OURS:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for name in _FILES:
            (self.root / name).unlink(missing_ok=True)


def _pairs(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Values of two nested maps by dotted key; None where one has no such key."""
    if not isinstance(a, dict) or not isinstance(b, dict):
        return {prefix: (a, b)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in {*a, *b}:
        name = f"{prefix}.{key}" if prefix else str(key)
        found.update(_pairs(a.get(key), b.get(key), name))
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
