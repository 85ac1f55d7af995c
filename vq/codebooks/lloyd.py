"""K-means for one data set or many at once: seeded, weighted, the same bits for any number of threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vq.codebooks.clustering import Clustering
from vq.codebooks.lloyd_start import random_rows, spread_rows
from vq.kernels.lloyd import CellSums, cell_sums

_SAMPLE = 256  # points of a codeword that sample="auto" keeps
_FULL = 3  # iterations over all points after those over a sample
_SUMS_BYTES = 32 << 20  # float64 sums held at a time


@dataclass(frozen=True)
class _Options:
    iterations: int
    rate_weight: float
    balance: float
    tolerance: float


def fit(
    x: Tensor,
    entries: int,
    weight: Tensor | None = None,
    *,
    init: Literal["random", "kmeans++"] | Tensor = "random",
    sample: Literal["auto"] | int | None = "auto",
    iterations: int = 25,
    tolerance: float = 0.0,
    rate_weight: float = 0.0,
    balance: float = 0.0,
    generator: torch.Generator | None = None,
    backend: Literal["native", "faiss"] = "native",
) -> Clustering:
    """Lloyd's algorithm: assign every point to its nearest codeword, move codewords to the means of their cells.

    A cell without points takes the worst served point of another cell, the worst cells first, so that all
    codewords stay in use as long as there are as many distinct points.

    Args:
        x: ``(n, dim)``, or ``(problems, n, dim)`` for independent problems, each with a table of its own.
        entries: codewords, at most n.
        weight: importance: ``x.shape[:-1]`` or ``(..., n, 1)`` for points, ``x.shape`` for coordinates; not negative.
        init: ``random`` (distinct points, drawn in proportion to weight), ``kmeans++`` (exact to 1024 entries; above,
            entries / 64 points are drawn at a time from at most 16 points an entry), or a table to start from.
        sample: points drawn for all but the last 3 iterations; ``auto`` takes 256 an entry where there are more than
            twice as many, None takes all. A sample costs about 1 % of error before the last iterations.
        iterations: updates of the table.
        tolerance: stop (on a sample: go on to all points) when the objective falls by less than this share.
        rate_weight: lambda of an entropy-constrained quantizer: ``lambda * -log2(share of the cell)`` is added to the
            squared distance; codewords that are no longer used stay empty.
        balance: 0 to 1; ``balance * mean error * log2(entries * share of the cell)`` is added to the squared distance,
            so that entropy is rewarded and the use of codewords becomes more even.
        generator: of all draws; a fresh one with seed 0 by default.
        backend: ``native``, or ``faiss`` (weights of points only, no penalties).

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite, or options that exclude each other.
        ImportError: for ``faiss`` where faiss is not installed.

    Reference:
        Y. Linde, A. Buzo, R. M. Gray, "An algorithm for vector quantizer design" (1980); D. Arthur, S. Vassilvitskii,
        "k-means++: the advantages of careful seeding" (2007), section 2.2; P. A. Chou, T. Lookabaugh, R. M. Gray,
        "Entropy-constrained vector quantization" (1989), equation (6).
    """
    points, full = _check(x, weight, entries)
    if not 0 <= balance <= 1 or rate_weight < 0 or (rate_weight and balance) or iterations < 0:
        raise ValueError(
            "lloyd: expected balance from 0 to 1, rate_weight of at least 0, not both, and iterations of at least "
            f"0, got {balance}, {rate_weight}, {iterations}"
        )
    generator = generator or torch.Generator(device=x.device).manual_seed(0)
    options = _Options(iterations, rate_weight, balance, tolerance)
    some, some_weight = _sample(points, full, entries, sample, iterations, generator)
    table = _start(some, some_weight, entries, init, generator)
    if backend == "faiss":
        from vq.codebooks.lloyd_faiss import run

        result = run(points, full, table, options.iterations)
    elif backend == "native":
        result = _run(points, full, some, some_weight, table, options)
    else:
        raise ValueError(f"lloyd: expected backend native or faiss, got {backend!r}")
    if x.ndim == 3:
        return result
    penalty = None if result.penalty is None else result.penalty[0]
    return Clustering(result.table[0], result.history[:, 0], result.members[0], penalty)


def _check(x: Tensor, weight: Tensor | None, entries: int) -> tuple[Tensor, Tensor | None]:
    """Points ``(problems, n, dim)`` and weights ``(problems, n, dim or 1)``."""
    if x.ndim not in (2, 3) or not x.is_floating_point():
        raise ValueError(
            f"lloyd: expected floats (n, dim) or (problems, n, dim), got {x.dtype} {tuple(x.shape)}"
        )
    if not 1 <= entries <= x.shape[-2]:
        raise ValueError(
            f"lloyd: expected entries from 1 to the number of points {x.shape[-2]}, got {entries}"
        )
    if not bool(torch.isfinite(x).all()):
        index = tuple(int(i) for i in (~torch.isfinite(x)).nonzero()[0])
        raise ValueError(f"lloyd: x[{index}] is {float(x[index])}; expected finite numbers")
    points = (x if x.ndim == 3 else x[None]).float().contiguous()
    if weight is None:
        return points, None
    if weight.shape == x.shape[:-1]:
        weight = weight.unsqueeze(-1)
    if weight.shape not in (x.shape, (*x.shape[:-1], 1)):
        raise ValueError(
            f"lloyd: expected weight {tuple(x.shape[:-1])} or {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        raise ValueError("lloyd: weight must be finite and not negative")
    return points, (weight if x.ndim == 3 else weight[None]).float().contiguous()


def _sample(
    x: Tensor,
    weight: Tensor | None,
    entries: int,
    sample: str | int | None,
    iterations: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    count = x.shape[1]
    size = _SAMPLE * entries if sample == "auto" else count if sample is None else int(sample)
    if size < entries:
        raise ValueError(f"lloyd: a sample of {size} points is fewer than {entries} entries")
    if size >= count or (sample == "auto" and count <= 2 * size) or iterations <= _FULL:
        return x, weight
    rows = [
        torch.randperm(count, generator=generator, device=x.device)[:size].sort().values for _ in x
    ]
    some = torch.stack([x[p, own] for p, own in enumerate(rows)])
    if weight is None:
        return some, None
    return some, torch.stack([weight[p, own] for p, own in enumerate(rows)])


def _start(
    x: Tensor,
    weight: Tensor | None,
    entries: int,
    init: str | Tensor,
    generator: torch.Generator,
) -> Tensor:
    shape = (len(x), entries, x.shape[2])
    if isinstance(init, Tensor):
        table = init if init.ndim == 3 else init[None]
        if table.shape != shape:
            raise ValueError(
                f"lloyd: expected a table {shape} to start from, got {tuple(init.shape)}"
            )
        return table.float().contiguous().clone()
    if init not in ("random", "kmeans++"):
        raise ValueError(f"lloyd: expected init random, kmeans++ or a table, got {init!r}")
    draw = random_rows if init == "random" else spread_rows
    own = [None if weight is None else weight[p] for p in range(len(x))]
    return torch.stack([draw(x[p], own[p], entries, generator) for p in range(len(x))])


def _run(
    x: Tensor,
    weight: Tensor | None,
    some: Tensor,
    some_weight: Tensor | None,
    table: Tensor,
    options: _Options,
) -> Clustering:
    """Problems in groups whose sums fit into 32 MiB."""
    group = max(1, _SUMS_BYTES // (16 * table[0].numel() + 40 * table.shape[1]))
    parts = []
    for start in range(0, len(x), group):
        part = slice(start, start + group)
        own = None if weight is None else weight[part]
        sampled = None if some_weight is None else some_weight[part]
        parts.append(_iterate((x[part], own), (some[part], sampled), table[part], options))
    passes = max(len(part.history) for part in parts)
    history = [
        torch.cat([p.history, p.history[-1:].expand(passes - len(p.history), -1)]) for p in parts
    ]
    penalties = [p.penalty for p in parts if p.penalty is not None]
    return Clustering(
        torch.cat([p.table for p in parts]),
        torch.cat(history, 1),
        torch.cat([p.members for p in parts]),
        torch.cat(penalties) if penalties else None,
    )


def _iterate(
    everything: tuple[Tensor, Tensor | None],
    some: tuple[Tensor, Tensor | None],
    table: Tensor,
    options: _Options,
) -> Clustering:
    penalty: Tensor | None = None
    if options.balance or options.rate_weight:
        penalty = table.new_zeros(table.shape[:2])
    history: list[Tensor] = []
    sampled = some[0].shape != everything[0].shape
    last = min(_FULL, options.iterations) if sampled else options.iterations
    for (x, weight), steps in ((some, options.iterations - last), (everything, last)):
        before: Tensor | None = None
        for _ in range(steps):
            sums = cell_sums(x, table, weight, penalty)
            history.append(_objective(sums, x.shape[2]))
            table = update(sums, table, x, refill=not options.rate_weight)
            penalty = _penalty(sums, penalty, options)
            if before is not None and bool(
                (before - history[-1] < options.tolerance * before).all()
            ):
                break
            before = history[-1] if options.tolerance > 0 else None
    sums = cell_sums(everything[0], table, everything[1], penalty)
    history.append(_objective(sums, table.shape[2]))
    return Clustering(table, torch.stack(history), sums.members, penalty)


def _objective(sums: CellSums, dim: int) -> Tensor:
    mass = sums.mass.sum((1, 2)) * (dim / sums.mass.shape[2])
    return sums.error.sum(1) / mass.clamp_min(1e-300)


def update(sums: CellSums, table: Tensor, x: Tensor, refill: bool = True) -> Tensor:
    """Means of the cells; a coordinate without weight keeps its value, an empty cell takes a badly served point.

    Args:
        sums: over the cells of ``table``.
        table: ``(problems, entries, dim)``.
        x: ``(problems, n, dim)`` the points that were summed.
        refill: whether empty cells take points.
    """
    moved = torch.where(sums.mass > 0, sums.total / sums.mass.clamp_min(1e-300), table.double())
    moved = moved.float()
    for p in (sums.members == 0).any(1).nonzero()[:, 0].tolist() if refill else ():
        empty = (sums.members[p] == 0).nonzero()[:, 0]
        worst = sums.reach[p].sort(descending=True, stable=True)
        useful = int((worst.values > 0).sum())
        take = worst.indices[: min(len(empty), useful)]
        moved[p, empty[: len(take)]] = x[p, sums.farthest[p, take]]
    return moved


def _penalty(sums: CellSums, penalty: Tensor | None, options: _Options) -> Tensor | None:
    """What the next pass adds to the squared distance to each codeword."""
    if penalty is None:
        return None
    mass = sums.mass.mean(2)
    share = mass / mass.sum(1, keepdim=True).clamp_min(1e-300)
    if options.rate_weight:
        return (-options.rate_weight * share.log2()).float()
    scale = sums.error.sum(1, keepdim=True) / mass.sum(1, keepdim=True).clamp_min(1e-300)
    wanted = options.balance * scale * (share * share.shape[1]).log2().clamp(-4, 4)
    return (0.5 * penalty + 0.5 * wanted).float()
