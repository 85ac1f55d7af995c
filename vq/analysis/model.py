"""What an analysis consists of: measurements with definition, N and interval, findings in words, data of plots.

Everything here is plain values: ``Analysis.to_dict`` is what ``vq analyze --json`` writes, the page is drawn from it,
and ``from_dict`` reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from vq.errors import VqError

FORMAT, VERSION = "vq-analysis", 1
Severity = Literal["bad", "warn", "good", "note"]
SEVERITIES: tuple[Severity, ...] = ("bad", "warn", "good", "note")
Cell = float | int | str | None


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        key: short name, the one of ``--fail-if``: ``dead``, ``perplexity``; unique in its section.
        value: the number (or a word); None where it cannot be had, ``note`` then says why.
        unit: "" for shares and counts without one; "bits", "dB", "entries", "tokens", ...
        label: a few words for people; the key where empty.
        definition: how it is computed, with the formula and its reference where it has one.
        n: from how many tokens, vectors, pairs or weights; None where nothing was sampled.
        low: lower end of the 95 % interval; None where there is none.
        high: upper end.
        note: what a reader must know to use the number.
        interval: how the interval is made; "none: ..." says why there is none.
    """

    key: str
    value: float | int | str | None
    unit: str = ""
    label: str = ""
    definition: str = ""
    n: int | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Series:
    """Data of one plot: columns of equal length.

    Attributes:
        key: short name; unique in its section.
        title: for people.
        columns: by name, in order; the first is what the others are drawn over.
        definition: what the columns hold, with units.
    """

    key: str
    title: str
    columns: Mapping[str, tuple[Cell, ...]]
    definition: str = ""


@dataclass(frozen=True)
class Matrix:
    """Data of one heat map.

    Attributes:
        key: short name; unique in its section.
        title: for people.
        rows: names of the rows.
        columns: names of the columns.
        values: one tuple a row; None where there is nothing.
        unit: of the values.
        definition: what a value is.
    """

    key: str
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    unit: str = ""
    definition: str = ""


@dataclass(frozen=True)
class Section:
    """Measurements of one kind on one part of the subject.

    Attributes:
        key: ``usage``, ``geometry``, ``rate``, ``stages``, ``sequence``, ``training``, ``labels``, ``compare`` or
            ``weights``.
        title: for people.
        part: of the subject: "" for all of it, "stage 0", "group 1", a layer's name.
        measurements: the numbers.
        series: data of curves.
        matrices: data of heat maps.
        notes: sentences: what was sampled, what was left out and why.
    """

    key: str
    title: str
    part: str = ""
    measurements: tuple[Measurement, ...] = ()
    series: tuple[Series, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    notes: tuple[str, ...] = ()

    def get(self, key: str) -> Measurement | None:
        """The measurement of a name, or None."""
        return next((m for m in self.measurements if m.key == key), None)

    def number(self, key: str) -> float | None:
        """Value of a measurement where it is a finite number, else None."""
        found = self.get(key)
        value = None if found is None else found.value
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


@dataclass(frozen=True)
class Finding:
    """A sentence of the verdict.

    Attributes:
        severity: "bad" (act), "warn" (look), "good" (healthy), "note" (to know).
        text: what is the case, in plain words.
        reason: the numbers it rests on.
        action: what to do; empty where nothing is to be done.
        section: key of the section it rests on.
        part: as in the section.
    """

    severity: Severity
    text: str
    reason: str = ""
    action: str = ""
    section: str = ""
    part: str = ""


@dataclass(frozen=True)
class Analysis:
    """Everything that ``vq analyze`` found.

    Attributes:
        kind: of the subject; see ``vq.analysis.subject.Subject``.
        name: of the subject.
        facts: of the subject, plain values: spec, entries, dim, bits, file sizes, ...
        sections: measurements.
        findings: the verdict, the gravest first.
        settings: seed, sample sizes, versions.
    """

    kind: str
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    findings: tuple[Finding, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The gravest finding, ``bad``, ``warn`` or ``good``; ``good`` where there is none."""
        found = {finding.severity for finding in self.findings}
        return next((s for s in ("bad", "warn") if s in found), "good")

    def of(self, key: str) -> tuple[Section, ...]:
        """Sections of a kind, one for each part."""
        return tuple(section for section in self.sections if section.key == key)

    def measurements(self) -> Iterator[tuple[Section, Measurement]]:
        """All of them, each with its section."""
        for section in self.sections:
            for measurement in section.measurements:
                yield section, measurement

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become null."""
        head = {"format": FORMAT, "version": VERSION, "verdict": self.verdict}
        return _plain({**head, **asdict(self)})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Analysis:
        """Inverse of ``to_dict``.

        Raises:
            VqError: for anything that ``to_dict`` did not write, or a later version of it.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise VqError(f"expected a {FORMAT}, as vq analyze --json writes it")
        if values.get("version") != VERSION:
            raise VqError(
                f"{FORMAT} of version {values.get('version')!r}, this library reads {VERSION}; "
                "upgrade vq-toolkit or analyze anew"
            )
        try:
            return cls(
                kind=values["kind"],
                name=values["name"],
                facts=values["facts"],
                sections=tuple(_section(section) for section in values["sections"]),
                findings=tuple(Finding(**finding) for finding in values["findings"]),
                settings=values["settings"],
            )
        except (KeyError, TypeError) as error:
            raise VqError(f"{FORMAT}: damaged ({error}); analyze anew") from error


def _section(values: Mapping[str, Any]) -> Section:
    kept = {f.name: values[f.name] for f in fields(Section) if f.name in values}
    kept["measurements"] = tuple(Measurement(**m) for m in values["measurements"])
    kept["series"] = tuple(
        Series(**{**s, "columns": _tuples(s["columns"])}) for s in values["series"]
    )
    kept["matrices"] = tuple(
        Matrix(**{**m, **{k: _tuple(m[k]) for k in ("rows", "columns", "values")}})
        for m in values["matrices"]
    )
    kept["notes"] = tuple(values["notes"])
    return Section(**kept)


def _tuples(columns: Mapping[str, Iterable[Cell]]) -> dict[str, tuple[Cell, ...]]:
    return {name: tuple(values) for name, values in columns.items()}


def _tuple(values: Any) -> Any:
    return tuple(_tuple(v) for v in values) if isinstance(values, (list, tuple)) else values


def _plain(value: Any) -> Any:
    """Values that JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None
