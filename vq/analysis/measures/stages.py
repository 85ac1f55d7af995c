"""Several codes a vector: what each adds, and what they tell of each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from vq.analysis.catalogue import measured
from vq.analysis.measures.coded import StageCurve
from vq.analysis.measures.stream import UseCounter
from vq.analysis.model import Matrix, Measurement, Section, Series
from vq.analysis.statistics.estimators import Spectrum, entropy_chao_shen
from vq.analysis.statistics.information import Information, corrected, surprise
from vq.analysis.statistics.intervals import around, of_ratio
from vq.analysis.subject import Chunk, Table

_MOST_PAIRS = 64  # pairs of codes; more are sampled


def stages_section(
    names: Sequence[str],
    uses: Sequence[UseCounter],
    sample: Chunk | None,
    tables: Sequence[Table] = (),
    curve: StageCurve | None = None,
    seed: int = 0,
) -> Section:
    """What several codes of a vector are to each other.

    Args:
        names: of the codes.
        uses: of each; empty where there are no codes.
        sample: pieces of all streams.
        tables: of the stages that add up, one for each; empty otherwise.
        curve: signal to noise by stage on data.
        seed: of shuffles.
    """
    rows: list[Measurement] = [measured("stages", len(names))]
    series: list[Series] = []
    matrices: list[Matrix] = []
    if sample is not None and sample.codes.size:
        matrix, more = _information(names, sample.codes, seed)
        matrices.append(matrix)
        rows += [*more, _redundancy(sample.codes)]
    columns: dict[str, tuple[float | str | None, ...]] = {"stage": tuple(names)}
    if uses and all(u.types is None for u in uses):
        spectra = [Spectrum.of(u.counts) for u in uses]
        columns["entropy"] = tuple(entropy_chao_shen(s) for s in spectra)
        columns["bits"] = tuple(math.log2(u.entries) for u in uses)
    if len(tables) == len(names):
        columns["energy"] = _energies(tables, uses)
    if curve is not None:
        columns |= {"snr": curve.snr, "gain": curve.gain, "db_per_bit": curve.per_bit}
        rows += _weakest(names, curve)
    if len(columns) > 1:
        series.append(Series("by_stage", "Stage by stage", columns, _ABOUT))
    return Section("stages", "Codes of one vector", "", tuple(rows), tuple(series), tuple(matrices))


_ABOUT = (
    "entropy of use (Chao-Shen, bits) of log2 K bits; share of the energy; signal to noise up to the stage and its "
    "gain in dB; gain over bits a dimension (6.02 dB is ideal for Gaussian vectors)"
)


def _information(
    names: Sequence[str], codes: np.ndarray, seed: int
) -> tuple[Matrix, list[Measurement]]:
    generator = np.random.default_rng(seed)
    pairs = list(itertools.combinations(range(len(codes)), 2))
    if len(pairs) > _MOST_PAIRS:
        order = generator.permutation(len(pairs))[:_MOST_PAIRS]
        pairs = [pairs[i] for i in sorted(order)]
    values: list[list[float | None]] = [[None] * len(codes) for _ in codes]
    each: list[Information] = []
    for i, j in pairs:
        found = corrected(codes[i], codes[j], generator)
        values[i][j] = values[j][i] = found.value
        each.append(found)
    matrix = Matrix(
        "information",
        "Information between codes",
        tuple(names),
        tuple(names),
        tuple(tuple(row) for row in values),
        "bits",
        "mutual information less that of shuffled codes, on the sampled pieces",
    )
    return matrix, _of_pairs(each, [f"{names[i]} and {names[j]}" for i, j in pairs], codes.shape[1])


def _of_pairs(each: Sequence[Information], names: Sequence[str], n: int) -> list[Measurement]:
    """Mean and largest over pairs of codes."""
    if not each:
        return []
    mean = float(np.mean([found.value for found in each]))
    half = float(np.mean([found.half for found in each]))
    best = max(range(len(each)), key=lambda i: each[i].value)
    most = each[best]
    return [
        measured("mutual_information", mean, n, around(mean, half)),
        measured("largest_information", most.value, n, around(most.value, most.half), names[best]),
    ]


def _redundancy(codes: np.ndarray) -> Measurement:
    """Sum of entropies less joint entropy, where the sample is large enough to see the joint one."""
    kept = codes[:, (codes >= 0).all(0)]
    n = kept.shape[1]
    if not n:
        return measured("redundancy", None, 0, note="no position has all codes")
    keys = np.zeros(n, np.uint64)
    for row in kept:
        keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + row.astype(
            np.uint64
        )
    joint = Spectrum.of(np.unique(keys, return_counts=True)[1])
    if joint.coverage < 0.5:
        return measured(
            "redundancy", None, n, note="too few positions: most combinations of codes occur once"
        )
    total = sum(entropy_chao_shen(Spectrum.of(np.unique(r, return_counts=True)[1])) for r in kept)
    value = max(1 - entropy_chao_shen(joint) / total, 0.0) if total else 0.0
    apart = np.sum([surprise(r.astype(np.int64)) for r in kept], axis=0)
    half = of_ratio(surprise(keys), apart) if total else 0.0
    return measured("redundancy", value, n, around(value, half, 0.0, 1.0))


def _energies(tables: Sequence[Table], uses: Sequence[UseCounter]) -> tuple[float, ...]:
    """Mean square length by use (evenly where no codes are known), over that of all stages."""
    found = []
    for number, table in enumerate(tables):
        squares = table.values.double().square().sum(1).numpy()
        counts = uses[number].counts if len(uses) == len(tables) else np.zeros(0)
        weight = counts if len(counts) == len(squares) and counts.sum() else np.ones(len(squares))
        found.append(float((squares * weight).sum() / weight.sum()))
    total = sum(found) or 1.0
    return tuple(value / total for value in found)


def _weakest(names: Sequence[str], curve: StageCurve) -> list[Measurement]:
    worst = int(np.argmin(curve.gain))
    gain, bits = curve.gain[worst], max(float(np.sum(curve.bits)), 1e-12)
    whole = float(np.sum(curve.gain)) / bits
    return [
        measured(
            "stage_gain",
            gain,
            curve.n,
            around(gain, curve.gain_half[worst]),
            f"the least: {names[worst]}",
        ),
        measured("db_per_bit", whole, curve.n, around(whole, curve.half / bits), "all stages"),
    ]
