"""Quantizers alone on correlated Gaussian vectors off the origin: collapse in seconds; see train_tokenizers.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from vq.analysis.environment import machine, table, versions, write_json
from vq.quantizers import make
from vq.quantizers.toy import train_toy

DIM, PER_ENTRY = 16, 4


def _table(entries: int, seed: int, **more: Any) -> dict[str, Any]:
    book = f"kmeans(dim={DIM}, entries={entries})"
    return {"kind": "vq", "codebook": book, "seed": seed, **more}


def _sim(entries: int, seed: int, **more: Any) -> dict[str, Any]:
    book = f"simvq(dim={DIM}, entries={entries}, seed={seed})"
    return {"kind": "simvq", "codebook": book, "seed": seed, **more}


_gradient = partial(_table, learn="gradient", revival=0.0)
ROWS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "vq, uniform start": partial(_gradient, init="uniform"),
    "vq, normal start": _gradient,
    "ema": partial(_table, revival=0.0),
    "ema, revival": _table,
    "simvq": _sim,
    "simvq, rotation": partial(_sim, estimator="rotation"),
}


def run(rows: list[str], entries: list[int], seeds: list[int], steps: int, target: Path) -> None:
    """Fill in what the JSON lacks and print the medians."""
    done = json.loads(target.read_text(encoding="utf-8"))["rows"] if target.exists() else []
    have = {(r["row"], r["k"], r["seed"], r["steps"]) for r in done}
    for name in rows:
        for k in entries:
            for seed in seeds:
                if (name, k, seed, steps) in have:
                    continue
                arguments = ROWS[name](k, seed)
                layer = make(arguments.pop("kind"), **arguments)
                found = asdict(train_toy(layer, steps=steps, seed=seed, per_entry=PER_ENTRY))
                done.append({"row": name, "k": k, "seed": seed, "steps": steps, **found})
                _save(done, target)
    print(_report(done))


def _save(done: list[dict[str, Any]], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine(), "versions": versions(), "threads": torch.get_num_threads()}
    data |= {"dim": DIM, "tokens_per_entry": PER_ENTRY, "medians": _medians(done), "rows": done}
    write_json(data, str(target))


def _medians(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for r in done:
        key = (r["steps"], r["k"], list(ROWS).index(r["row"]))
        groups.setdefault(key, []).append(r)
    keys = ("utilization", "ceiling", "perplexity", "snr_db")
    return [
        {"row": cells[0]["row"], "k": k, "steps": steps, "seeds": len(cells)}
        | {key: median(c[key] for c in cells) for key in keys}
        for (steps, k, _), cells in sorted(groups.items())
    ]


def _report(done: list[dict[str, Any]]) -> str:
    heads = ["row", "K", "steps", "seeds", "used", "N/K", "ceiling", "perplexity", "SNR dB"]
    lines = []
    for m in _medians(done):
        use = [f"{m['utilization']:.1%}", str(PER_ENTRY), f"{m['ceiling']:.1%}"]
        quality = [f"{m['perplexity']:.0f}", f"{m['snr_db']:.2f}"]
        lines.append([m["row"], str(m["k"]), str(m["steps"]), str(m["seeds"]), *use, *quality])
    return table(heads, lines)
