"""Training runs: folders with metrics.csv or TensorBoard event files, with the checkpoints beside them."""

from __future__ import annotations

import csv
import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from vq.analysis.files.events import read_events
from vq.analysis.files.open import OWN, opener
from vq.analysis.files.tables import split_state, tables_of_quantizer
from vq.analysis.files.tokenizer import open_tokenizer, read_config
from vq.analysis.subject import History, Subject, Table
from vq.errors import VqError

_EVENTS = "events.out.tfevents.*"
Scalars = Mapping[str, tuple[tuple[int, float], ...]]


def _logs(path: Path) -> list[Path]:
    """Files of logs in a folder: its table of metrics, else event files in it and one level below."""
    if not path.is_dir():
        return []
    tables = [path / "metrics.csv"] if (path / "metrics.csv").is_file() else []
    return tables or sorted(path.glob(_EVENTS)) + sorted(path.glob(f"*/{_EVENTS}"))


def _looks(path: Path) -> bool:
    if path.is_file():
        return path.name == "metrics.csv" or ".tfevents." in path.name
    return bool(_logs(path))


@opener("training run (metrics.csv, TensorBoard events, checkpoints)", _looks, OWN)
def open_run(path: Path) -> Subject:
    """Logs, checkpoints and the finished tokenizer of a run.

    Raises:
        VqError: for logs without a number.
    """
    folder = path if path.is_dir() else path.parent
    logs = [path] if path.is_file() else _logs(path)
    scalars = _merge([_read_log(log) for log in logs])
    if not scalars:
        raise VqError(f"{path}: no numbers in {', '.join(log.name for log in logs)}")
    model = folder / "model"
    finished = open_tokenizer(model) if read_config(model) is not None else None
    config = _quantizer(folder)
    steps = sorted(folder.glob("checkpoints/*.ckpt"), key=_step)
    tables = tuple((_step(file), functools.partial(_checkpoint, file, config)) for file in steps)
    facts: dict[str, Any] = {"logs": [log.name for log in logs], "checkpoints": len(steps)}
    if finished is not None:
        facts |= finished.facts
    return Subject(
        kind="run",
        name=folder.name,
        path=folder,
        facts=facts,
        tables=_last(finished, tables),
        structure="one" if finished is None else finished.structure,
        history=History(scalars, tables),
    )


def _last(
    finished: Subject | None, tables: tuple[tuple[int, Callable[[], tuple[Table, ...]]], ...]
) -> tuple[Table, ...]:
    """Tables of the finished tokenizer, else of the newest checkpoint that can be read."""
    if finished is not None:
        return finished.tables
    for _, read in reversed(tables):
        try:
            return read()
        except VqError:
            continue
    return ()


def _read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    if path.suffix != ".csv":
        return read_events(path)
    found: dict[str, list[tuple[int, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file)):
                step = _number(row.get("step"))
                for name, text in row.items():
                    value = _number(text)
                    if name not in (None, "step") and value is not None:
                        found.setdefault(name, []).append(
                            (number if step is None else int(step), value)
                        )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise VqError(f"{path}: cannot be read ({error})") from error
    return found


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _merge(logs: list[dict[str, list[tuple[int, float]]]]) -> Scalars:
    """Of several logs (a run that was resumed writes more than one), by step; the last value of a step counts."""
    found: dict[str, dict[int, float]] = {}
    for log in logs:
        for name, pairs in log.items():
            found.setdefault(name, {}).update(pairs)
    return {name: tuple(sorted(values.items())) for name, values in sorted(found.items())}


def _step(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    return int(numbers[-1]) if numbers else 0


def _quantizer(folder: Path) -> dict[str, Any]:
    """Configuration of the quantizer: of the finished model, else of the recipe."""
    config = read_config(folder / "model")
    if config is not None:
        return dict(config.get("quantizer") or {})
    for name, load in (("run.json", json.loads), ("recipe.yaml", yaml.safe_load)):
        try:
            found = load((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        inner = found.get("recipe", found) if isinstance(found, dict) else {}
        if isinstance(inner, dict) and isinstance(inner.get("quantizer"), dict):
            return dict(inner["quantizer"])
    return {}


def _checkpoint(path: Path, config: Mapping[str, Any]) -> tuple[Table, ...]:
    """Tables of a Lightning checkpoint, of which tensors alone are read.

    Raises:
        VqError: for a file that holds more than tensors and plain values, or is damaged.
    """
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, Tensor] = data["state_dict"]
    except Exception as error:  # torch raises pickle's errors and its own
        raise VqError(f"{path}: cannot be read safely ({type(error).__name__})") from error
    below = split_state(state)
    tables, _ = tables_of_quantizer(config, below)
    if tables:
        return tables
    names = [name for name, t in below.items() if re.search(r"(^|\.)table$", name) and t.ndim == 2]
    return tuple(Table(name, below[name].float()) for name in names)
