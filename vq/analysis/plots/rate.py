"""Rate and distortion: the subject beside Shannon's line and every codebook of the catalogue."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vq.analysis.bench.gaussian import gap_db
from vq.analysis.model import Section, Series
from vq.analysis.plots.families import KINDS, Family, families
from vq.analysis.plots.figure import Figure, column, known, table_of
from vq.analysis.svg.axis import span
from vq.analysis.svg.chart import MARKS, Chart
from vq.analysis.svg.tags import COLOURS, INK, WARN

Pairs = Sequence[tuple[Section, Series]]
_AROUND = 1.25  # bits of the plane to each side
_HIGHEST = 7.0  # dB of the second plot
_SIZE = (560.0, 380.0)
_LINE = 64  # pieces of a curve
_RATE = "rate, bits a number"


def plane(pairs: Pairs) -> list[Figure]:
    """Error over rate near the subject, and the distance from Shannon at all rates."""
    series = pairs[0][1]
    rates, errors = column(series, "rate"), column(series, "distortion")
    words = [str(w) for w in series.columns.get("what", ("",) * len(rates))]
    own = [
        (r, max(d, 1e-12), w)
        for r, d, w in zip(rates, errors, words, strict=True)
        if r is not None and d is not None
    ]
    return [_near(own), _gaps(own, table_of(series))] if own else []


def _near(own: Sequence[tuple[float, float, str]]) -> Figure:
    low = max(min(r for r, _, _ in own) - _AROUND, 0.0)
    high = max(r for r, _, _ in own) + _AROUND
    shown = [f for f in families() if low <= f.rate <= high]
    ends = [4**-low, 4**-high, *(d for _, d, _ in own), *(f.distortion for f in shown)]
    labels = (_RATE, "mean squared error over variance")
    chart = Chart(
        "Rate and distortion", (low, high), span(ends, log=True), labels, (False, True), _SIZE
    )
    xs = [low + (high - low) * i / _LINE for i in range(_LINE + 1)]
    chart.line(xs, [4**-x for x in xs], INK, "Shannon's limit")
    _families(chart, [(f, f.distortion) for f in shown])
    _subject(chart, own)
    told = "; ".join(
        f"this codebook, {what}: {d:.4g} at {r:.3g} bits, {gap_db(d, r):.2f} dB above the limit"
        for r, d, what in own
    )
    caption = (
        "Lower is better, and nothing lies below Shannon's line 4^-rate for Gaussian data. The marks are the codebooks "
        "of the catalogue, on N(0, 1)."
    )
    words = f"{told}; {len(shown)} codebooks of the catalogue beside it."
    return Figure(chart.svg(words), caption)


def _gaps(
    own: Sequence[tuple[float, float, str]],
    table: tuple[tuple[str, ...], tuple[tuple[float | int | str | None, ...], ...]],
) -> Figure:
    gaps = [(f, gap_db(f.distortion, f.rate)) for f in families()]
    mine = [(r, gap_db(d, r), w) for r, d, w in own]
    shown = [(f, g) for f, g in gaps if g <= _HIGHEST]
    top = max(_HIGHEST, *(g * 1.1 for _, g, _ in mine))
    bottom = min(0.0, *(g * 1.1 for _, g, _ in mine))
    right = max(*(f.rate for f, _ in shown), *(r for r, _, _ in mine)) + 0.3
    labels = (_RATE, "dB above Shannon's limit")
    chart = Chart("Distance from Shannon's limit", (0.0, right), (bottom, top), labels, size=_SIZE)
    chart.level(0.0, "Shannon's limit")
    chart.level(1.533, "scalar with ideal entropy coding")
    _families(chart, shown)
    _subject(chart, mine)
    best = sorted(gaps, key=lambda pair: pair[1])[:3]
    words = "; ".join(f"this codebook, {what}: {g:.2f} dB at {r:.3g} bits" for r, g, what in mine)
    others = ", ".join(f"{f.spec} {g:.2f} dB at {f.rate:g} bits" for f, g in best)
    caption = (
        "The same as a distance: 6.02 dB are worth one bit a number. Codebooks further than 7 dB are left out. A point "
        "below 0 means data that are not Gaussian, or vectors that the codebook has learned by heart."
    )
    return Figure(chart.svg(f"{words}; closest of the catalogue: {others}."), caption, table=table)


def _families(chart: Chart, rows: Sequence[tuple[Family, float]]) -> None:
    for i, kind in enumerate([*KINDS, "others"]):
        own = [(f, value) for f, value in rows if f.kind == kind]
        if own:
            tips = [f"{f.spec}: MSE {f.distortion:.4g} at {f.rate:.3g} bits" for f, _ in own]
            xs, ys = [f.rate for f, _ in own], [value for _, value in own]
            shape = MARKS[i % len(MARKS)]
            chart.points(xs, ys, COLOURS[i], name=kind, shape=shape, radius=3.4, tips=tips)


def _subject(chart: Chart, own: Sequence[tuple[float, float, str]]) -> None:
    for i, (r, d, what) in enumerate(own):
        shape, hollow = "diamond", i > 0
        name = f"this one, {what}" if what else "this one"
        chart.points([r], [d], WARN, name=name, shape=shape, radius=7, hollow=hollow, tips=[name])


def compared(pairs: Pairs) -> list[Figure]:
    """Signal to noise over rate of two subjects."""
    rates = [column(s, "rate") for _, s in pairs]
    snr = [column(s, "snr") for _, s in pairs]
    most = max((v for r in rates for v in known(r)), default=1.0)
    x = (0.0, most * 1.1 or 1.0)
    slope = 20 * math.log10(2)
    y = span([*(v for s in snr for v in s), slope * most], zero=True)
    chart = Chart("Rate and distortion compared", x, y, (_RATE, "signal to noise, dB"), size=_SIZE)
    chart.line(x, (0.0, slope * x[1]), INK, "Shannon's limit")
    told = []
    for i, (_, series) in enumerate(pairs):
        name = series.title.removeprefix("Rate and distortion of ")
        chart.line(rates[i], snr[i], COLOURS[i % len(COLOURS)], name)
        chart.points(rates[i], snr[i], COLOURS[i % len(COLOURS)], radius=4)
        ends = [(a, b) for a, b in zip(rates[i], snr[i], strict=True) if a is not None]
        told += [f"{name}: {b or 0.0:.2f} dB at {a:.3g} bits" for a, b in ends[-1:]]
    caption = "Higher is better at the same rate. Points of a line are the stages of one codebook."
    return [Figure(chart.svg("; ".join(told) + "."), caption)]
