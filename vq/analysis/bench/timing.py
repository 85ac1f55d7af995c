"""Methods beside each other: times that alternate in one process, and the memory a call takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

_SHORTEST = 0.02  # seconds of one timing


def medians(calls: Mapping[str, Callable[[], Any]], rounds: int = 3) -> dict[str, float]:
    """Seconds of each call: the median of rounds in which every call has its turn, after one to warm up.

    A call shorter than 20 milliseconds is repeated until they are full, and its mean taken.

    With one thread they are seconds of that thread's processor time, which other programs disturb least; with
    more, seconds by the clock.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begun, count = clock(), 0
            while not count or clock() - begun < _SHORTEST:
                call()
                count += 1
            if turn:
                times[name].append((clock() - begun) / count)
    return {name: statistics.median(own) for name, own in times.items()}


def peak_mib(call: Callable[[], Any]) -> float | None:
    """Mebibytes that memory in use rose by during a call; None where the system does not tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    try:
        reset.write_text("5", encoding="ascii")
        before = _kib(status, "VmRSS")
        call()
        return max(0.0, (_kib(status, "VmHWM") - before) / 1024)
    except (OSError, KeyError):
        return None


def _kib(status: Path, field: str) -> int:
    lines = status.read_text(encoding="ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[field].split()[0])
