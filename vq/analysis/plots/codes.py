"""Plots of use and order of codes."""

from __future__ import annotations

from collections.abc import Sequence

from vq.analysis.model import Section, Series
from vq.analysis.plots.figure import Figure, column, known
from vq.analysis.svg.axis import span
from vq.analysis.svg.chart import Chart
from vq.analysis.svg.tags import SOFT, WARN, colour, number

Pairs = Sequence[tuple[Section, Series]]
_NAMED = 8  # lines that the legend names


def use_by_rank(pairs: Pairs) -> list[Figure]:
    """Share of the tokens by rank of the entry, both logarithmic, with the line of even use."""
    ranks = [column(s, "rank") for _, s in pairs]
    shares = [column(s, "share") for _, s in pairs]
    evens = sorted({v for _, s in pairs for v in known(column(s, "even"))})
    seen = [v for share in shares for v in known(share)]
    x = span([v for r in ranks for v in r], log=True)
    y = span([*seen, *evens], log=True)
    chart = Chart("Use by rank", x, y, ("rank of the entry", "share of the tokens"), (True, True))
    for i, (section, _) in enumerate(pairs):
        name = section.part or "this codebook"
        named = name if i < _NAMED or i == len(pairs) - 1 else ""
        chart.line(ranks[i], shares[i], colour(i, len(pairs)), named)
    for value in evens:
        chart.line(x, (value, value), SOFT, "even use" if value == evens[0] else "", "5 4")
    for (section, _), rank, share in zip(pairs[:1], ranks, shares, strict=False):
        _mark_the_last(chart, section, rank, share)
    caption = (
        "A flat line near the dashed one means that all entries share the work; a line that plunges early means that "
        "few entries do all of it. The line ends where no entry has a token."
    )
    words = "; ".join(_rank_words(*p) for p in pairs[:_NAMED])
    return [Figure(chart.svg(f"Both axes are logarithmic. {words}."), caption)]


def _mark_the_last(
    chart: Chart, section: Section, rank: list[float | None], share: list[float | None]
) -> None:
    """Where the entries without a token begin."""
    used = [(r, s) for r, s in zip(rank, share, strict=True) if r is not None and s]
    entries = section.number("entries")
    if used and entries and used[-1][0] < entries:
        last = used[-1]
        chart.points([last[0]], [last[1]], WARN, name="no token beyond", radius=4)


def _rank_words(section: Section, series: Series) -> str:
    share, even = known(column(series, "share")), known(column(series, "even"))
    first = f"the most used entry takes {share[0]:.2%} of the tokens" if share else "no tokens"
    used, entries = section.number("used"), section.number("entries")
    rest = "" if used is None or entries is None else f", {used:.1%} of {number(entries)} are used"
    level = f"; even use would give each {even[0]:.2g}" if even else ""
    return f"{section.part or 'all'}: {first}{rest}{level}"


def block_entropy(pairs: Pairs) -> list[Figure]:
    """Entropy of a code given those before it."""
    before = [column(s, "codes_before") for _, s in pairs]
    values = [column(s, "bits") for _, s in pairs]
    top = sorted({v for _, s in pairs for v in known(column(s, "log2_K"))})
    y = span([*(v for vs in values for v in vs), *top], zero=True)
    longest = int(max((v for b in before for v in known(b)), default=0))
    x, names = (-0.3, longest + 0.3), [str(i) for i in range(longest + 1)]
    labels = ("codes before", "bits a code")
    chart = Chart("Entropy given the codes before", x, y, labels, names=names)
    for i, (section, _) in enumerate(pairs):
        named = i < _NAMED or i == len(pairs) - 1
        name = (section.part or "this codebook") if named else ""
        chart.line(before[i], values[i], colour(i, len(pairs)), name)
        chart.points(before[i], values[i], colour(i, len(pairs)))
    for value in top:
        chart.line(x, (value, value), SOFT, "log2 K" if value == top[0] else "", "5 4")
    words = "; ".join(
        f"{s.part or 'all'}: "
        + ", ".join(f"{v:.2f} bits after {i}" for i, v in enumerate(known(b)))
        for (s, _), b in zip(pairs[:_NAMED], values, strict=False)
    )
    caption = (
        "How uncertain the next code is when the codes before it are known. A fall from left to right means that the "
        "order can be predicted; it also falls where the data are too short to tell."
    )
    return [Figure(chart.svg(f"{words}."), caption)]
