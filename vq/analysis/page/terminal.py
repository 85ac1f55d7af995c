"""The terminal's page: the verdict and the numbers that matter, in at most 25 lines."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from vq.analysis.model import Analysis, Finding, Measurement, Section

LINES, WIDTH = 25, 110
_VERDICTS = {
    "bad": "something is wrong",
    "warn": "has weak points",
    "good": "looks healthy",
}
_MARKS = {"bad": "BAD ", "warn": "WARN", "good": "good", "note": "note"}
_COLUMNS = {
    "usage": (
        "tokens",
        "tokens_per_entry",
        "used",
        "ceiling",
        "dead",
        "perplexity_cs",
        "entropy_cs",
        "gini",
        "zipf",
    ),
    "sequence": (
        "pairs",
        "conditional_entropy_cs",
        "repeats",
        "neighbour_information",
        "compressed_bits",
    ),
    "geometry": (
        "entries",
        "dim",
        "effective_rank",
        "intrinsic_dim",
        "near_duplicates",
        "neighbour_ratio",
        "second_moment",
    ),
    "rate": ("rate", "snr", "gap", "gap_entropy", "gap_gaussian", "margin"),
    "stages": ("stages", "mutual_information", "largest_information", "redundancy", "db_per_bit"),
    "training": ("steps", "utilization", "training_perplexity", "training_rank", "drift", "churn"),
    "labels": ("labelled", "purity", "pnmi", "modularity", "compactness", "explicitness"),
    "compare": ("matched_cosine", "cka", "agreement", "same_codes", "use_divergence", "snr_change"),
    "weights": (
        "layers",
        "bits_per_weight",
        "proxy_error",
        "layer_error",
        "kurtosis_before",
        "kurtosis_after",
    ),
}
_SHARES = {
    "used",
    "ceiling",
    "dead",
    "unseen",
    "repeats",
    "near_duplicates",
    "utilization",
    "churn",
    "purity",
    "pnmi",
    "same_codes",
}


def summary(analysis: Analysis) -> str:
    """At most ``LINES`` lines: the head, findings with reasons and what to do, then numbers."""
    head = [f"{analysis.name} ({analysis.kind}): {_VERDICTS[analysis.verdict]}"]
    facts = _facts(analysis.facts)
    if facts:
        head.append(_cut(f"  {facts}"))
    numbers = _numbers(analysis.sections)
    findings = _findings(analysis.findings, LINES - len(head) - min(len(numbers), 9))
    room = LINES - len(head) - len(findings)
    if len(numbers) > room:
        numbers = [
            *numbers[: room - 1],
            f"  and {len(numbers) - room + 1} more lines: --json has every number",
        ]
    return "\n".join([*head, *findings, *numbers][:LINES])


def _facts(facts: Mapping[str, Any]) -> str:
    """Those that say what it is."""
    words = []
    for key in (
        "spec",
        "quantizer",
        "codebook",
        "model_type",
        "storage",
        "items",
        "rotation",
        "rounding",
        "file_bytes",
    ):
        value = facts.get(key)
        if value not in (None, "", [], {}):
            words.append(
                f"{key.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{key} {value}"
            )
    return ", ".join(words)


def _findings(findings: Sequence[Finding], room: int) -> list[str]:
    """Each in one to four lines; the gravest get their room first."""
    lines: list[str] = []
    for number, finding in enumerate(findings):
        block = _block(finding)
        left = room - len(lines)
        more = len(findings) - number
        if len(block) > left - (1 if more > 1 else 0):
            block = block[:1] if left > 1 or more == 1 else []
        if not block or left <= 0:
            lines.append(f"  and {more} more findings: --json has them")
            break
        lines += block
    return lines[:room]


def _block(finding: Finding) -> list[str]:
    lines = _wrap(finding.text, f"{_MARKS[finding.severity]}  ")
    if finding.reason:
        lines += _wrap(finding.reason, "      why: ")
    if finding.action:
        lines += _wrap(finding.action, "      do:  ")
    return lines


def _wrap(text: str, lead: str) -> list[str]:
    found = textwrap.wrap(text, WIDTH - len(lead)) or [""]
    if len(found) > 2:
        found = [found[0], _cut(f"{found[1]} ...", WIDTH - len(lead))]
    return [lead + found[0], *(" " * len(lead) + line for line in found[1:])]


def _cut(text: str, width: int = WIDTH) -> str:
    return text if len(text) <= width else text[: width - 3].rstrip() + "..."


def _numbers(sections: Sequence[Section]) -> list[str]:
    """A small table for each kind of section: a line for each part."""
    lines: list[str] = []
    for key, columns in _COLUMNS.items():
        own = [section for section in sections if section.key == key]
        kept = [c for c in columns if any(_has(section, c) for section in own)]
        if own and kept:
            lines += _table(key, own, kept)
    return lines


def _has(section: Section, column: str) -> bool:
    found = section.get(column)
    return found is not None and found.value is not None


def _table(key: str, sections: Sequence[Section], columns: Sequence[str]) -> list[str]:
    rows = [[key, *(column.removesuffix("_cs") for column in columns)]]
    for section in sections:
        rows.append([section.part or "all", *(_value(section.get(c)) for c in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append(_cut("  ".join(cells).rstrip()))
    return lines


def _value(m: Measurement | None) -> str:
    if m is None or m.value is None:
        return "-"
    if isinstance(m.value, str):
        return m.value
    if m.key in _SHARES:
        return f"{m.value:.1%}"
    if isinstance(m.value, int):
        return f"{m.value:,}"
    return f"{m.value:.4g}"
