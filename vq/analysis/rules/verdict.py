"""What the numbers mean: findings in plain words, with reasons and what to do, the gravest first.

A rule looks at the sections of one kind and gives findings. What several parts share becomes one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vq.analysis.model import SEVERITIES, Finding, Section
from vq.analysis.rules import codes, other, tables
from vq.analysis.subject import Subject

Rule = Callable[[Subject, Sequence[Section]], Iterator[Finding]]

RULES: dict[str, Rule] = {
    "usage": codes.usage,
    "geometry": tables.geometry,
    "rate": tables.rate,
    "stages": tables.stages,
    "weights": other.weights,
    "training": other.training,
    "labels": codes.labels,
    "sequence": codes.sequence,
    "compare": other.compare,
}


def judge(subject: Subject, sections: Sequence[Section]) -> tuple[Finding, ...]:
    """All findings, the gravest first; one that says so where nothing is wrong."""
    found: list[Finding] = []
    for key, rule in RULES.items():
        own = [section for section in sections if section.key == key]
        if own:
            found += rule(subject, own)
    if not any(f.severity in ("bad", "warn") for f in found) and not any(
        f.severity == "good" for f in found
    ):
        found.append(Finding("good", "Nothing that was measured looks wrong."))
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
