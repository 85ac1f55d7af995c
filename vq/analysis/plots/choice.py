"""Which plots an analysis has: those made for what it holds, plain ones for anything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vq.analysis.model import Analysis, Section, Series
from vq.analysis.plots.codes import block_entropy, use_by_rank
from vq.analysis.plots.figure import Figure, numbers
from vq.analysis.plots.other import curve, heat
from vq.analysis.plots.rate import compared, plane
from vq.analysis.plots.stages import by_stage
from vq.analysis.plots.tables import code_maps, lengths
from vq.analysis.plots.weights import bits, by_layer

MOST_PLAIN = 48  # plots of a kind of section that are not made for its data
MOST_PARTS = 6  # parts of a subject with a plot of their own
Pairs = Sequence[tuple[Section, Series]]


@dataclass(frozen=True)
class _Rule:
    """How the series of a name are drawn.

    Attributes:
        section: key of the section.
        series: how the names of the series begin.
        draw: makes figures from all of them in the subject, in order.
    """

    section: str
    series: str
    draw: Callable[[Pairs], list[Figure]]


_RULES = (
    _Rule("usage", "by_rank", use_by_rank),
    _Rule("geometry", "code_map", lambda pairs: code_maps(pairs[:MOST_PARTS])),
    _Rule("geometry", "norms", lambda pairs: lengths(pairs[:MOST_PARTS])),
    _Rule("rate", "rd", plane),
    _Rule("stages", "by_stage", by_stage),
    _Rule("sequence", "block_entropy", block_entropy),
    _Rule("compare", "rd_", compared),
    _Rule("weights", "by_layer", by_layer),
    _Rule("weights", "bits", bits),
)


def figures(analysis: Analysis, key: str) -> list[Figure]:
    """All plots of the sections of a kind, in the order in which they are read."""
    sections = analysis.of(key)
    left = [(section, series) for section in sections for series in section.series]
    found: list[Figure] = []
    for rule in (r for r in _RULES if r.section == key):
        own = [p for p in left if p[1].key.startswith(rule.series) and numbers(p[1])]
        if own:
            found += rule.draw(own)
            left = [p for p in left if not p[1].key.startswith(rule.series)]
    for section, series in left[:MOST_PLAIN]:
        found += curve(section, series)
    found += [f for s in sections[:MOST_PARTS] for m in s.matrices for f in heat(s, m)]
    return found
