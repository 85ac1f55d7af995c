"""Charts with two axes: lines, points, bars, a legend above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vq.analysis.svg.axis import Scale
from vq.analysis.svg.tags import GRID, INK, SOFT, clean, drawing, short, tag

WIDTH, HEIGHT = 560.0, 320.0
_LEFT, _RIGHT, _BOTTOM, _TOP = 74.0, 16.0, 46.0, 10.0
_LETTER, _ROW = 6.6, 18.0  # width of a letter, height of a row of the legend
MARKS = ("circle", "square", "triangle", "diamond", "cross")
Numbers = Sequence[float | int | None]


class Chart:
    """One plot; what is added is drawn in that order.

    Args:
        title: for people; also read aloud.
        x: low and high end of the axis to the right.
        y: of the axis upwards.
        labels: of both axes, with units.
        log: whether each is logarithmic.
        size: width and height in pixels.
        names: in place of numbers at x = 0, 1, ...
    """

    def __init__(
        self,
        title: str,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        log: tuple[bool, bool] = (False, False),
        size: tuple[float, float] = (WIDTH, HEIGHT),
        names: Sequence[str] = (),
    ) -> None:
        self.title, self.labels, self.names = title, labels, names
        self.width, self.height = size
        self.x = Scale(*x, _LEFT, self.width - _RIGHT, log[0])
        self.y = Scale(*y, self.height - _BOTTOM, _TOP, log[1])
        self._content: list[str] = []
        self._legend: list[tuple[str, str]] = []

    def line(
        self, xs: Numbers, ys: Numbers, colour: str, name: str = "", dash: str | None = None
    ) -> None:
        """A line through points; it breaks where there is no value or it leaves the plot."""
        pieces: list[list[str]] = [[]]
        for a, b in zip(xs, ys, strict=True):
            if self._shown(a, b):
                assert a is not None and b is not None
                pieces[-1].append(f"{self.x(a):.1f},{self.y(b):.1f}")
            elif pieces[-1]:
                pieces.append([])
        look: dict[str, Any] = {"fill": "none", "stroke": colour, "stroke_width": "1.8"}
        look["stroke_dasharray"] = dash
        for piece in pieces:
            if len(piece) > 1:
                self._content.append(tag("polyline", points=" ".join(piece), **look))
            elif piece:
                left, _, top = piece[0].partition(",")
                self._content.append(mark("circle", float(left), float(top), 2.5, colour))
        swatch = tag("line", x1=0, y1=-4, x2=18, y2=-4, **look)
        self._named(name, swatch)

    def points(
        self,
        xs: Numbers,
        ys: Numbers,
        colour: str | Sequence[str],
        *,
        name: str = "",
        shape: str = "circle",
        radius: float = 3.0,
        hollow: bool = False,
        tips: Sequence[str] = (),
    ) -> None:
        """Marks at places inside the plot; ``tips`` show under the pointer."""
        for i, (a, b) in enumerate(zip(xs, ys, strict=True)):
            if self._shown(a, b):
                assert a is not None and b is not None
                own = colour if isinstance(colour, str) else colour[i]
                tip = tips[i] if tips else ""
                place = self.x(a), self.y(b)
                self._content.append(mark(shape, *place, radius, own, hollow=hollow, tip=tip))
        one = colour if isinstance(colour, str) else (colour[-1] if colour else INK)
        self._named(name, mark(shape, 9, -4, min(radius, 4.5), one, hollow=hollow))

    def bars(
        self, xs: Numbers, ys: Numbers, colour: str, width: float, name: str = "", shift: float = 0
    ) -> None:
        """Bars from 0 (from below, on a logarithmic axis); widths and shifts in units of x."""
        floor = self.y.low if self.y.log else min(max(0.0, self.y.low), self.y.high)
        for a, b in zip(xs, ys, strict=True):
            if a is None or b is None or not math.isfinite(b):
                continue
            left, right = self.x(a + shift - width / 2), self.x(a + shift + width / 2)
            ends = sorted((self.y(floor), self.y(b)))
            tip = tag("title", clean(f"{self._at(a)}: {short(b)}"))
            self._content.append(
                tag("rect", tip, x=left, y=ends[0], width=max(right - left, 0.5),
                    height=max(ends[1] - ends[0], 0.0), fill=colour)
            )  # fmt: skip
        self._named(name, tag("rect", x=3, y=-10, width=12, height=10, fill=colour))

    def level(self, y: float, words: str) -> None:
        """A dashed line across, with words on it."""
        if self.y.holds(y):
            at, (left, right) = self.y(y), (self.x.start, self.x.end)
            look = {"stroke": SOFT, "stroke_dasharray": "5 4"}
            self._content.append(tag("line", x1=left, y1=at, x2=right, y2=at, **look))
            self.words(right - 4, at - 4, words)

    def words(self, x: float, y: float, text: str, anchor: str = "end", bold: bool = False) -> None:
        """Text at a pixel."""
        weight = "bold" if bold else None
        self._content.append(
            tag("text", clean(text), x=x, y=y, text_anchor=anchor, fill=INK, font_weight=weight)
        )

    def svg(self, words: str) -> str:
        """The picture, described in words."""
        rows = _rows(self._legend, self.width - 2 * _RIGHT)
        shift = _ROW * len(rows)
        legend = [
            tag("g", swatch + tag("text", clean(name), x=24, y=0, fill=INK),
                transform=f"translate({at:.0f} {_ROW * (i + 1) - 4:.0f})")
            for i, row in enumerate(rows) for at, name, swatch in row
        ]  # fmt: skip
        plot = tag("g", [*self._axes(), *self._content], transform=f"translate(0 {shift:.0f})")
        return drawing(self.width, self.height + shift, self.title, words, [*legend, plot])

    def _shown(self, a: float | None, b: float | None) -> bool:
        return a is not None and b is not None and self.x.holds(a) and self.y.holds(b)

    def _named(self, name: str, swatch: str) -> None:
        if name:
            self._legend.append((name, swatch))

    def _at(self, x: float) -> str:
        return self.names[int(x)] if self.names and 0 <= x < len(self.names) else short(x)

    def _axes(self) -> list[str]:
        left, right, bottom = self.x.start, self.x.end, self.y.start
        parts = []
        for value in self.y.ticks(6):
            at = self.y(value)
            parts.append(tag("line", x1=left, y1=at, x2=right, y2=at, stroke=GRID))
            parts.append(_label(left - 7, at + 4, short(value), "end"))
        for value, words in self._x_ticks():
            at = self.x(value)
            parts.append(tag("line", x1=at, y1=bottom, x2=at, y2=bottom + 4, stroke=SOFT))
            parts.append(_label(at, bottom + 17, words, "middle"))
        parts.append(tag("line", x1=left, y1=bottom, x2=right, y2=bottom, stroke=SOFT))
        parts.append(_label((left + right) / 2, bottom + 37, self.labels[0], "middle"))
        middle = (bottom + self.y.end) / 2
        turned = f"translate(14 {middle:.1f}) rotate(-90)"
        label = {"text_anchor": "middle", "fill": INK, "transform": turned}
        parts.append(tag("text", clean(self.labels[1]), **label))
        return parts

    def _x_ticks(self) -> list[tuple[float, str]]:
        if not self.names:
            return [(value, short(value)) for value in self.x.ticks(8)]
        longest = max(len(name) for name in self.names)
        room = (self.x.end - self.x.start) / len(self.names)
        every = max(math.ceil(min(longest, 18) * _LETTER / room), 1)
        return [(i, _cut(n, 18)) for i, n in enumerate(self.names) if i % every == 0]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return tag("text", clean(text), x=x, y=y, text_anchor=anchor, fill=INK)


def _rows(
    legend: Sequence[tuple[str, str]], width: float
) -> list[list[tuple[float, str, str]]]:  # place, name, swatch
    rows: list[list[tuple[float, str, str]]] = []
    at = width
    for long, swatch in legend:
        name = _cut(long, 60)
        wide = 40 + len(name) * _LETTER
        if at + wide > width:
            rows.append([])
            at = _RIGHT
        rows[-1].append((at, name, swatch))
        at += wide
    return rows


def mark(
    shape: str, x: float, y: float, r: float, colour: str, *, hollow: bool = False, tip: str = ""
) -> str:
    """A mark of a shape of ``MARKS`` centred at a pixel."""
    inside = tag("title", clean(tip)) if tip else ""
    look: dict[str, Any] = {
        "fill": "none" if hollow else colour,
        "stroke": colour if hollow else None,
    }
    if shape == "circle":
        return tag("circle", inside, cx=x, cy=y, r=r, **look)
    a, b = x, y
    paths = {
        "square": f"M{a - r:.1f} {b - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z",
        "triangle": f"M{a:.1f} {b - 1.2 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z",
        "diamond": f"M{a:.1f} {b - 1.4 * r:.1f}l{1.4 * r:.1f} {1.4 * r:.1f}l{-1.4 * r:.1f} {1.4 * r:.1f}"
        f"l{-1.4 * r:.1f} {-1.4 * r:.1f}z",
        "cross": f"M{a - r:.1f} {b - r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}",
    }
    if shape == "cross":
        look = {"fill": "none", "stroke": colour, "stroke_width": "1.8"}
    return tag("path", inside, d=paths[shape], **look)
