"""Words that the rules of the verdict share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vq.analysis.model import Section

REVIVE = (
    "train with revival of unused entries, start the table by k-means on features of a warmed-up encoder, look up in "
    "few dimensions (8 to 16); or take a smaller codebook"
)


def natural(name: str) -> list[tuple[int, str]]:
    """Key that sorts names as people count: ``layers.2`` before ``layers.10``."""
    pieces = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in pieces]


def shortened(names: Sequence[str]) -> list[str]:
    """Names without the leading dotted parts that all of them share."""
    split = [name.split(".") for name in names]
    shared = 0
    while split and all(len(s) > shared + 1 and s[shared] == split[0][shared] for s in split):
        shared += 1
    return [".".join(s[shared:]) for s in split]


def parts(sections: Sequence[Section]) -> str:
    """Names of parts in a few words: "", "stage 3", "stages 0 to 4", "3 parts (a, b, c)"."""
    names = [section.part for section in sections if section.part]
    if len(names) < 2:
        return names[0] if names else ""
    words, numbers = zip(
        *((n.rpartition(" ")[0], n.rpartition(" ")[2]) for n in names), strict=True
    )
    if len(set(words)) == 1 and words[0] and all(n.isdigit() for n in numbers):
        whole = [int(n) for n in numbers]
        if whole == list(range(whole[0], whole[-1] + 1)):
            return f"{words[0]}s {whole[0]} to {whole[-1]}"
        return f"{words[0]}s {', '.join(numbers)}"
    return f"{len(names)} parts ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def of(sections: Sequence[Section]) -> str:
    """The words " of stages 0 to 4"; empty for the whole subject."""
    named = parts(sections)
    return f" of {named}" if named else ""


def span(sections: Sequence[Section], key: str, form: str) -> str:
    """Values of a measurement over sections: one, or from the least to the most."""
    values = [v for s in sections if (v := s.number(key)) is not None]
    if not values:
        return "?"
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
