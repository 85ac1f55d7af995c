"""Use of entries: exact small cases, and what the interval and N/K promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vq.analysis.measures.stream import UseCounter, read
from vq.analysis.measures.usage import usage_section
from vq.analysis.subject import Chunk, Codes
from vq.errors import VqError


def section(codes: np.ndarray, entries: int, pieces: int = 3):
    counter = UseCounter(entries, 0)
    parts = np.array_split(codes, pieces)
    stream = Codes((entries,), lambda: (Chunk(p[None], np.array([0])) for p in parts))
    assert read(stream, [counter]) == len(codes)
    return usage_section(counter)


def test_exact():
    found = section(np.array([0, 0, 1, 1, 2, 3, 3, 3]), 8)
    p = np.array([2, 2, 1, 3]) / 8
    entropy = -(p * np.log2(p)).sum()
    assert found.number("used") == 0.5 and found.number("unseen") == 0.5
    assert found.number("entropy") == pytest.approx(entropy)
    assert found.number("perplexity") == pytest.approx(2**entropy)
    assert found.number("entropy_mm") == pytest.approx(entropy + 3 / 16 / math.log(2))
    assert found.number("ceiling") == pytest.approx(1 - math.exp(-1))
    assert found.number("largest") == pytest.approx(3 / 8)
    assert found.get("used").n == 8


def test_unseen_is_not_dead_at_few_tokens():
    codes = np.random.default_rng(0).integers(0, 1000, 3000)
    few = section(codes, 1000)
    assert few.get("dead").value is None and "N/K is 3" in few.get("dead").note
    assert few.number("unseen") == pytest.approx(math.exp(-3), abs=0.02)
    low, high = few.get("unseen").low, few.get("unseen").high
    assert low < 0.02 and high == few.number("unseen")


def test_dead_at_many_tokens():
    codes = np.random.default_rng(0).integers(0, 700, 40_000)
    found = section(codes, 1000)
    assert found.number("dead") == pytest.approx(0.3)
    assert found.get("dead").low == pytest.approx(0.3)
    assert found.number("perplexity_cs") == pytest.approx(700, rel=0.01)
    assert found.get("perplexity_cs").low < 700 < found.get("perplexity_cs").high


def test_minus_one_counts_nothing():
    found = section(np.array([-1, 2, -1, 2, 1]), 4)
    assert found.number("tokens") == 3 and found.number("used") == 0.5


def test_nothing_at_all():
    found = section(np.full(5, -1), 4)
    assert found.number("tokens") == 0 and found.number("used") == 0 and found.series == ()


def test_entries_too_many_to_list_are_counted_as_types():
    """The same codes under more possible values than are listed: all but what is relative to K is equal."""
    codes = np.random.default_rng(1).integers(0, 5000, 60_000)
    listed, typed = section(codes, 1 << 14), section(codes, 1 << 40)
    for key in ("tokens", "entropy", "entropy_mm", "perplexity", "coverage"):
        assert typed.number(key) == pytest.approx(listed.number(key))
    assert typed.number("used") == 5000 / 2**40


def test_codes_out_of_range():
    with pytest.raises(VqError, match="code 9 of the stream is not below 8"):
        section(np.array([1, 9]), 8)


def test_curve_by_rank():
    (curve,) = section(np.repeat(np.arange(300), np.arange(300)), 300).series
    assert curve.columns["rank"][0] == 1 and curve.columns["rank"][-1] == 300
    assert curve.columns["share"][0] == pytest.approx(299 / (299 * 150))
    assert list(curve.columns["share"]) == sorted(curve.columns["share"], reverse=True)
