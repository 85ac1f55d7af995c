"""How fast and how good is k-means? Ours next to faiss, scikit-learn and plain torch, from one start."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from vq.analysis.bench.search import cdist_argmin
from vq.analysis.bench.timing import medians, peak_mib
from vq.codebooks import kmeans1d, lloyd
from vq.codebooks.nearest import nearest

CASES = ((8, 256, 1_000_000), (8, 4096, 250_000), (8, 65536, 131_072))  # dim, entries, points
_MOST = {"scikit-learn": 100_000_000, "torch cdist": 100_000_000}  # distances of a timed iteration
_TOO_MANY = {"scikit-learn": 10_000}  # entries from which a method is left out
Row = dict[str, Any]


def measure(
    cases: Iterable[tuple[int, int, int]] = CASES,
    seed: int = 0,
    iterations: int = 4,
    rounds: int = 1,
    done: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Rows of all methods for every case, then those of weights and of one dimension.

    Returns:
        ``method``, ``dim``, ``entries``, ``n``, ``seconds`` (of an iteration over n points), ``ratio`` (its time per
        point over ours), ``peak_mib`` (above the data), ``mse`` (after the iterations, on its
        n points) and ``mse_ratio``
        (ours over the method's, where both saw all points).
    """
    rows = []
    for dim, entries, count in cases:
        x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
        found = list(_case(x, entries, iterations, rounds))
        if done is not None:
            done(found)
        rows += found
    for extra in (weight_rows, scalar_rows):
        found = extra(seed)
        if done is not None:
            done(found)
        rows += found
    return rows


def _case(x: Tensor, entries: int, iterations: int, rounds: int) -> Iterator[Row]:
    methods = {"vq": _vq, "faiss": _faiss, "scikit-learn": _sklearn, "torch cdist": _torch}
    chosen: dict[str, tuple[Tensor, Callable[[], Tensor]]] = {}
    for name, method in methods.items():
        few = x[: max(entries, _MOST.get(name, len(x) * entries) // entries)].contiguous()
        run = method(few, x[:entries].clone(), iterations)
        if run is not None and entries < _TOO_MANY.get(name, entries + 1):
            chosen[name] = (few, run)
    seconds = medians({name: run for name, (_, run) in chosen.items()}, rounds)
    passes = {name: iterations + (name == "vq") for name in chosen}  # ours ends with one more
    per_point = {n: seconds[n] / passes[n] / len(chosen[n][0]) for n in chosen}
    errors = {name: _error(few, run()) for name, (few, run) in chosen.items()}
    for name, (few, run) in chosen.items():
        yield {
            "method": name,
            "dim": x.shape[1],
            "entries": entries,
            "n": len(few),
            "seconds": per_point[name] * len(few),
            "ratio": per_point[name] / per_point["vq"],
            "peak_mib": peak_mib(run),
            "mse": errors[name],
            "mse_ratio": errors["vq"] / errors[name] if len(few) == len(x) else None,
        }


def _error(x: Tensor, table: Tensor) -> float:
    return float((x - table[nearest(x, table).long()]).square().mean())


def _vq(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    return lambda: lloyd.fit(x, len(start), init=start, sample=None, iterations=iterations).table


def _faiss(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor] | None:
    """Lloyd's iterations by faiss, from the same start; None where it is not installed."""
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())

    def run() -> Tensor:
        means = faiss.Kmeans(
            x.shape[1],
            len(start),
            niter=iterations,
            min_points_per_centroid=1,
            max_points_per_centroid=len(x),
        )
        means.train(x.numpy(), init_centroids=start.numpy())
        return torch.from_numpy(means.centroids)

    return run


def _sklearn(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor] | None:
    """The same by scikit-learn; None where it is not installed."""
    try:
        cluster = importlib.import_module("sklearn.cluster")
    except ImportError:
        return None

    def run() -> Tensor:
        means = cluster.KMeans(
            len(start), init=start.numpy(), n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            return torch.from_numpy(means.fit(x.numpy()).cluster_centers_)

    return run


def _torch(x: Tensor, start: Tensor, iterations: int) -> Callable[[], Tensor]:
    """The same in plain torch, by a whole matrix of distances."""

    def run() -> Tensor:
        table = start
        for _ in range(iterations):
            codes = cdist_argmin(x, table)
            total = torch.zeros_like(table).index_add_(0, codes, x)
            count = torch.bincount(codes, minlength=len(table)).unsqueeze(1)
            table = torch.where(count > 0, total / count.clamp_min(1), table)
        return table

    return run


def weight_rows(seed: int = 0) -> list[Row]:
    """Weighted error of tables fitted without weights, with weights of points, and with those of coordinates.

    Gamma(1/2) weights, 20 000 vectors of 8, 256 entries; the last assignment is always by the true weights.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20_000, 8, generator=generator)
    weight = torch.randn(20_000, 8, generator=generator).square()
    rows = []
    for name, own in (("no weights", None), ("points", weight.mean(1)), ("coordinates", weight)):
        table = lloyd.fit(x, 256, own, sample=None, iterations=25).table
        values = table[nearest(x, table, weight).long()]
        error = float((weight * (x - values).square()).sum() / weight.sum())
        rows.append(_short(f"weights: {name}", 8, 256, len(x), mse=error))
    for row in rows:
        row["mse_ratio"] = rows[-1]["mse"] / row["mse"]
    return rows


def scalar_rows(seed: int = 0) -> list[Row]:
    """Optimal levels of rows of 4096 weighted numbers: time of 64 rows, error over that without bins."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 4096, generator=generator)
    weight = torch.randn(64, 4096, generator=generator).square()
    rows = []
    for levels in (4, 8, 16):
        calls = {"fit": lambda levels=levels: kmeans1d.fit(x, levels, weight)}
        exact = kmeans1d.fit(x, levels, weight, bins=4096).error
        found = kmeans1d.fit(x, levels, weight).error
        row = _short("optimal 1-D", 1, levels, x.numel(), seconds=medians(calls)["fit"])
        row["mse"] = float(found.sum() / weight.sum())
        row["mse_ratio"] = float((found / exact).max())
        rows.append(row)
    return rows


def _short(method: str, dim: int, entries: int, count: int, **known: float) -> Row:
    empty: Row = dict.fromkeys(("seconds", "ratio", "peak_mib", "mse", "mse_ratio"))
    return {"method": method, "dim": dim, "entries": entries, "n": count, **empty, **known}
