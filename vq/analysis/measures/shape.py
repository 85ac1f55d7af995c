"""How a table spreads over its directions, and the cells of its entries, each number with its interval."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.measures.cells import CUBE, LATTICES, ball_moment, measure_cells
from vq.analysis.model import Measurement
from vq.analysis.statistics.estimators import Z95, wilson
from vq.analysis.statistics.intervals import (
    Interval,
    around,
    half_width,
    of_deviation,
    of_variation,
)

_ANY = 1 / (
    2 * math.pi * math.e
)  # the sphere bound: least normalised second moment in any dimension


def spread_of(values: Tensor) -> list[Measurement]:
    """Lengths and directions of the entries ``(entries, dim)``, at least two."""
    n = len(values)
    norms = values.norm(dim=1).double()
    centred = (values - values.mean(0)).double()
    eigenvalues, axes = torch.linalg.eigh(centred.T @ centred / n)
    eigenvalues = eigenvalues.clamp_min(0)
    squares = (centred @ axes).square_()
    unit = torch.nn.functional.normalize(values.double(), dim=1)
    cosine = (float(unit.sum(0).square().sum()) - n) / (n * (n - 1))
    leaning = half_width(2 * (unit @ unit.mean(0)).numpy())
    mean, rank, ratio = float(norms.mean()), effective_rank(eigenvalues), participation(eigenvalues)
    variation = float(norms.std()) / mean if mean else 0.0
    halves = (
        _moved(squares, eigenvalues, by)
        for by in (_of_rank(eigenvalues, rank), _of_participation(eigenvalues))
    )
    of_rank, of_participation = halves
    most = float(values.shape[1])
    each = norms.numpy()
    return [
        measured("norm", mean, n, around(mean, half_width(each), 0.0)),
        measured("norm_spread", variation, n, around(variation, of_variation(each), 0.0)),
        measured("effective_rank", rank, n, around(rank, of_rank, 1.0, most)),
        measured("participation", ratio, n, around(ratio, of_participation, 1.0, most)),
        measured("anisotropy", cosine, n, around(cosine, leaning, -1.0, 1.0)),
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


def _moved(squares: Tensor, eigenvalues: Tensor, weights: Tensor) -> float:
    """Half of the interval of a function of eigenvalues with these derivatives.

    One row moves an eigenvalue by its squared coordinate on that axis less the eigenvalue.
    """
    return half_width(((squares - eigenvalues) @ weights).numpy())


def _of_rank(eigenvalues: Tensor, rank: float) -> Tensor:
    """Derivatives of the effective rank."""
    singular = eigenvalues.sqrt()
    total = singular.sum()
    known = singular > 1e-9 * total
    share = torch.where(known, singular / total.clamp_min(1e-300), torch.ones_like(singular))
    slope = rank * (-share.log() - math.log(max(rank, 1e-300))) / (2 * singular * total)
    return torch.where(known, slope, torch.zeros_like(slope))


def _of_participation(eigenvalues: Tensor) -> Tensor:
    """Derivatives of the participation ratio."""
    total, squares = eigenvalues.sum(), eigenvalues.square().sum().clamp_min(1e-300)
    return 2 * total / squares - 2 * eigenvalues * (total / squares) ** 2


def cells_of(
    unique: Tensor, generator: torch.Generator, counts: Tensor | None
) -> list[Measurement]:
    """Shape, size and use of the cells of different entries ``(entries, dim)``; ``counts`` is their use."""
    found, dim = measure_cells(unique, generator), unique.shape[1]
    marks = [f"cube {CUBE:.4f}"]
    marks += [f"{name} {g:.4f}" for name, (d, g) in LATTICES.items() if d == dim and d > 1]
    marks.append(f"ball in many dimensions {_ANY:.4f}")
    interval = None if found.low is None or found.high is None else (found.low, found.high)
    open_cells = found.sampled - found.bounded
    if found.second_moment is None:
        moment = measured("second_moment", None, 0, note="no bounded cell among those sampled")
    else:
        moment = measured(
            "second_moment", found.second_moment, found.bounded, interval, ", ".join(marks)
        )
    spread, half = found.spread, math.nan
    if spread is not None:
        half = of_deviation(np.array(found.volumes))
    rows = [
        moment,
        measured("second_moment_ball", ball_moment(dim)),
        measured(
            "unbounded_cells",
            open_cells / found.sampled,
            found.sampled,
            wilson(open_cells, found.sampled),
        ),
        measured(
            "cell_spread",
            spread,
            found.bounded,
            None if spread is None else around(spread, half, 0.0),
        ),
    ]
    if counts is not None:
        rows += _mass(np.array(found.volumes), counts[list(found.picks)].double().numpy())
    return rows


def _mass(volumes: np.ndarray, counts: np.ndarray) -> list[Measurement]:
    """Whether large cells are used more or less than small ones."""
    used = counts > 0
    x, y = volumes[used], np.log2(counts[used])
    n = len(x)
    if n < 8 or float(x.std()) < 1e-9 or float(y.std()) < 1e-9:
        return []
    r = float(np.corrcoef(x, y)[0, 1])
    return [measured("mass_by_volume", r, n, fisher(r, n))]


def fisher(r: float, n: int) -> Interval | None:
    """95 % interval of a correlation of n pairs by Fisher's z; None for fewer than four."""
    if n < 4:
        return None
    z = math.atanh(max(min(r, 1 - 1e-12), -1 + 1e-12))
    half = Z95 / math.sqrt(n - 3)
    return math.tanh(z - half), math.tanh(z + half)
