"""The data model survives JSON, and refuses what it did not write."""

from __future__ import annotations

import json
import math

import pytest

from vq.analysis.model import Analysis, Finding, Matrix, Measurement, Section, Series
from vq.errors import VqError


def example() -> Analysis:
    section = Section(
        key="usage",
        title="Use",
        part="stage 1",
        measurements=(
            Measurement("dead", 0.25, definition="d", n=100, low=0.2, high=0.3),
            Measurement("note", None, note="no data"),
        ),
        series=(Series("rank", "Use by rank", {"rank": (1, 2), "count": (5.0, 3.0)}),),
        matrices=(Matrix("mi", "MI", ("a",), ("a", "b"), ((0.5, None),), "bits"),),
        notes=("sampled",),
    )
    findings = (Finding("good", "fine"), Finding("warn", "look", "because", "do", "usage"))
    return Analysis("tokens", "x", {"k": [1, 2]}, (section,), findings, {"seed": 0})


def test_json_round_trip():
    analysis = example()
    assert Analysis.from_dict(json.loads(json.dumps(analysis.to_dict()))) == analysis


def test_numbers_that_are_not_finite_become_null():
    section = Section("usage", "Use", measurements=(Measurement("a", math.inf, low=math.nan),))
    text = json.dumps(Analysis("tokens", "x", sections=(section,)).to_dict(), allow_nan=False)
    (read,) = Analysis.from_dict(json.loads(text)).sections[0].measurements
    assert read.value is None and read.low is None


def test_verdict_is_the_gravest_finding():
    assert example().verdict == "warn"
    assert Analysis("tokens", "x").verdict == "good"
    assert (
        Analysis("tokens", "x", findings=(Finding("note", "n"), Finding("bad", "b"))).verdict
        == "bad"
    )


def test_lookups():
    analysis = example()
    (section,) = analysis.of("usage")
    assert section.number("dead") == 0.25 and section.number("note") is None
    assert section.number("nothing") is None and analysis.of("geometry") == ()
    assert [m.key for _, m in analysis.measurements()] == ["dead", "note"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "other"}, "expected a vq-analysis"),
        ({"version": 2}, "upgrade"),
        ({"sections": [{"key": "usage"}]}, "damaged"),
        ({"findings": [{"nonsense": 1}]}, "damaged"),
    ],
)
def test_refuses(change, words):
    with pytest.raises(VqError, match=words):
        Analysis.from_dict({**example().to_dict(), **change})
