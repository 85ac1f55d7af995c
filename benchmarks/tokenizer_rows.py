"""The quantizers of the matrix, for K entries and a seed; see train_tokenizers.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

DIM = 32  # of the autoencoder's features
LEVELS = {256: [8, 6, 5], 1024: [8, 5, 5, 5], 4096: [7, 5, 5, 5, 5], 16384: [8, 8, 8, 6, 5]}

Make = Callable[[int, int], dict[str, Any]]
"""K and a seed to the arguments of ``vq.quantizers.make``."""


@dataclass(frozen=True)
class Row:
    """One quantizer of the matrix.

    Attributes:
        make: arguments for K entries; None for the autoencoder alone.
        start: ``none``: as initialised; ``first``: from features of the untrained encoder; ``warm``: a third of the
            steps trains the autoencoder alone, then the quantizer starts from its features.
        note: for the table.
    """

    make: Make | None
    start: str
    note: str


def _table(entries: int, seed: int, **more: Any) -> dict[str, Any]:
    book = f"kmeans(dim={DIM}, entries={entries})"
    return {"kind": "vq", "codebook": book, "seed": seed, **more}


def _gradient(entries: int, seed: int, **more: Any) -> dict[str, Any]:
    return _table(entries, seed, learn="gradient", revival=0.0, **more)


def _sim(entries: int, seed: int, **more: Any) -> dict[str, Any]:
    book = f"simvq(dim={DIM}, entries={entries}, seed={seed})"
    return {"kind": "simvq", "codebook": book, "seed": seed, **more}


def _cosine(entries: int, seed: int) -> dict[str, Any]:
    book = f"kmeans(dim=8, entries={entries})"
    return {**_gradient(entries, seed), "codebook": book, "dim": DIM, "lookup": "cosine"}


def _levels(entries: int, seed: int) -> dict[str, Any]:
    return {"kind": "fsq", "levels": LEVELS[entries], "dim": DIM, "seed": seed}


def _bits(kind: str) -> Make:
    def make_bits(entries: int, seed: int) -> dict[str, Any]:
        return {"kind": kind, "bits": round(math.log2(entries)), "dim": DIM, "seed": seed}

    return make_bits


def _frozen(entries: int, seed: int) -> dict[str, Any]:
    book = f"frozen(of=kmeans(dim={DIM}, entries={entries}))"
    return {"kind": "simvq", "codebook": book, "seed": seed}


def _halves(entries: int, seed: int) -> dict[str, Any]:
    half = {"kind": "vq", "codebook": f"kmeans(dim={DIM // 2}, entries={entries})"}
    return {"kind": "factorized", "dim": DIM, "heads": 2, "of": half, "seed": seed}


def _stages(entries: int, seed: int) -> dict[str, Any]:
    stage = {key: value for key, value in _table(entries, seed).items() if key != "seed"}
    return {"kind": "residual", "stages": 2, "of": stage, "seed": seed}


ROWS: dict[str, Row] = {
    "none": Row(None, "none", "autoencoder, the upper bound"),
    "vq": Row(partial(_gradient, init="uniform"), "none", "gradient, uniform start"),
    "vq-kmeans": Row(_gradient, "first", "gradient, k-means start"),
    "vq-warm": Row(_gradient, "warm", "gradient, warm-up, k-means start"),
    "ema": Row(_table, "first", "moving averages, revival, k-means start"),
    "ema-warm": Row(_table, "warm", "the same after a warm-up"),
    "simvq": Row(_sim, "none", "frozen rows under a learned map"),
    "simvq-first": Row(_sim, "first", "map fitted to features of the untrained encoder"),
    "simvq-warm": Row(_sim, "warm", "map fitted to warmed-up features"),
    "simvq-rotation": Row(partial(_sim, estimator="rotation"), "none", "with the rotation trick"),
    "fc": Row(_cosine, "none", "8-d cosine lookup, gradient"),
    "fsq": Row(_levels, "none", "levels"),
    "lfq": Row(_bits("lfq"), "none", "signs"),
    "bsq": Row(_bits("bsq"), "none", "signs on a sphere"),
    "frozen": Row(_frozen, "warm", "centres of warmed-up features under a learned map"),
    "factorized": Row(
        _halves, "warm", "2 learned heads of K each, moving averages: twice the bits"
    ),
    "residual": Row(_stages, "warm", "2 stages of K each, moving averages: twice the bits"),
}
