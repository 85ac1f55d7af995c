"""How fast is the nearest codeword found? Ours next to torch and faiss."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from vq.analysis.bench.timing import medians, peak_mib
from vq.codebooks.nearest import find_in_tiles, nearest, search

CASES = (  # dim, entries, points
    (1, 16, 200_000),
    (2, 16, 200_000),
    (2, 256, 200_000),
    (2, 4096, 100_000),
    (4, 256, 100_000),
    (4, 4096, 60_000),
    (8, 16, 200_000),
    (8, 256, 100_000),
    (8, 256, 4096),
    (8, 4096, 40_000),
    (8, 4096, 4096),
    (8, 65536, 16_384),
    (8, 65536, 4096),
    (16, 256, 50_000),
    (16, 4096, 16_000),
    (32, 4096, 8000),
    (64, 1024, 8000),
    (256, 1024, 4096),
)
_CHUNK = 16 << 20  # distances torch holds at a time: 64 MiB
_MOST = 150_000_000  # distances of one timed call of torch


def measure(
    cases: Iterable[tuple[int, int, int]] = CASES,
    seed: int = 0,
    rounds: int = 3,
    done: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """Rows of all methods for every case; ``done`` hears of each case.

    Returns:
        ``method``, ``dim``, ``entries``, ``n`` (points of the timed call), ``seconds``, ``gdist`` (1e9 distances a
        second), ``ratio`` (our rate over the method's), ``peak_mib``, ``agree`` (share of equal indices).
    """
    rows = []
    for dim, entries, count in cases:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, dim, generator=generator)
        table = torch.randn(entries, dim, generator=generator)
        weight = torch.rand(count, dim, generator=generator)
        found = list(_case(x, table, weight, rounds))
        if done is not None:
            done(found)
        rows += found
    return rows


def cdist_argmin(x: Tensor, table: Tensor) -> Tensor:
    """The usual way in torch, in chunks of 64 MiB."""
    step = max(1, _CHUNK // len(table))
    return torch.cat([torch.cdist(part, table).argmin(1) for part in x.split(step)])


def _case(x: Tensor, table: Tensor, weight: Tensor, rounds: int) -> Iterator[dict[str, Any]]:
    few = x[: max(256, _MOST // len(table))].contiguous()
    calls: dict[str, tuple[int, Callable[[], Tensor]]] = {
        "vq": (len(x), lambda: nearest(x, table)),
        "vq weighted": (len(x), lambda: nearest(x, table, weight)),
        "vq margin": (len(x), lambda: search(x, table, margin=True).codes[:, 0]),
        "vq top 8": (len(x), lambda: search(x, table, top=8).codes[:, 0]),
        "vq reference": (
            len(few),
            lambda: find_in_tiles(few, table, None, None, 1, False)[0][:, 0],
        ),
        "torch cdist+argmin": (len(few), lambda: cdist_argmin(few, table)),
    }
    faiss = _faiss(table)
    if faiss is not None:
        calls["faiss"] = (len(x), lambda: faiss(x))
    seconds = medians({name: call for name, (_, call) in calls.items()}, rounds)
    ours = len(x) / seconds["vq"]
    codes = nearest(x, table)
    for name, (count, call) in calls.items():
        peak = peak_mib(call)
        agree = float((call().long() == codes[:count].long()).float().mean())
        yield {
            "method": name,
            "dim": table.shape[1],
            "entries": len(table),
            "n": count,
            "seconds": seconds[name],
            "gdist": count * len(table) / seconds[name] / 1e9,
            "ratio": ours / (count / seconds[name]),
            "peak_mib": peak,
            "agree": None if name == "vq weighted" else agree,
        }


def _faiss(table: Tensor) -> Callable[[Tensor], Tensor] | None:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(table.shape[1])
    index.add(table.numpy())
    return lambda x: torch.from_numpy(index.search(x.numpy(), 1)[1][:, 0])
