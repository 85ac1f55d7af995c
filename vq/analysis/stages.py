"""Several codes a vector: what each adds, and what they tell of each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from vq.analysis.catalogue import measured
from vq.analysis.estimators import Spectrum, entropy_chao_shen, entropy_plugin
from vq.analysis.model import Matrix, Measurement, Section, Series
from vq.analysis.rate import StageCurve
from vq.analysis.stream import UseCounter
from vq.analysis.subject import Chunk, Table

_MOST_PAIRS = 64  # pairs of codes; more are sampled
_SHUFFLES = 2


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Plug-in mutual information in bits of two streams ``(n,)``; -1 in either counts nothing."""
    kept = (a >= 0) & (b >= 0)
    first = np.unique(a[kept], return_inverse=True)[1]
    second = np.unique(b[kept], return_inverse=True)[1]
    if not len(first):
        return 0.0
    width = int(second.max()) + 1
    joint = first.astype(np.int64) * width + second
    entropy = [entropy_plugin(Spectrum.of(_counts(x))) for x in (first, second, joint)]
    return max(entropy[0] + entropy[1] - entropy[2], 0.0)


def _counts(keys: np.ndarray) -> np.ndarray:
    if int(keys.max()) < max(4 * len(keys), 1 << 16):
        return np.bincount(keys)
    return np.unique(keys, return_counts=True)[1]


def corrected_information(a: np.ndarray, b: np.ndarray, generator: np.random.Generator) -> float:
    """Mutual information less the mean of that with one stream shuffled: near 0 for independent streams."""
    chance = [mutual_information(a, generator.permutation(b)) for _ in range(_SHUFFLES)]
    return mutual_information(a, b) - float(np.mean(chance))


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
    for i, j in pairs:
        found = corrected_information(codes[i], codes[j], generator)
        values[i][j] = values[j][i] = found
    matrix = Matrix(
        "information",
        "Information between codes",
        tuple(names),
        tuple(names),
        tuple(tuple(row) for row in values),
        "bits",
        "mutual information less that of shuffled codes, on the sampled pieces",
    )
    each = [values[i][j] or 0.0 for i, j in pairs]
    best = int(np.argmax(each)) if each else 0
    n = codes.shape[1]
    if not each:
        return matrix, []
    i, j = pairs[best]
    return matrix, [
        measured("mutual_information", float(np.mean(each)), n),
        measured("largest_information", each[best], n, note=f"{names[i]} and {names[j]}"),
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
    total = sum(entropy_chao_shen(Spectrum.of(_counts(r))) for r in kept)
    return measured(
        "redundancy", max(1 - entropy_chao_shen(joint) / total, 0.0) if total else 0.0, n
    )


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
    return [
        measured("stage_gain", curve.gain[worst], curve.n, note=f"the least: {names[worst]}"),
        measured(
            "db_per_bit",
            float(np.sum(curve.gain) / max(np.sum(curve.bits), 1e-12)),
            curve.n,
            note="all stages",
        ),
    ]
