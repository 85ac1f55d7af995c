"""SVG as text: tags, numbers, colours. What is drawn is inline in the page: no library, no script, no address."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable

# Colours that people with any colour vision, and a grey printer, can tell apart (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#7a4a9e", "#b07c00", "#56b4e9", "#8c2d4f", "#555555")
INK, SOFT, GRID, WARN = "#1b1f24", "#57606a", "#d8dee4", "#b3261e"
_RAMP = ("#e3eef9", "#a6cbe6", "#5a9fd0", "#1f69ad", "#08306b")
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: object) -> str:
    """Text for the inside of a tag or an attribute: escaped, without characters that XML does not have."""
    return html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)), quote=True)


def tag(name: str, content: str | Iterable[str] = "", **attributes: object) -> str:
    """An element.

    Args:
        name: of the tag.
        content: markup inside, made by ``tag`` or ``clean``.
        attributes: underscores stand for hyphens, one at the end is dropped (``class_``); None leaves one out.
    """
    inside = content if isinstance(content, str) else "".join(content)
    parts = [
        f' {key.rstrip("_").replace("_", "-")}="{clean(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return f"<{name}{''.join(parts)}>{inside}</{name}>"


def _plain(value: object) -> object:
    """Coordinates to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def number(value: float | int | None) -> str:
    """A number for people: four digits, thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, int) or (abs(value) >= 1000 and abs(value) < 1e15):
        return f"{value:,.0f}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}"


def short(value: float) -> str:
    """A number for an axis or a cell: three digits, k and M for thousands and millions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.3g}"


def ramp(part: float) -> str:
    """Colour between light (0) and dark (1)."""
    place = min(max(part, 0.0), 1.0) * (len(_RAMP) - 1)
    i = min(int(place), len(_RAMP) - 2)
    low, high = (bytes.fromhex(_RAMP[j][1:]) for j in (i, i + 1))
    mixed = (round(a + (b - a) * (place - i)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{c:02x}" for c in mixed)


def text_on(part: float) -> str:
    """Colour of text that can be read on ``ramp(part)``."""
    return INK if part < 0.5 else "#ffffff"


def colour(i: int, of: int) -> str:
    """Of the i-th thing: different hues for few, light to dark in order for many."""
    if of <= len(COLOURS):
        return COLOURS[i]
    return ramp(0.3 + 0.7 * i / max(of - 1, 1))


def drawing(width: float, height: float, title: str, words: str, content: Iterable[str]) -> str:
    """A whole picture, with its title and its description in words for those who do not see it."""
    head = tag("title", clean(title)) + tag("desc", clean(words))
    return tag(
        "svg",
        head + "".join(content),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=f"{title}. {words}",
        font_size="12",
    )
