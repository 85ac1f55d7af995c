"""Plots of anything: curves and bars of a series, a heat map of a matrix; training curves among them."""

from __future__ import annotations

from vq.analysis.model import Matrix, Section, Series
from vq.analysis.plots.figure import Figure, column, known, numbers, real, table_of, titled
from vq.analysis.rules.words import shortened
from vq.analysis.svg.axis import span
from vq.analysis.svg.chart import Chart
from vq.analysis.svg.heat import MOST, HeatMap
from vq.analysis.svg.tags import COLOURS, number

_LINES = 8
_BARS = 64


def curve(section: Section, series: Series) -> list[Figure]:
    """The other columns over the first: lines over numbers, bars over words; nothing where there is nothing to draw."""
    if not numbers(series) or not series.columns:
        return []
    first, *others = series.columns
    shown = [name for name in others if known(column(series, name))][:_LINES]
    title = titled(series.title, section)
    if all(real(value) is not None for value in series.columns[first]):
        return [_lines(title, series, first, shown)]
    return [_bars(title, series, first, shown)]


def _lines(title: str, series: Series, first: str, shown: list[str]) -> Figure:
    xs = column(series, first)
    x = span(xs, room=0.02)
    y = span([v for name in shown for v in column(series, name)])
    labels = (_words(first), _words(shown[0]) if len(shown) == 1 else "value")
    chart = Chart(title, x, y, labels)
    told = []
    for i, name in enumerate(shown):
        values = column(series, name)
        chart.line(xs, values, COLOURS[i], _words(name) if len(shown) > 1 else "")
        kept = known(values)
        told.append(
            f"{_words(name)} goes from {number(kept[0])} to {number(kept[-1])}, "
            f"lowest {number(min(kept))}, highest {number(max(kept))}"
        )
    return Figure(chart.svg("; ".join(told) + "."), _sentence(series.definition))


def _bars(title: str, series: Series, first: str, shown: list[str]) -> Figure:
    names = [str(value) for value in series.columns[first]][:_BARS]
    y = span([v for name in shown for v in column(series, name)[:_BARS]], zero=True)
    label = _words(shown[0]) if len(shown) == 1 else "value"
    chart = Chart(title, (-0.6, len(names) - 0.4), y, (_words(first), label), names=names)
    width = 0.8 / len(shown)
    told = []
    for i, name in enumerate(shown):
        values = column(series, name)[:_BARS]
        shift = (i - (len(shown) - 1) / 2) * width
        legend = _words(name) if len(shown) > 1 else ""
        chart.bars(list(range(len(names))), values, COLOURS[i], width * 0.9, legend, shift)
        pairs = zip(names[:12], values, strict=False)
        told.append(f"{_words(name)}: " + ", ".join(f"{n} {number(v)}" for n, v in pairs))
    words = "; ".join(told) + "."
    return Figure(chart.svg(words), _sentence(series.definition), table=table_of(series))


def heat(section: Section, matrix: Matrix) -> list[Figure]:
    """A heat map; nothing for a matrix without a number."""
    spots = [
        (value, i, j)
        for i, row in enumerate(matrix.values)
        for j, cell in enumerate(row)
        if (value := real(cell)) is not None
    ]
    if not spots:
        return []
    low, high = min(spots), max(spots)

    def where(spot: tuple[float, int, int]) -> str:
        return f"{number(spot[0])} ({matrix.rows[spot[1]]}, {matrix.columns[spot[2]]})"

    words = f"{len(spots)} values, from {where(low)} to {where(high)} {matrix.unit}".strip()
    rows = shortened(matrix.rows)
    wide = len(matrix.columns) > 12 or max(len(r) for r in rows) > 20
    title = titled(matrix.title, section)
    width = 1140.0 if wide else 560.0
    picture = HeatMap(title, rows, matrix.columns, matrix.values, matrix.unit, width)
    caption = _sentence(matrix.definition)
    if max(len(matrix.rows), len(matrix.columns)) > MOST:
        caption += f" The first {MOST} rows and columns are shown."
    return [Figure(picture.svg(f"{words}."), caption, wide)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text and not text.endswith(".") else text
