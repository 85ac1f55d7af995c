"""Plots of the places of entries."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vq.analysis.model import Section, Series
from vq.analysis.plots.figure import Figure, column, known, titled
from vq.analysis.svg.axis import span
from vq.analysis.svg.chart import Chart
from vq.analysis.svg.tags import COLOURS, WARN, number, ramp

Pairs = Sequence[tuple[Section, Series]]
_MAP = (560.0, 420.0)
_POINTS = 2000  # of all maps of a page
_TIPS = 400  # points up to which each has a tip


def code_maps(pairs: Pairs) -> list[Figure]:
    """A map of each table: entries on their two principal axes, dark where they are used much."""
    return [_code_map(section, series, _POINTS // len(pairs)) for section, series in pairs]


def _code_map(section: Section, series: Series, most: int) -> Figure:
    every = max(math.ceil(len(series.columns["x"]) / most), 1)
    x, y, counts, entry = (column(series, n)[::every] for n in ("x", "y", "count", "entry"))
    chart = Chart(
        titled("Map of the entries", section),
        *_square(span(x), span(y)),
        ("first principal axis", "second principal axis"),
        size=_MAP,
    )
    tips = [f"entry {number(e)}" for e in entry] if len(x) <= _TIPS else []
    words = f"{len(x)} entries on their two principal axes"
    if known(counts):
        words += _by_use(chart, x, y, counts)
    else:
        chart.points(x, y, COLOURS[0], name="entry", tips=tips)
    words += f"; x from {_ends(x)}, y from {_ends(y)}"
    caption = (
        "Each point is an entry, seen from the direction in which the table is widest. Entries that lie on one another "
        f"look like one point. Shown: the {series.definition.partition(';')[0]}."
    )
    return Figure(chart.svg(f"{words}."), caption)


def _by_use(
    chart: Chart,
    x: Sequence[float | None],
    y: Sequence[float | None],
    counts: Sequence[float | None],
) -> str:
    """Draw used entries over unused ones; returns what is seen in words."""
    used = [i for i, c in enumerate(counts) if c]
    unused = [i for i, c in enumerate(counts) if not c]
    used.sort(key=lambda i: counts[i] or 0)
    if unused:
        at = [x[i] for i in unused], [y[i] for i in unused]
        chart.points(*at, WARN, name=f"no token ({len(unused)})", hollow=True, radius=2.6)
    if used:
        logs = [math.log(counts[i] or 1) for i in used]
        wide = (max(logs) - min(logs)) or 1.0
        colours = [ramp(0.25 + 0.75 * (v - min(logs)) / wide) for v in logs]
        name = f"used ({len(used)}), darker is more"
        at = [x[i] for i in used], [y[i] for i in used]
        tips = [f"{number(counts[i])} tokens" for i in used] if len(used) <= _TIPS else []
        chart.points(*at, colours, name=name, tips=tips)
    return f", coloured by use: {len(used)} have tokens, {len(unused)} have none"


def _ends(values: Sequence[float | None]) -> str:
    kept = known(values) or [0.0]
    return f"{min(kept):.3g} to {max(kept):.3g}"


def _square(
    x: tuple[float, float], y: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges with one scale on both axes, so that distances look as they are."""
    wide, tall = _MAP[0] - 90, _MAP[1] - 56
    scale = max((x[1] - x[0]) / wide, (y[1] - y[0]) / tall)
    middles = (x[0] + x[1]) / 2, (y[0] + y[1]) / 2
    half = scale * wide / 2, scale * tall / 2
    a, b = ((m - h, m + h) for m, h in zip(middles, half, strict=True))
    return a, b


def lengths(pairs: Pairs) -> list[Figure]:
    """Histogram of the lengths of each table's entries."""
    found = []
    for section, series in pairs:
        norms, counts = column(series, "norm"), column(series, "entries")
        kept = known(norms)
        width = kept[1] - kept[0] if len(kept) > 1 else 0.1 * abs(kept[0]) or 0.1
        x = (kept[0] - width, kept[-1] + width)
        title = titled("Lengths of the entries", section)
        y = span(counts, zero=True)
        chart = Chart(title, x, y, ("length of the vector", "entries"))
        chart.bars(norms, counts, COLOURS[0], width * 0.9)
        most = max(range(len(counts)), key=lambda i: counts[i] or 0)
        words = (
            f"Lengths from {kept[0] - width / 2:.3g} to {kept[-1] + width / 2:.3g}; "
            f"most entries ({number(counts[most])}) are near {norms[most]:.3g}."
        )
        caption = "Two separate heaps often mean entries that training has left behind."
        found.append(Figure(chart.svg(words), caption))
    return found
