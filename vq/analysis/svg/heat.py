"""Heat maps: a rectangle for each value, light for low and dark for high."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vq.analysis.svg.tags import INK, SOFT, clean, drawing, ramp, short, tag, text_on

WIDE = 1140.0
_HIGHEST = 860.0  # pixels, of the cells
MOST = 256  # rows and columns
_TIPS = 1200  # cells up to which each has a tip
_LETTER = 6.6
_STEPS = 48  # colours
Values = Sequence[Sequence[float | None]]


class HeatMap:
    """Values in rows and columns.

    Args:
        title: for people.
        rows: names; more than ``MOST`` are cut.
        columns: names; more than ``MOST`` are cut.
        values: a row each; None stays empty.
        unit: of the values.
        width: pixels of the whole.
    """

    def __init__(
        self,
        title: str,
        rows: Sequence[str],
        columns: Sequence[str],
        values: Values,
        unit: str = "",
        width: float = WIDE,
    ) -> None:
        self.title, self.unit, self.width = title, unit, width
        self.rows, self.columns = rows[:MOST], columns[:MOST]
        self.values = [row[:MOST] for row in values[:MOST]]
        known = [v for row in self.values for v in row if v is not None and math.isfinite(v)]
        self.low, self.high = (min(known), max(known)) if known else (0.0, 1.0)
        self.log = self.low > 0 and self.high / self.low > 30
        names = max((min(len(r), 30) for r in self.rows), default=0)
        self.left = 16 + names * _LETTER
        across = max(len(self.columns), 1)
        self.cell = min((width - self.left - 10) / across, 64.0)
        self.tall = max(min(_HIGHEST / max(len(self.rows), 1), 26.0), 4.0)
        self.top = 58.0

    def part(self, value: float) -> float:
        """Place of a value between the lowest (0) and the highest (1)."""
        if self.high <= self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def svg(self, words: str) -> str:
        """The picture, described in words."""
        many = len(self.rows) * len(self.columns) > _TIPS
        cells = self._paths() if many else self._cells()
        height = self.top + self.tall * len(self.rows) + 8
        content = [*self._legend(), *self._names(), *cells]
        return drawing(self.width, height, self.title, words, content)

    def _place(self, i: int, j: int) -> tuple[float, float]:
        return self.left + j * self.cell, self.top + i * self.tall

    def _cells(self) -> list[str]:
        parts = []
        written = self.cell >= 34 and self.tall >= 13
        for i, row in enumerate(self.values):
            for j, value in enumerate(row):
                if value is None or not math.isfinite(value):
                    continue
                (x, y), part = self._place(i, j), self.part(value)
                tip = clean(f"{self.rows[i]}, {self.columns[j]}: {short(value)} {self.unit}")
                size = {"width": self.cell - 0.6, "height": self.tall - 0.6}
                parts.append(tag("rect", tag("title", tip), x=x, y=y, fill=ramp(part), **size))
                if written:
                    at = {"x": x + self.cell / 2, "y": y + self.tall / 2 + 3.5}
                    look = {"text_anchor": "middle", "font_size": "10", "fill": text_on(part)}
                    parts.append(tag("text", clean(_brief(value)), **at, **look))
        return parts

    def _paths(self) -> list[str]:
        """All cells of a colour as one path: small where there are many."""
        by_colour: dict[int, list[str]] = {}
        for i, row in enumerate(self.values):
            for j, value in enumerate(row):
                if value is not None and math.isfinite(value):
                    x, y = self._place(i, j)
                    step = round(self.part(value) * _STEPS)
                    box = f"M{x:.1f} {y:.1f}h{self.cell:.1f}v{self.tall:.1f}h{-self.cell:.1f}z"
                    by_colour.setdefault(step, []).append(box)
        return [
            tag("path", d="".join(boxes), fill=ramp(step / _STEPS))
            for step, boxes in sorted(by_colour.items())
        ]

    def _names(self) -> list[str]:
        parts = []
        every = max(math.ceil(11 / self.tall), 1)
        for i, name in enumerate(self.rows):
            if i % every == 0:
                y = self.top + (i + 0.5) * self.tall + 4
                parts.append(_text(self.left - 6, y, name[-30:], "end"))
        longest = max((len(c) for c in self.columns), default=1)
        every = max(math.ceil(min(longest, 12) * _LETTER / self.cell), 1)
        for j, name in enumerate(self.columns):
            if j % every == 0:
                x = self.left + (j + 0.5) * self.cell
                parts.append(_text(x, self.top - 6, name[:12], "middle"))
        return parts

    def _legend(self) -> list[str]:
        wide, steps = 180.0, 30
        parts = [
            tag("rect", x=self.left + k * wide / steps, y=10, width=wide / steps + 0.5, height=12,
                fill=ramp((k + 0.5) / steps))
            for k in range(steps)
        ]  # fmt: skip
        end = self.left + wide
        scale = f"{self.unit}{', logarithmic' if self.log else ''}".strip(", ")
        words = f"{short(self.high)} (highest) {scale}".strip()
        parts.append(_text(self.left - 6, 20, f"{short(self.low)}", "end"))
        parts.append(_text(end + 6, 20, words, "start"))
        return parts


def _brief(value: float) -> str:
    return f"{value:.2g}" if abs(value) < 100 else short(value)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    look = {"fill": INK if text else SOFT, "text_anchor": anchor, "font_size": "11"}
    return tag("text", clean(text), x=x, y=y, **look)
