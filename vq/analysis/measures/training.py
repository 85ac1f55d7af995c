"""How a codebook fared while it was trained: use over steps, drift and churn over checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.statistics.estimators import wilson
from vq.analysis.statistics.intervals import around, half_width
from vq.analysis.subject import History, Table
from vq.codebooks.nearest import nearest
from vq.errors import VqError

_POINTS, _CURVES, _VECTORS = 256, 8, 1 << 14
Pairs = tuple[tuple[int, float], ...]


def training_section(history: History, seed: int = 0) -> Section:
    """Everything about a run."""
    scalars = history.scalars
    last = max(pairs[-1][0] for pairs in scalars.values())
    rows = [measured("steps", last)]
    notes: list[str] = []
    use = _worst(scalars, "utilization")
    if use:
        rows += _utilization(scalars[use], use)
    for key, name in (
        ("training_perplexity", "perplexity"),
        ("training_rank", "effective_rank"),
        ("revived", "revived"),
    ):
        found = _worst(scalars, name)
        if found:
            rows.append(
                measured(
                    key, scalars[found][-1][1], note=f"{found} at step {scalars[found][-1][0]}"
                )
            )
    loss = next((name for name in ("train/loss", "loss", "train_loss") if name in scalars), None)
    if loss:
        rows += _loss(scalars[loss])
    skipped = _worst(scalars, "skipped")
    if skipped:
        rows.append(measured("skipped", scalars[skipped][-1][1]))
    series = [_curve(name, scalars[name]) for name in _shown(scalars)]
    moved, curve, note = _movement(history, seed)
    rows += moved
    series += curve
    notes += note
    return Section("training", "Training", "", tuple(rows), tuple(series), (), tuple(notes))


def _worst(scalars: Mapping[str, Pairs], name: str) -> str | None:
    """Of the logs of a name (one for each quantizer, ``name_3`` of its codes), that with the lowest last value."""
    found = [
        (pairs[-1][1], key)
        for key, pairs in scalars.items()
        if re.sub(r"_\d+$", "", key.rpartition("/")[2]) == name
    ]
    return min(found)[1] if found else None


def _utilization(pairs: Pairs, name: str) -> list[Measurement]:
    values = np.array([value for _, value in pairs])
    half, quarter = values[len(values) // 2 :], max(len(values) // 4, 1)
    trend = (
        float(values[-quarter:].mean() - values[quarter : 2 * quarter].mean())
        if len(values) >= 4
        else 0.0
    )
    n = len(values)
    wide = math.nan
    if len(values) >= 8:
        ends = values[-quarter:], values[quarter : 2 * quarter]
        wide = math.hypot(*(half_width(end) for end in ends))
    return [
        measured("utilization", float(values[-1]), n, note=f"{name} at step {pairs[-1][0]}"),
        measured("utilization_lowest", float(half.min()), len(half)),
        measured("utilization_trend", trend, n, around(trend, wide, -1.0, 1.0)),
    ]


def _loss(pairs: Pairs) -> list[Measurement]:
    values = np.array([value for _, value in pairs])
    tenth = len(values) // 10
    if not tenth:
        return []
    early, late = values[-2 * tenth : -tenth], values[-tenth:]
    before, now = float(early.mean()), float(late.mean())
    if not before:
        return [measured("loss_change", 0.0, 2 * tenth)]
    half = math.hypot(half_width(late) / before, half_width(early) * now / before**2)
    return [measured("loss_change", now / before - 1, 2 * tenth, around(now / before - 1, half))]


def _shown(scalars: Mapping[str, Pairs]) -> list[str]:
    """Curves that matter: use of codebooks first, then losses and quality."""
    words = (
        "utilization",
        "ceiling",
        "perplexity",
        "effective_rank",
        "revived",
        "loss",
        "psnr",
        "si_sdr",
    )
    ranked = [
        (words.index(name.rpartition("/")[2]), name)
        for name in scalars
        if name.rpartition("/")[2] in words
    ]
    worst = _worst(scalars, "utilization")
    shown = [] if worst is None else [worst]
    return [*shown, *(name for _, name in sorted(ranked) if name != worst)][:_CURVES]


def _curve(name: str, pairs: Pairs) -> Series:
    picks = np.unique(np.linspace(0, len(pairs) - 1, min(_POINTS, len(pairs))).round().astype(int))
    columns = {
        "step": tuple(pairs[i][0] for i in picks),
        "value": tuple(pairs[i][1] for i in picks),
    }
    return Series(name, name, columns, f"logged values of {name} by step")


def _movement(history: History, seed: int) -> tuple[list[Measurement], list[Series], list[str]]:
    """Drift and churn from checkpoint to checkpoint."""
    read: list[tuple[int, tuple[Table, ...]]] = []
    notes = []
    for step, tables in history.tables:
        try:
            read.append((step, tables()))
        except VqError as error:
            notes.append(str(error))
    drifts, churns, steps = [], [], []
    for (_, before), (step, after) in pairwise(read):
        if not before or [t.values.shape for t in before] != [t.values.shape for t in after]:
            continue
        drifts.append(drift(before, after))
        churns.append(
            float(
                np.mean(
                    [churn(b.values, a.values, seed) for b, a in zip(before, after, strict=True)]
                )
            )
        )
        steps.append(step)
    if not steps:
        return [], [], notes
    columns = {"step": tuple(steps), "drift": tuple(drifts), "churn": tuple(churns)}
    about = "relative change of the tables since the checkpoint before; share of vectors that changed their entry"
    moved = _VECTORS * len(read[-1][1])
    rows = [
        measured("drift", drifts[-1], note=f"at step {steps[-1]}"),
        measured(
            "churn", churns[-1], moved, wilson(churns[-1] * moved, moved), f"at step {steps[-1]}"
        ),
    ]
    return rows, [Series("movement", "Movement of the tables", columns, about)], notes


def drift(before: tuple[Table, ...], after: tuple[Table, ...]) -> float:
    """Norm of the change over the norm of the earlier tables."""
    change = sum(
        float((a.values - b.values).double().square().sum())
        for b, a in zip(before, after, strict=True)
    )
    size = sum(float(b.values.double().square().sum()) for b in before)
    return (change / size) ** 0.5 if size else 0.0


def churn(before: Tensor, after: Tensor, seed: int = 0) -> float:
    """Share of vectors around the later rows whose nearest row is another one in the earlier table.

    The vectors are rows of the later table with Gaussian noise whose length is half the median nearest distance.
    """
    if len(after) < 2:
        return 0.0
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(after), (_VECTORS,), generator=generator)
    from vq.analysis.measures.geometry import two_neighbours

    some = torch.randperm(len(after), generator=generator)[:1024]
    gap = float(two_neighbours(after, some)[0].median())
    noise = torch.randn(_VECTORS, after.shape[1], generator=generator)
    x = after[picks] + 0.5 * gap * noise / after.shape[1] ** 0.5
    return float((nearest(x, before) != nearest(x, after)).float().mean())
