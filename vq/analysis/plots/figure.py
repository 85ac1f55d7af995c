"""A plot with its words, and what plots share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vq.analysis.model import Cell, Section, Series


@dataclass(frozen=True)
class Figure:
    """A plot of the page.

    Attributes:
        svg: the picture, with title and description.
        caption: how to read it, a sentence or two.
        wide: whether it takes the whole width.
        table: names of columns and rows of cells, for those who want the numbers; empty for none.
    """

    svg: str
    caption: str
    wide: bool = False
    table: tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]] = ((), ())


def real(value: Cell) -> float | None:
    """The value where it is a finite number."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def column(series: Series, name: str) -> list[float | None]:
    """Numbers of a column; empty where there is none of the name."""
    return [real(value) for value in series.columns.get(name, ())]


def known(values: Sequence[float | None]) -> list[float]:
    """Those that are there."""
    return [value for value in values if value is not None]


def numbers(series: Series) -> bool:
    """Whether there is at least one number to draw besides the first column."""
    columns = list(series.columns.values())
    return any(real(value) is not None for c in columns[1:] for value in c)


def titled(text: str, section: Section) -> str:
    """Title with the part of the subject."""
    return f"{text}, {section.part}" if section.part else text


def table_of(series: Series) -> tuple[tuple[str, ...], tuple[tuple[Cell, ...], ...]]:
    """The columns of a series as a table."""
    return tuple(series.columns), tuple(zip(*series.columns.values(), strict=True))
