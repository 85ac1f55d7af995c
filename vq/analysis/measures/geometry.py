"""Where the entries of a table lie: lengths, neighbours, duplicates, dimension, cells."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.measures.cells import MOST_DIM
from vq.analysis.measures.shape import cells_of, effective_rank, participation, spread_of
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.statistics.estimators import wilson
from vq.analysis.statistics.intervals import Interval, of_median
from vq.analysis.subject import Table
from vq.codebooks.nearest import search

__all__ = [
    "effective_rank",
    "geometry_section",
    "participation",
    "rms_spread",
    "two_neighbours",
]
_SAMPLE = 4096  # entries whose neighbours are looked for
_FEW = 64  # unit rows without a spread of their own
_POINTS = 2000  # of the map
NEAR = 0.01  # of the spread: closer entries are near duplicates


def geometry_section(
    table: Table, seed: int = 0, counts: Tensor | None = None, cells: bool = True
) -> Section:
    """Everything about the places of the entries.

    Args:
        table: with finite rows.
        seed: of sampled entries and rays.
        counts: use of the entries ``(entries,)``, for the map; None for no colours.
        cells: whether to look at cells.
    """
    values = table.values.detach().float().cpu()
    if table.cosine:
        values = torch.nn.functional.normalize(values, dim=1)
    entries, dim = values.shape
    finite = torch.isfinite(values).all(1)
    generator = torch.Generator().manual_seed(seed)
    notes = []
    if not bool(finite.all()):
        notes.append(f"{int((~finite).sum())} of {entries} rows are not finite and were left out")
        values = values[finite]
    rows = [measured("entries", entries), measured("dim", dim)]
    kept = None if counts is None else counts[finite]
    unique, same = values.unique(dim=0, return_inverse=True)
    if len(values) >= 2:
        rows += spread_of(values) + _neighbours(values, len(unique), generator)
    if cells and dim <= MOST_DIM and len(unique) > dim + 1:
        together = (
            None if kept is None else torch.zeros(len(unique)).index_add_(0, same, kept.float())
        )
        rows += cells_of(unique, generator, together)
    elif cells:
        notes.append(f"cells are not measured for {len(unique)} different entries of {dim} numbers")
    series = (code_map(values, kept, generator), _norm_histogram(values)) if len(values) else ()
    return Section(
        "geometry", "Places of the entries", table.name, tuple(rows), series, (), tuple(notes)
    )


def _neighbours(values: Tensor, unique: int, generator: torch.Generator) -> list[Measurement]:
    entries, _ = values.shape
    picks = torch.randperm(entries, generator=generator)[:_SAMPLE]
    first, second = two_neighbours(values, picks)
    spread = rms_spread(values)
    near = int((first <= NEAR * spread).sum())
    apart = _even_distances(values, generator).numpy()
    even, between = float(np.median(apart)), of_median(first.numpy())
    middle = float(first.median())
    kept = first > 1e-6 * spread
    n = len(picks)
    return [
        measured("duplicates", 1 - unique / entries, entries),
        measured("near_duplicates", near / n, n, wilson(near, n)),
        measured("neighbour_distance", middle, n, between),
        measured("neighbour_ratio", middle / even if even else 0.0, n, _ratio(between, apart)),
        _intrinsic(first[kept], second[kept]),
    ]


def rms_spread(values: Tensor) -> float:
    """Root mean square distance from the mean."""
    return float((values - values.mean(0)).square().sum(1).mean().sqrt())


def two_neighbours(values: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of picked rows to the nearest and the second nearest other row."""
    top = min(3, len(values))
    found = search(values[picks], values, top=top).codes.long()
    distance = (values[picks].double()[:, None] - values.double()[found]).square().sum(2).sqrt()
    distance[found == picks[:, None]] = -1  # itself goes first, among equals too
    order = distance.sort(1).values
    # where equals hide the row itself among its neighbours, the first of the three is a duplicate at 0
    first = order[:, 1] if top > 1 else order[:, 0]
    return first, order[:, 2] if top > 2 else first


def _even_distances(values: Tensor, generator: torch.Generator) -> Tensor:
    """Nearest distances of some of as many points of a Gaussian with the same mean and covariance."""
    entries, dim = values.shape
    centred = (values - values.mean(0)).double()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / entries).clamp_min(0)
    points = torch.randn(entries, dim, generator=generator) * eigenvalues.sqrt().float()
    picks = torch.arange(min(entries, 1024))
    return two_neighbours(points, picks)[0]


def _ratio(between: Interval | None, apart: np.ndarray) -> Interval | None:
    """Interval of a ratio of medians: that of the first over the other's median, and the other's own width."""
    below, even = of_median(apart), float(np.median(apart))
    if between is None or below is None or not even or not below[0]:
        return None
    middle = math.sqrt(between[0] * between[1])
    if not middle:
        return None
    half = math.hypot(math.log(between[1] / between[0]), math.log(below[1] / below[0])) / 2
    return middle / even * math.exp(-half), middle / even * math.exp(half)


def _intrinsic(first: Tensor, second: Tensor) -> Measurement:
    """Facco's estimator with its interval; ratios of equals left out."""
    ratio = (second / first).log().sort().values
    ties = int((ratio < 1e-5).sum())
    if 2 * ties > len(ratio):
        note = (
            "most entries have several nearest ones at one distance, as the points of a lattice do"
        )
        return measured("intrinsic_dim", None, len(ratio), note=note)
    ratio = ratio[ratio > 0]
    kept = round(0.9 * len(ratio))
    if kept < 20:
        return measured("intrinsic_dim", None, kept, note="fewer than 20 different neighbours")
    # the exponential distribution cut at its 90 % point: the mean of what stays is known in closed form
    low, cut = ratio[:kept], float(ratio[kept - 1])
    total = float(low.sum()) + (len(ratio) - kept) * cut
    value = kept / total
    half = 1.96 * value / kept**0.5
    return measured("intrinsic_dim", value, kept, (value - half, value + half))


def code_map(values: Tensor, counts: Tensor | None, generator: torch.Generator) -> Series:
    """Entries on the two directions of largest variance, with their use."""
    centred = (values - values.mean(0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    flat = (centred @ vectors[:, -2:].flip(1)).float()
    if flat.shape[1] < 2:
        flat = torch.cat([flat, torch.zeros(len(flat), 1)], 1)
    picks = torch.randperm(len(flat), generator=generator)[:_POINTS].sort().values
    columns: dict[str, tuple[float | int, ...]] = {
        "x": tuple(flat[picks, 0].tolist()),
        "y": tuple(flat[picks, 1].tolist()),
        "entry": tuple(picks.tolist()),
    }
    if counts is not None:
        columns["count"] = tuple(counts[picks].tolist())
    about = (
        f"principal axes of {len(picks)} of {len(values)} entries; number of the entry; its tokens"
    )
    return Series("code_map", "Map of the entries", columns, about)


def _norm_histogram(values: Tensor) -> Series:
    norms = values.norm(dim=1)
    low, high = float(norms.min()), float(norms.max())
    bins = 40 if high > low else 1
    counts = torch.histc(norms, bins, low, high if high > low else low + 1)
    width = (high - low) / bins
    middles = tuple(low + (i + 0.5) * width for i in range(bins))
    columns = {"norm": middles, "entries": tuple(int(c) for c in counts)}
    return Series(
        "norms", "Lengths of the entries", columns, "length of a vector; how many have it"
    )
