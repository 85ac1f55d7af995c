"""Two subjects side by side: do their tables, codes and distortions agree."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.measures.coded import Coded, code_vectors, stage_curve
from vq.analysis.measures.gather import Streams
from vq.analysis.measures.geometry import rms_spread
from vq.analysis.measures.stream import UseCounter
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.statistics.assignment import assign
from vq.analysis.statistics.estimators import Z95, wilson
from vq.analysis.statistics.information import mutual_information, pointwise
from vq.analysis.statistics.intervals import around, chance_error, half_width, of_decibels
from vq.analysis.subject import Subject, Table
from vq.errors import VqError

_ROWS = 1024  # rows of the first table that are paired
_COLUMNS = 1 << 14  # of the second
_POSITIONS = 1 << 16
_GROUPS = 16  # of the jackknife


def compare_sections(
    first: Subject,
    second: Subject,
    streams: Streams | None = None,
    beside: Streams | None = None,
    seed: int = 0,
) -> list[Section]:
    """One section for each pair of tables or streams, and one for distortion.

    Args:
        first: to be compared.
        second: with this one.
        streams: what the codes of the first have given; None without codes.
        beside: those of the second.
        seed: of samples.

    Raises:
        VqError: if the two have nothing in common.
    """
    sections = []
    for a, b in zip(first.tables, second.tables, strict=False):
        if a.values.shape[1] == b.values.shape[1]:
            sections.append(_tables(a, b, seed))
    if streams is not None and beside is not None:
        sections += _codes(first, second, streams, beside)
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
    n, spread = len(picks), max(rms_spread(a.values.float()), 1e-30)
    paired = squares[torch.arange(n), by_distance].numpy()
    distance = math.sqrt(float(paired.mean()))
    close = half_width(paired) / max(2 * distance, 1e-30) / spread
    rows = [
        measured(
            "matched_cosine",
            float(cosine.mean()),
            n,
            around(float(cosine.mean()), half_width(cosine.double().numpy()), -1.0, 1.0),
        ),
        measured("matched_distance", distance / spread, n, around(distance / spread, close, 0.0)),
        _alignment(x[picks], near[by_distance], "of matched entries"),
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


def _alignment(x: Tensor, y: Tensor, note: str) -> Measurement:
    value = linear_cka(x, y)
    half = _alignment_error(x.double(), y.double())
    return measured("cka", value, len(x), around(value, half, 0.0, 1.0), note)


def _alignment_error(x: Tensor, y: Tensor) -> float:
    """Half of the interval of the alignment, by leaving each of some groups of rows out."""
    if len(x) < 4 * _GROUPS:
        return math.nan
    a, b = x - x.mean(0), y - y.mean(0)
    pairs = list(zip(a.chunk(_GROUPS), b.chunk(_GROUPS), strict=True))
    products = torch.stack([torch.cat([p, q], 1).T @ torch.cat([p, q], 1) for p, q in pairs])
    sums = torch.stack([torch.cat([p, q], 1).sum(0) for p, q in pairs])
    found, wide = [], x.shape[1]
    for (p, _), product, total in zip(pairs, products, sums, strict=True):
        n, rest = len(x) - len(p), sums.sum(0) - total
        both = products.sum(0) - product - rest.outer(rest) / n
        bottom = both[:wide, :wide].norm() * both[wide:, wide:].norm()
        found.append(float(both[:wide, wide:].square().sum() / bottom.clamp_min(1e-300)))
    groups = len(found)
    return Z95 * (groups - 1) / math.sqrt(groups) * float(np.std(found))


def _codes(first: Subject, second: Subject, one: Streams, two: Streams) -> list[Section]:
    """A section for each pair of streams: how use differs and, for the same positions, whether codes agree."""
    same = one.positions == two.positions
    a, b = one.sample.codes, two.sample.codes
    notes: tuple[str, ...] = ()
    if not same:
        words = f"{one.positions:,} and {two.positions:,} positions"
        notes = (f"codes of {words} cannot be compared one by one; their use can",)
    sections = []
    for q in range(min(len(one.uses), len(two.uses))):
        rows = _divergence(one.uses[q], two.uses[q])
        rows += _agreement(a[q], b[q]) if same and a.size else []
        if q == 0 and same and a.size and first.tables and second.tables:
            rows += _values(first, second, a, b)
        part = one.codes.name(q)
        sections.append(Section("compare", "Codes compared", part, tuple(rows), notes=notes))
    return sections


def _agreement(a: np.ndarray, b: np.ndarray) -> list[Measurement]:
    n = len(a)
    shuffled = np.random.default_rng(0).permutation(b)
    whole, chance = pointwise(a, b), mutual_information(a, shuffled)
    if not len(whole.joint):
        return [measured("agreement", None, 0, note="no position has both codes")]
    # over the larger of the two entropies
    entropies = float(whole.first.mean()), float(whole.second.mean())
    larger, most = whole.first if entropies[0] > entropies[1] else whole.second, max(entropies)
    room, gain = most - chance, float(whole.information.mean()) - chance
    if room > 1e-9:
        adjusted = gain / room
        half = math.hypot(
            half_width((whole.information - adjusted * larger) / room),
            Z95 * math.sqrt(2) * chance_error(*whole.types, n) * (1 - adjusted) / room,
        )
    else:
        adjusted, half = 1.0, 0.0
    same = int((a == b).sum())
    return [
        measured("agreement", adjusted, n, around(adjusted, half, -1.0, 1.0)),
        measured("same_codes", same / n, n, wilson(same, n)),
    ]


def _divergence(first: UseCounter, second: UseCounter) -> list[Measurement]:
    uses = (first, second)
    if first.entries != second.entries or any(use.types is not None for use in uses):
        return []
    p, q = (use.counts / max(use.counts.sum(), 1) for use in uses)
    middle = (p + q) / 2
    parts = [_relative_entropy(x, middle) for x in (p, q)]
    value = sum(mean for mean, _ in parts) / 2
    errors = [
        spread / 2 / math.sqrt(max(use.counts.sum(), 1))
        for (_, spread), use in zip(parts, uses, strict=True)
    ]
    return [
        measured(
            "use_divergence",
            value,
            int(uses[0].counts.sum()),
            around(value, Z95 * math.hypot(*errors), 0.0, 1.0),
            "entries by their number",
        )
    ]


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
    """Relative entropy in bits, and the standard deviation of what one token adds to it."""
    inside = p > 0
    share, bits = p[inside], np.log2(p[inside] / q[inside])
    mean = float((share * bits).sum())
    return mean, math.sqrt(max(float((share * bits * bits).sum()) - mean * mean, 0.0))


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
    return [_alignment(sets[0], sets[1], "of values at the same positions")]


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
    n, change = len(a.x), float(snr[1] - snr[0])
    each = [(c.x - c.values[-1]).square().mean(1).numpy() for c in (a, b)]
    rows = [
        measured("snr_change", change, n, around(change, of_decibels(each[0], each[1]))),
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
