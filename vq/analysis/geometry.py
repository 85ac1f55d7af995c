"""Where the entries of a table lie: lengths, neighbours, duplicates, dimension, cells."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.cells import CUBE, LATTICES, MOST_DIM, ball_moment, measure_cells
from vq.analysis.estimators import wilson
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.subject import Table
from vq.codebooks.nearest import search

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
    unique = values.unique(dim=0)
    if len(values) >= 2:
        rows += _spread(values) + _neighbours(values, len(unique), generator)
    if cells and dim <= MOST_DIM and len(unique) > dim + 1:
        rows += _cells(unique, generator)
    elif cells:
        notes.append(f"cells are not measured for {len(unique)} different entries of {dim} numbers")
    kept = None if counts is None else counts[finite]
    series = (code_map(values, kept, generator), _norm_histogram(values)) if len(values) else ()
    return Section(
        "geometry", "Places of the entries", table.name, tuple(rows), series, (), tuple(notes)
    )


def _spread(values: Tensor) -> list[Measurement]:
    n = len(values)
    norms = values.norm(dim=1)
    centred = (values - values.mean(0)).double()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / n).clamp_min(0)
    unit = torch.nn.functional.normalize(values.double(), dim=1)
    cosine = (float(unit.sum(0).square().sum()) - n) / (n * (n - 1))
    mean = float(norms.mean())
    return [
        measured("norm", mean, n),
        measured("norm_spread", float(norms.std()) / mean if mean else 0.0, n),
        measured("effective_rank", effective_rank(eigenvalues), n),
        measured("participation", participation(eigenvalues), n),
        measured("anisotropy", cosine, n),
    ]


def effective_rank(eigenvalues: Tensor) -> float:
    """Exponential of the entropy of the singular values (roots of a covariance's eigenvalues)."""
    singular = eigenvalues.clamp_min(0).sqrt()
    if not bool(singular.sum() > 0):
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


def participation(eigenvalues: Tensor) -> float:
    """Square of the sum over sum of the squares."""
    squares = float(eigenvalues.square().sum())
    return float(eigenvalues.sum()) ** 2 / squares if squares else 0.0


def _neighbours(values: Tensor, unique: int, generator: torch.Generator) -> list[Measurement]:
    entries, _ = values.shape
    picks = torch.randperm(entries, generator=generator)[:_SAMPLE]
    first, second = two_neighbours(values, picks)
    spread = rms_spread(values)
    near = int((first <= NEAR * spread).sum())
    even = _even_distance(values, generator)
    middle = float(first.median())
    kept = first > 1e-6 * spread
    n = len(picks)
    return [
        measured("duplicates", 1 - unique / entries, entries),
        measured("near_duplicates", near / n, n, wilson(near, n)),
        measured("neighbour_distance", middle, n),
        measured("neighbour_ratio", middle / even if even else 0.0, n),
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


def _even_distance(values: Tensor, generator: torch.Generator) -> float:
    """Median nearest distance of as many points of a Gaussian with the same mean and covariance."""
    entries, dim = values.shape
    centred = (values - values.mean(0)).double()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred / entries).clamp_min(0)
    points = torch.randn(entries, dim, generator=generator) * eigenvalues.sqrt().float()
    picks = torch.arange(min(entries, 1024))
    return float(two_neighbours(points, picks)[0].median())


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


def _cells(unique: Tensor, generator: torch.Generator) -> list[Measurement]:
    found, dim = measure_cells(unique, generator), unique.shape[1]
    marks = [f"cube {CUBE:.4f}"]
    marks += [f"{name} {g:.4f}" for name, (d, g) in LATTICES.items() if d == dim and d > 1]
    interval = None if found.low is None or found.high is None else (found.low, found.high)
    open_cells = found.sampled - found.bounded
    if found.second_moment is None:
        moment = measured("second_moment", None, 0, note="no bounded cell among those sampled")
    else:
        moment = measured(
            "second_moment", found.second_moment, found.bounded, interval, ", ".join(marks)
        )
    return [
        moment,
        measured("second_moment_ball", ball_moment(dim)),
        measured(
            "unbounded_cells",
            open_cells / found.sampled,
            found.sampled,
            wilson(open_cells, found.sampled),
        ),
        measured("cell_spread", found.spread, found.bounded),
    ]


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
