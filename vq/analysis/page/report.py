"""The report: one page that holds all it needs, verdict first, then plots, then every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vq._files import atomic_file
from vq.analysis.model import Analysis, Finding, Section
from vq.analysis.page.atlas import Atlas, atlas_section
from vq.analysis.page.images import BUDGET, Picture, pictures
from vq.analysis.page.style import STYLE
from vq.analysis.page.tables import measurements, plot_numbers
from vq.analysis.plots.choice import MOST_PARTS, figures
from vq.analysis.plots.figure import Figure
from vq.analysis.svg.tags import clean, tag
from vq.errors import VqError

LIMIT = 2_000_000  # bytes of a page
_SHARES = (64, 16, 4, 1)  # parts shown of each measurement: the most that keep to the limit
_VERDICTS = {
    "bad": "Something is wrong",
    "warn": "It has weak points",
    "good": "It looks healthy",
}
_KINDS = {
    "codebook": "a codebook",
    "tokenizer": "a tokenizer",
    "run": "a training run",
    "tokens": "tokens",
    "model": "a compressed model",
    "foreign": "a file of another library",
    "vectors": "vectors",
}
# Nothing is loaded from anywhere, whatever a name in the data says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_ROOM = 200_000  # bytes for captions and headings of plots
_LONGEST = 300  # letters of a fact
_Drawn = Mapping[str, Sequence[Figure]]


def write_page(
    analysis: Analysis, path: Path, folder: Path | None = None, atlas: Atlas | None = None
) -> int:
    """Write the report; the file is complete or absent.

    Args:
        analysis: what was found.
        path: of the page.
        folder: of the subject, for the pictures that a training run has left there; None for none.
        atlas: what the most used codes of a tokenizer stand for; None for none.

    Returns:
        Bytes of the page.

    Raises:
        VqError: if the file cannot be written.
    """
    shown = [] if folder is None else pictures(folder, BUDGET)
    data = page(analysis, shown, atlas).encode("utf-8")
    try:
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise VqError(f"{path}: cannot be written ({error}); choose another file") from error
    return len(data)


def page(analysis: Analysis, shown: Sequence[Picture] = (), atlas: Atlas | None = None) -> str:
    """The report as HTML of less than ``LIMIT`` bytes.

    Args:
        analysis: what was found.
        shown: pictures, together within ``images.BUDGET``.
        atlas: what codes stand for, of which ``atlas.BUDGET`` is shown.
    """
    images = Images(shown, atlas_section(atlas))
    keys = dict.fromkeys(section.key for section in analysis.sections)
    drawn: dict[str, Sequence[Figure]] = {key: figures(analysis, key) for key in keys}
    for most in _SHARES:
        text = _page(analysis, images, drawn, most)
        if len(text.encode("utf-8")) < LIMIT:
            return text
    bare = len(_page(analysis, images, {key: () for key in drawn}, 1).encode("utf-8"))
    return _page(analysis, images, _lighter(drawn, LIMIT - bare - _ROOM), 1)


def _lighter(drawn: _Drawn, most: int) -> dict[str, Sequence[Figure]]:
    """The first plots that fit into so many bytes, without tables."""
    kept: dict[str, Sequence[Figure]] = {}
    left = most
    for key, own in drawn.items():
        chosen = []
        for figure in own:
            size = len(figure.svg.encode("utf-8"))
            if size <= left:
                left -= size
                chosen.append(Figure(figure.svg, figure.caption, figure.wide))
        kept[key] = chosen
    return kept


@dataclass(frozen=True)
class Images:
    """Pictures of the page.

    Attributes:
        shown: samples of a training run.
        atlas: what codes stand for, as HTML; empty without.
    """

    shown: Sequence[Picture]
    atlas: str


def _page(analysis: Analysis, images: Images, drawn: _Drawn, most: int) -> str:
    head = tag("title", clean(f"{analysis.name}: {_VERDICTS[analysis.verdict].lower()}"))
    head += f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<style>{STYLE}</style>"
    body = [
        tag("header", [*_verdict(analysis), _facts(analysis.facts)]),
        _contents(drawn, analysis, images),
        tag(
            "main",
            [
                _pictures(images.shown),
                images.atlas,
                *(_part(analysis, key, drawn, most) for key in drawn),
            ],
        ),
        _footer(analysis),
    ]
    start = '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    return f"{start}{head}</head>\n<body>{''.join(body)}</body></html>\n"


def _verdict(analysis: Analysis) -> list[str]:
    kind = _KINDS.get(analysis.kind, analysis.kind)
    return [
        tag("h1", f"{_VERDICTS[analysis.verdict]}: {clean(analysis.name)}"),
        tag("p", f"Analysis of {clean(kind)}", class_="sub"),
        *(_finding(finding) for finding in analysis.findings),
    ]


def _finding(finding: Finding) -> str:
    word = tag("span", finding.severity, class_="word")
    inside = tag("p", f"{word} {clean(finding.text)}", class_="what")
    if finding.reason:
        inside += tag("p", f"Why: {clean(finding.reason)}")
    if finding.action:
        inside += tag("p", f"What to do: {clean(finding.action)}")
    return tag("div", inside, class_=f"finding {finding.severity}")


def _facts(facts: Mapping[str, Any]) -> str:
    rows = []
    for key, value in facts.items():
        if value in (None, "", [], {}, ()):
            continue
        text = f"{value:,}" if isinstance(value, int) else str(value)
        cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        rows += [tag("dt", clean(str(key).replace("_", " "))), tag("dd", clean(cut))]
    return tag("dl", rows, class_="facts") if rows else ""


def _contents(drawn: _Drawn, analysis: Analysis, images: Images) -> str:
    links = [tag("a", "Before and after", href="#pictures")] if images.shown else []
    links += [tag("a", "What the codes stand for", href="#atlas")] if images.atlas else []
    links += [tag("a", clean(_title(analysis.of(key))), href=f"#{_anchor(key)}") for key in drawn]
    items = [tag("li", link) for link in links]
    return tag("nav", tag("ul", items), aria_label="Contents") if items else ""


def _anchor(key: str) -> str:
    return "section-" + "".join(c if c.isalnum() else "-" for c in key)


def _title(sections: Sequence[Section]) -> str:
    return ", ".join(dict.fromkeys(section.title for section in sections))


def _part(analysis: Analysis, key: str, drawn: _Drawn, most: int) -> str:
    sections, own = analysis.of(key), drawn[key]
    inside = tag("h2", clean(_title(sections)), id=_anchor(key))
    notes = dict.fromkeys(
        f"{s.part}: {note}" if s.part else note for s in sections for note in s.notes
    )
    notes = dict.fromkeys(list(notes)[:most])
    if len(sections) > MOST_PARTS and any("map" in f.caption.lower() for f in own):
        notes[f"plots of the first {MOST_PARTS} of {len(sections)} parts; the table has more"] = (
            None
        )
    if notes:
        inside += tag("ul", [tag("li", clean(note)) for note in notes], class_="notes")
    if own:
        inside += _plots([_figure(figure) for figure in own])
    return tag("section", inside + measurements(sections, most))


def _plots(own: Sequence[str]) -> str:
    """Beside each other; a single one has its words at its side."""
    return tag("div", own, class_="plots" if len(own) > 1 else "plots one")


def _figure(figure: Figure) -> str:
    caption = tag("figcaption", clean(figure.caption)) if figure.caption else ""
    beside = tag("div", caption + plot_numbers(figure))
    inside = _heading(figure) + figure.svg + beside
    return tag("figure", inside, class_="wide" if figure.wide else None)


def _heading(figure: Figure) -> str:
    """The title of the picture, which is escaped already."""
    start = figure.svg.index("<title>") + len("<title>")
    return tag("h3", figure.svg[start : figure.svg.index("</title>", start)])


def _pictures(shown: Sequence[Picture]) -> str:
    if not shown:
        return ""
    parts = []
    for picture in shown:
        width, height = picture.size
        # the address is made here of base64, so nothing of it needs escaping
        image = f'<img src="{picture.data}" alt="{clean(picture.words)}" width="{width}" height="{height}">'
        parts.append(tag("figure", image + tag("figcaption", clean(picture.words))))
    head = tag("h2", "Before and after", id="pictures")
    return tag("section", head + tag("div", parts, class_="plots"))


def _footer(analysis: Analysis) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in analysis.settings.items())
    words = f"Written by vq analyze ({settings}). " if settings else "Written by vq analyze. "
    words += "This page holds all it shows: nothing is loaded from anywhere."
    return tag("footer", clean(words))
