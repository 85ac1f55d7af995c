"""Plots of compressed weights: error and bits by layer and block."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vq.analysis.model import Section, Series
from vq.analysis.plots.figure import Figure, column, known, table_of, titled
from vq.analysis.svg.axis import span
from vq.analysis.svg.chart import Chart
from vq.analysis.svg.heat import HeatMap
from vq.analysis.svg.tags import COLOURS, SOFT, number

Pairs = Sequence[tuple[Section, Series]]
_NUMBER = re.compile(r"^(.*?)(?:^|\.)(\d+)\.(.+)$")
_ERRORS = {
    "proxy_error": (
        "Error by layer and block, as the compressor measured it",
        "weighted by the activations",
    ),
    "relative_error": (
        "Error of the weights by layer and block",
        "squared error over squared weights",
    ),
}


def places(names: Sequence[str]) -> list[tuple[str, int] | None]:
    """Kind and block of each layer, None for one without a block.

    ``model.layers.3.mlp.up_proj`` is ``("mlp.up_proj", 3)``; where there are several stacks of blocks, the kind begins
    with the parts of the name that tell them apart: ``encoder.mlp.up_proj``.
    """
    found = [_NUMBER.match(name) for name in names]
    stacks = list(dict.fromkeys(tuple(m.group(1).split(".")) for m in found if m is not None))
    shared = set(stacks[0]).intersection(*stacks[1:]) if stacks else set()
    lead = {stack: ".".join(part for part in stack if part not in shared) for stack in stacks}
    return [
        None
        if m is None
        else (f"{lead[tuple(m.group(1).split('.'))]}.{m.group(3)}".lstrip("."), int(m.group(2)))
        for m in found
    ]


def by_layer(pairs: Pairs) -> list[Figure]:
    """Heat maps of the errors, kurtosis before and after rotation, error here against error there."""
    found = []
    for section, series in pairs:
        names = [str(name) for name in series.columns["layer"]]
        for key, (title, unit) in _ERRORS.items():
            values = column(series, key)
            if known(values):
                found.append(_map(titled(title, section), names, values, unit))
        found += _bits_map(section, series, names)
        draws: tuple[Callable[[Section, Series], list[Figure]], ...] = (_tails, _both_errors)
        found += [figure for draw in draws for figure in draw(section, series)]
        if found:
            first = found[0]
            found[0] = Figure(first.svg, first.caption, first.wide, table_of(series))
    return found


def _map(title: str, names: Sequence[str], values: Sequence[float | None], unit: str) -> Figure:
    spots = places(names)
    worst = max(range(len(values)), key=lambda i: -1.0 if values[i] is None else values[i] or 0.0)
    words = (
        f"{len(known(values))} layers; the highest is {names[worst]} with {number(values[worst])}"
    )
    words += f"; the median is {number(sorted(known(values))[len(known(values)) // 2])}"
    blocks = sorted({p[1] for p in spots if p is not None})
    if len(blocks) < 2:
        return _bars(title, names, values, unit, words)
    kinds = list(dict.fromkeys(p[0] for p in spots if p is not None))
    grid: list[list[float | None]] = [[None] * len(blocks) for _ in kinds]
    for spot, value in zip(spots, values, strict=True):
        if spot is not None:
            grid[kinds.index(spot[0])][blocks.index(spot[1])] = value
    heat = HeatMap(title, kinds, [str(b) for b in blocks], grid, unit)
    caption = f"{title}: a row for each kind of layer, a column for each block; dark is high. {unit.capitalize()}."
    return Figure(heat.svg(f"{words}."), caption, wide=True)


def _bars(
    title: str, names: Sequence[str], values: Sequence[float | None], unit: str, words: str
) -> Figure:
    x, y = (-0.6, len(names) - 0.4), span(values, zero=True)
    chart = Chart(title, x, y, ("layer", unit), names=names)
    chart.bars(list(range(len(names))), values, COLOURS[0], 0.7)
    return Figure(chart.svg(f"{words}."), f"{title}.")


def _bits_map(section: Section, series: Series, names: Sequence[str]) -> list[Figure]:
    """Only where layers differ."""
    values = column(series, "bits_per_weight")
    if not known(values) or max(known(values)) - min(known(values)) < 0.1:
        return []
    return [_map(titled("Bits per weight by layer and block", section), names, values, "bits")]


def _tails(section: Section, series: Series) -> list[Figure]:
    before, after = column(series, "kurtosis_before"), column(series, "kurtosis_after")
    if not known([*before, *after]):
        return []
    at: list[float | int | None] = list(range(len(before)))
    y = span([*before, *after, 3.0], log=True)
    title = titled("Tails of the weights", section)
    x = (-1.0, float(len(at)))
    labels = ("layer, in the order of the model", "kurtosis (Gaussian: 3)")
    chart = Chart(title, x, y, labels, (False, True))
    names = [str(name) for name in series.columns["layer"]]
    told = []
    for values, word, hue in ((before, "before rotation", 1), (after, "after rotation", 0)):
        if known(values):
            tips = [
                f"{n}: {v:.3g}" if v is not None else "" for n, v in zip(names, values, strict=True)
            ]
            chart.points(at, values, COLOURS[hue], name=word, tips=tips, radius=2.6)
            kept = sorted(known(values))
            told.append(f"{word}: median {kept[len(kept) // 2]:.3g}, highest {kept[-1]:.3g}")
    chart.level(3.0, "Gaussian")
    caption = "Rotation should bring every layer to 3; what stays above it has outliers left, which cost accuracy."
    return [Figure(chart.svg("; ".join(told) + "."), caption)]


def _both_errors(section: Section, series: Series) -> list[Figure]:
    """Error of the weights against the error weighted by activations."""
    weights, proxy = column(series, "relative_error"), column(series, "proxy_error")
    if min(len(known(weights)), len(known(proxy))) < 3:
        return []
    names = [str(name) for name in series.columns["layer"]]
    title = titled("Where the error lies", section)
    x, y = span(weights, log=True), span(proxy, log=True)
    labels = ("relative error of the weights", "error weighted by activations")
    chart = Chart(title, x, y, labels, (True, True))
    chart.points(weights, proxy, COLOURS[0], tips=names)
    ends = (max(x[0], y[0]), min(x[1], y[1]))
    moved = "rounding has moved the error to directions that the activations hardly use."
    caption = f"Where the second is much smaller than the first, {moved}"
    if ends[0] < ends[1]:
        chart.line(ends, ends, SOFT, "equal", "5 4")
        caption = f"Below the dashed line, {moved}"
    words = f"{len(names)} layers; weights {_ends(weights)}, weighted {_ends(proxy)}."
    return [Figure(chart.svg(words), caption)]


def _ends(values: Sequence[float | None]) -> str:
    return f"{min(known(values)):.3g} to {max(known(values)):.3g}"


def bits(pairs: Pairs) -> list[Figure]:
    """What the stored bits are."""
    found = []
    for section, series in pairs:
        names = [str(name) for name in series.columns["part"]]
        values = column(series, "bits_per_weight")
        title = titled("What the bits are", section)
        y = span(values, zero=True)
        chart = Chart(title, (-0.6, len(names) - 0.4), y, ("part", "bits per weight"), names=names)
        chart.bars(list(range(len(names))), values, COLOURS[0], 0.6)
        told = ", ".join(f"{n} {v or 0.0:.4g}" for n, v in zip(names, values, strict=True))
        caption = f"Stored bits over all quantized weights: {told}."
        words = f"Bits per weight: {told}; {sum(known(values)):.4g} in all."
        found.append(Figure(chart.svg(words), caption))
    return found
