"""Tables of the page: every measurement with definition, N and interval."""

from __future__ import annotations

from collections.abc import Sequence

from vq.analysis.model import Cell, Measurement, Section
from vq.analysis.plots.figure import Figure
from vq.analysis.svg.tags import clean, number, tag

_ROWS = 400  # of a table of a plot


def measurements(sections: Sequence[Section], most: int) -> str:
    """One folded table of all measurements of sections of a kind, by measurement, then by part.

    Args:
        sections: of one kind.
        most: parts that are shown of each measurement.
    """
    keys = dict.fromkeys(m.key for s in sections for m in s.measurements)
    parts = len({section.part for section in sections}) > 1 or len(sections) > 1
    rows = []
    for key in keys:
        own = [(s, m) for s in sections for m in s.measurements if m.key == key]
        rows += _rows(own[:most], parts)
        if len(own) > most:
            words = f"and {len(own) - most} more parts: vq analyze --json has them"
            rows.append(tag("tr", tag("td", words, colspan=6 if parts else 5)))
    if not rows:
        return ""
    heads: list[tuple[str, str | None]] = [("measurement and its definition", None)]
    heads += [("part", None)] if parts else []
    heads += [("value", "n"), ("95 % interval", "n"), ("N", "n"), ("note", None)]
    head = tag("tr", [tag("th", h, scope="col", class_=c) for h, c in heads])
    name = clean(", ".join(dict.fromkeys(s.title for s in sections)))
    whole = tag("table", tag("thead", head) + tag("tbody", rows))
    words = f"All {len(keys)} measurements: {name}"
    return tag("details", tag("summary", words) + tag("div", whole, class_="scroll"))


def _rows(own: Sequence[tuple[Section, Measurement]], parts: bool) -> list[str]:
    rows = []
    for i, (section, m) in enumerate(own):
        cells = []
        if i == 0:
            span = len(own) if len(own) > 1 else None
            inside = clean(m.label or m.key) + tag("span", clean(_about(m)), class_="def")
            cells.append(tag("th", inside, scope="row", rowspan=span))
        if parts:
            cells.append(tag("td", clean(section.part or "all")))
        cells += [tag("td", clean(text), class_="n") for text in (_value(m), _interval(m), _n(m))]
        cells.append(tag("td", clean(m.note)))
        rows.append(tag("tr", cells))
    return rows


def _about(m: Measurement) -> str:
    words = f"{m.key}: {m.definition}" if m.definition else m.key
    return f"{words}. Interval: {m.interval}" if m.interval else words


def _value(m: Measurement) -> str:
    if isinstance(m.value, str):
        return m.value
    return f"{number(m.value)} {m.unit}".strip() if m.value is not None else "-"


def _interval(m: Measurement) -> str:
    if m.low is None or m.high is None:
        return "-"
    return f"{number(m.low)} to {number(m.high)}"


def _n(m: Measurement) -> str:
    return number(m.n)


def plot_numbers(figure: Figure) -> str:
    """The folded table of a plot's numbers; empty where it has none."""
    names, rows = figure.table
    if not names:
        return ""
    head = tag("tr", [tag("th", clean(n.replace("_", " ")), scope="col") for n in names])
    body = [tag("tr", [tag("td", clean(_cell(c))) for c in row]) for row in rows[:_ROWS]]
    if len(rows) > _ROWS:
        words = f"and {len(rows) - _ROWS} more rows: vq analyze --json has them"
        body.append(tag("tr", tag("td", words, colspan=len(names))))
    whole = tag("table", tag("thead", head) + tag("tbody", body))
    return tag("details", tag("summary", "Numbers") + tag("div", whole, class_="scroll"))


def _cell(value: Cell) -> str:
    return value if isinstance(value, str) else number(value)
