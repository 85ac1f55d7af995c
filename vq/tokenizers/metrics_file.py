"""A CSV file of metrics that a resumed run goes on with."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(Logger):
    """One row for each step at which something was logged; empty cells for what was not.

    Args:
        path: of the file. Rows of steps after ``start``, left by a run that was stopped later than its last
            checkpoint, are dropped.
        start: step the run begins at.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, str]] = {}
        if start and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if int(row["step"]) <= start:
                        self.rows[int(row["step"])] = {k: v for k, v in row.items() if v}

    @property
    def name(self) -> str:
        """Lightning's name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """None is kept."""
        return ""

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing: the run's folder has its recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values to the row of a step and write the file."""
        assert step is not None
        row = self.rows.setdefault(step, {"step": str(step)})
        row.update({name: f"{float(value):.6g}" for name, value in metrics.items()})
        self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["step", *sorted(n for n in names if n != "step")])
            writer.writeheader()
            writer.writerows(self.rows[step] for step in sorted(self.rows))
        temporary.replace(self.path)
