"""Two subjects side by side: do their tables, codes and distortions agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vq.analysis.assignment import assign
from vq.analysis.catalogue import measured
from vq.analysis.estimators import Spectrum, entropy_plugin
from vq.analysis.geometry import rms_spread
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.rate import Coded, code_vectors, stage_curve
from vq.analysis.stages import mutual_information
from vq.analysis.stream import Sampler, UseCounter, read
from vq.analysis.subject import Codes, Subject, Table
from vq.errors import VqError

_ROWS = 1024  # rows of the first table that are paired
_COLUMNS = 1 << 14  # of the second
_POSITIONS = 1 << 16


def compare_sections(first: Subject, second: Subject, seed: int = 0) -> list[Section]:
    """One section for each pair of tables or streams, and one for distortion.

    Raises:
        VqError: if the two have nothing in common.
    """
    sections = []
    for a, b in zip(first.tables, second.tables, strict=False):
        if a.values.shape[1] == b.values.shape[1]:
            sections.append(_tables(a, b, seed))
    if first.codes is not None and second.codes is not None:
        sections.append(_codes(first, second))
    sections += _distortion(first, second, seed)
    if not sections and not (first.layers and (second.layers or second.weights)):
        raise VqError(
            f"{first.name} ({first.kind}) and {second.name} ({second.kind}) have nothing to compare: expected tables "
            "of one dim, codes of the same positions, or a compressed model and its original"
        )
    return sections


def _tables(a: Table, b: Table, seed: int) -> Section:
    generator = torch.Generator().manual_seed(seed)
    x, y = (t.values.float()[torch.isfinite(t.values).all(1)] for t in (a, b))
    if len(x) > len(y):
        x, y = y, x
    picks = torch.randperm(len(x), generator=generator)[:_ROWS].sort().values
    near = y[torch.randperm(len(y), generator=generator)[:_COLUMNS].sort().values]
    cosines = _unit(x[picks] - x.mean(0)) @ _unit(near - y.mean(0)).T
    pairing = torch.from_numpy(assign(-cosines.double().numpy()))
    cosine = cosines[torch.arange(len(picks)), pairing]
    squares = torch.cdist(x[picks].double(), near.double()).square()
    by_distance = torch.from_numpy(assign(squares.numpy()))
    distance = squares[torch.arange(len(picks)), by_distance].mean().sqrt()
    n = len(picks)
    rows = [
        measured("matched_cosine", float(cosine.mean()), n),
        measured("matched_distance", float(distance) / max(rms_spread(a.values.float()), 1e-30), n),
        measured("cka", linear_cka(x[picks], near[by_distance]), n, note="of matched entries"),
    ]
    notes = [f"{n} of {len(x)} entries were paired"] if n < len(x) else []
    return Section("compare", "Tables compared", a.name, tuple(rows), notes=tuple(notes))


def _unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of paired rows: ``|Y'X|^2 / |X'X| |Y'Y|``, means removed."""
    a, b = (t.double() - t.double().mean(0) for t in (x, y))
    bottom = (a.T @ a).norm() * (b.T @ b).norm()
    return float((b.T @ a).square().sum() / bottom) if float(bottom) else 0.0


def _codes(first: Subject, second: Subject) -> Section:
    assert first.codes is not None and second.codes is not None
    samples, uses, counts = [], [], []
    for codes in (first.codes, second.codes):
        sampler, use = Sampler(), UseCounter(codes.entries[0], 0)
        counts.append(read(codes, [sampler, use]))
        samples.append(sampler.result().codes)
        uses.append(use)
    if counts[0] != counts[1]:
        raise VqError(
            f"codes of {first.name} and {second.name}: expected the same positions, got {counts[0]} and {counts[1]}"
        )
    rows: list[Measurement] = []
    a, b = samples
    for q in range(min(len(a), len(b))):
        name = first.codes.name(q)
        rows_here = _agreement(a[q], b[q])
        if q == 0:
            rows += rows_here + _divergence(uses, first.codes, second.codes)
        else:
            rows += [replace(m, key=f"{m.key}_{q}", label=f"{m.label}, {name}") for m in rows_here]
    if first.tables and second.tables:
        rows += _values(first, second, a, b)
    return Section("compare", "Codes compared", "", tuple(rows))


def _agreement(a: np.ndarray, b: np.ndarray) -> list[Measurement]:
    n = len(a)
    shuffled = np.random.default_rng(0).permutation(b)
    chance, found = mutual_information(a, shuffled), mutual_information(a, b)
    entropies = [entropy_plugin(Spectrum.of(np.unique(x, return_counts=True)[1])) for x in (a, b)]
    most = max(entropies)
    adjusted = (found - chance) / (most - chance) if most - chance > 1e-9 else 1.0
    return [
        measured("agreement", adjusted, n),
        measured("same_codes", float((a == b).mean()), n),
    ]


def _divergence(uses: list[UseCounter], first: Codes, second: Codes) -> list[Measurement]:
    if first.entries[0] != second.entries[0] or any(use.types is not None for use in uses):
        return []
    p, q = (use.counts / max(use.counts.sum(), 1) for use in uses)
    middle = (p + q) / 2
    parts = [_relative_entropy(x, middle) for x in (p, q)]
    return [
        measured(
            "use_divergence",
            sum(parts) / 2,
            int(uses[0].counts.sum()),
            note="entries by their number",
        )
    ]


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> float:
    inside = p > 0
    return float((p[inside] * np.log2(p[inside] / q[inside])).sum())


def _values(first: Subject, second: Subject, a: np.ndarray, b: np.ndarray) -> list[Measurement]:
    """CKA of the values that the codes of the same positions stand for."""
    sets = []
    for subject, codes in ((first, a), (second, b)):
        if len(subject.tables) != len(codes):
            return []
        kept = torch.from_numpy(codes[:, :_POSITIONS].astype(np.int64)).clamp_min(0)
        parts = [t.values.double()[row] for t, row in zip(subject.tables, kept, strict=True)]
        sets.append(
            torch.cat(parts, 1) if subject.structure == "grouped" else torch.stack(parts).sum(0)
        )
    return [
        measured("cka", linear_cka(*sets), len(sets[0]), note="of values at the same positions")
    ]


def _distortion(first: Subject, second: Subject, seed: int) -> list[Section]:
    """Signal to noise of both on the vectors of the first (of the second where it has none)."""
    source = first.vectors or second.vectors
    if source is None:
        return []
    x = source()
    try:
        a, b = (code_vectors(subject, x, seed) for subject in (first, second))
    except ValueError:  # vectors of another length
        return []
    if a is None or b is None:
        return []
    snr = [10 * np.log10(c.variance / max(c.mse, 1e-300)) for c in (a, b)]
    rates = [_rate(s, c) for s, c in ((first, a), (second, b))]
    n = len(a.x)
    rows = [
        measured("snr_change", float(snr[1] - snr[0]), n),
        measured("rate_change", rates[1] - rates[0], n),
    ]
    series = tuple(
        Series(
            f"rd_{i}",
            f"Rate and distortion of {s.name}",
            _curves(s, c),
            "bits a dimension; signal to noise in dB",
        )
        for i, (s, c) in enumerate(((first, a), (second, b)))
    )
    return [Section("compare", "Distortion compared", "", tuple(rows), series)]


def _rate(subject: Subject, coded: Coded) -> float:
    if not coded.entries:
        return float(subject.facts["rate"])
    return float(sum(np.log2(k) for k in coded.entries)) / coded.x.shape[1]


def _curves(subject: Subject, coded: Coded) -> dict[str, tuple[float, ...]]:
    """Rate and signal to noise by prefix of stages."""
    curve = stage_curve(coded)
    if curve is None:
        snr = 10 * float(np.log10(coded.variance / max(coded.mse, 1e-300)))
        return {"rate": (_rate(subject, coded),), "snr": (snr,)}
    return {"rate": tuple(float(r) for r in np.cumsum(curve.bits)), "snr": curve.snr}
