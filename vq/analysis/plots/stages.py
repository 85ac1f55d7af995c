"""Plots of several codes of one vector."""

from __future__ import annotations

from collections.abc import Sequence

from vq.analysis.model import Section, Series
from vq.analysis.plots.figure import Figure, column, known, table_of
from vq.analysis.svg.axis import span
from vq.analysis.svg.chart import Chart
from vq.analysis.svg.tags import COLOURS, SOFT

Pairs = Sequence[tuple[Section, Series]]
_IDEAL = 6.0206  # dB a bit of Gaussian vectors


def by_stage(pairs: Pairs) -> list[Figure]:
    """Signal to noise, gain per bit, entropy and energy, each where it is known."""
    series = pairs[0][1]
    names = [str(name) for name in series.columns["stage"]]
    found = []
    if known(column(series, "snr")):
        found.append(_snr(series, names))
        found.append(_per_bit(series, names))
    if known(column(series, "entropy")):
        found.append(_entropy(series, names))
    if known(column(series, "energy")):
        found.append(_energy(series, names))
    if found:
        last = found[-1]
        found[-1] = Figure(last.svg, last.caption, last.wide, table_of(series))
    return found


def _chart(
    title: str, names: Sequence[str], values: Sequence[float | None], label: str
) -> tuple[Chart, list[float | int | None]]:
    y = span(values, zero=True)
    chart = Chart(title, (-0.6, len(names) - 0.4), y, ("stage", label), names=names)
    return chart, list(range(len(names)))


def _told(names: Sequence[str], values: Sequence[float | None], unit: str) -> str:
    pairs = zip(names, values, strict=True)
    return ", ".join(f"{name} {v:.3g} {unit}".strip() for name, v in pairs if v is not None)


def _snr(series: Series, names: Sequence[str]) -> Figure:
    snr, gain = column(series, "snr"), column(series, "gain")
    chart, at = _chart("Signal to noise by stage", names, [*snr, *gain], "dB")
    chart.bars(at, gain, "#a6cbe6", 0.6, "gain of the stage")
    chart.line(at, snr, COLOURS[0], "up to the stage")
    chart.points(at, snr, COLOURS[0], radius=4)
    caption = (
        "Each stage should add about as much as the one before; a stage that adds little wastes its bits, one with a "
        "negative bar makes it worse."
    )
    return Figure(chart.svg(f"Signal to noise up to each: {_told(names, snr, 'dB')}."), caption)


def _per_bit(series: Series, names: Sequence[str]) -> Figure:
    values = column(series, "db_per_bit")
    chart, at = _chart("Gain per bit", names, [*values, _IDEAL], "dB a bit a dimension")
    chart.bars(at, values, COLOURS[2], 0.6)
    chart.level(_IDEAL, "6.02, ideal for Gaussian vectors")
    caption = "What a bit buys. Above the line, the vectors are easier than Gaussian ones."
    return Figure(chart.svg(f"{_told(names, values, 'dB a bit')}."), caption)


def _entropy(series: Series, names: Sequence[str]) -> Figure:
    values, most = column(series, "entropy"), column(series, "bits")
    chart, at = _chart("Entropy of use by stage", names, [*values, *most], "bits")
    chart.bars(at, most, "#d8dee4", 0.8, "log2 K: bits paid")
    chart.bars(at, values, COLOURS[0], 0.5, "entropy of use (Chao-Shen)")
    caption = (
        "Where the dark bar is much shorter than the light one, entries of that stage lie idle."
    )
    words = f"{_told(names, values, 'bits')}; of {_told(names, most, '')}"
    return Figure(chart.svg(f"{words}."), caption)


def _energy(series: Series, names: Sequence[str]) -> Figure:
    values = column(series, "energy")
    even = 1 / len(names)
    chart, at = _chart("Share of the energy by stage", names, values, "share of the energy")
    chart.bars(at, values, COLOURS[3], 0.6)
    if len(names) > 1:
        chart.line((-0.5, len(names) - 0.5), (even, even), SOFT, "an even share", "5 4")
    caption = "Mean square length of the entries by use; it falls where each stage refines the one before."
    return Figure(chart.svg(f"{_told(names, values, '')}."), caption)
