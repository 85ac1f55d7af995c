"""Counting types: exact while they fit, and near the exact counts beyond."""

from __future__ import annotations

import numpy as np
import pytest

from vq.analysis.measures.stream import PairCounter, Sampler
from vq.analysis.statistics.estimators import entropy_chao_shen, entropy_plugin
from vq.analysis.statistics.types import TypeCounter
from vq.analysis.subject import Chunk


@pytest.mark.parametrize("wide", [False, True])
def test_exact_counts(wide):
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 5000, 50_000) * (2**33 + 7 if wide else 65_537)
    counter = TypeCounter(wide)
    for part in np.array_split(keys, 7):
        counter.add(part)
    found = counter.result()
    names, counts = np.unique(keys, return_counts=True)
    assert found.share == 1 and found.spectrum.n == 50_000
    order = np.argsort(found.keys)
    assert (found.keys[order] == names).all() and (found.counts[order] == counts).all()
    assert (np.diff(found.counts) <= 0).all()


@pytest.mark.parametrize("skew", [0.0, 1.0, 1.4])
def test_sampled_types_give_entropies_within_their_error(monkeypatch, skew):
    monkeypatch.setattr("vq.analysis.statistics.types._BUFFER", 1 << 16)
    monkeypatch.setattr("vq.analysis.statistics.types._HEAVY", 2.0**-11)
    p = np.arange(1, 200_001) ** -skew
    cdf = np.cumsum(p / p.sum())
    generator = np.random.default_rng(3)
    exact, some = TypeCounter(), TypeCounter(most=4096)
    for _ in range(16):
        keys = np.searchsorted(cdf, generator.random(1 << 16)) * 2_654_435
        exact.add(keys)
        some.add(keys)
        assert len(some._table.keys) <= 4096 + (1 << 16)  # before the next flush
    all_types, sampled = exact.result(), some.result()
    assert sampled.share < 0.2 and all_types.share == 1
    assert sampled.spectrum.n == pytest.approx(all_types.spectrum.n)
    assert sampled.spectrum.observed == pytest.approx(all_types.spectrum.observed, rel=0.05)
    error = entropy_plugin(sampled.spectrum) - entropy_plugin(all_types.spectrum)
    assert abs(error) < 3 * sampled.sampling_error + 0.01
    assert sampled.sampling_error < 0.2
    both = [entropy_chao_shen(c.spectrum) for c in (sampled, all_types)]
    assert both[0] == pytest.approx(both[1], abs=0.25)


def test_a_type_that_becomes_frequent_late_is_seen(monkeypatch):
    monkeypatch.setattr("vq.analysis.statistics.types._BUFFER", 1 << 14)
    counter = TypeCounter(most=1024)
    generator = np.random.default_rng(0)
    for _ in range(20):
        counter.add(generator.integers(0, 1 << 30, 1 << 14))
    late = generator.integers(0, 1 << 30, 64)
    for _ in range(60):
        counter.add(late[generator.integers(0, 64, 1 << 14)])
    found = counter.result()
    assert set(late) <= set(found.keys.tolist())
    assert found.counts[:64].sum() == pytest.approx(60 * 2**14, rel=0.01)
    p = np.concatenate([np.full(64, 0.75 / 64), np.full(20 << 14, 0.25 / (20 << 14))])
    assert entropy_plugin(found.spectrum) == pytest.approx(-(p * np.log2(p)).sum(), rel=0.02)


def pairs(parts: list[tuple[list[int], list[int]]], entries: int = 10):
    counter = PairCounter(entries, 0)
    for codes, starts in parts:
        counter.add(Chunk(np.array([codes]), np.array(starts, np.int64)), 0)
    found = counter.result()
    listed = dict(zip(found.types.keys.tolist(), found.types.counts.tolist(), strict=True))
    return found, {divmod(key, entries): count for key, count in listed.items()}


def test_pairs_stay_within_items_and_go_over_chunks():
    found, listed = pairs([([1, 1, 2, 3], [0, 2]), ([3, 4], []), ([5], [0]), ([5, 1], [])])
    assert listed == {(1, 1): 1, (2, 3): 1, (3, 3): 1, (3, 4): 1, (5, 5): 1, (5, 1): 1}
    assert found.repeats == 3 and found.pairs == 6


def test_pairs_with_nothing_in_between():
    _, listed = pairs([([1, -1, 2, 2], [0]), ([-1], []), ([3, 3], [])])
    assert listed == {(2, 2): 1, (3, 3): 1}


def test_pairs_against_brute_force():
    generator = np.random.default_rng(5)
    row = generator.integers(-1, 6, 3000)
    starts = np.sort(generator.choice(3000, 100, replace=False))
    want: dict[tuple[int, int], int] = {}
    for i in range(1, 3000):
        if i not in starts and row[i] >= 0 and row[i - 1] >= 0:
            pair = (int(row[i - 1]), int(row[i]))
            want[pair] = want.get(pair, 0) + 1
    parts, at = [], 0
    for size in (1, 700, 2, 297, 2000):
        inside = starts[(starts >= at) & (starts < at + size)] - at
        parts.append((row[at : at + size].tolist(), inside.tolist()))
        at += size
    assert pairs(parts)[1] == want


def test_large_pairs_need_wide_keys():
    found, listed = pairs([([2**30, 2**31, 5], [0])], entries=2**32)
    assert listed == {(2**30, 2**31): 1, (2**31, 5): 1} and found.pairs == 2
    upper = [(1 << 62) + (i << 45) for i in range(50)]  # differ in the upper bits alone
    found, _ = pairs([(upper + upper, [0])], entries=2**63)
    assert found.types.spectrum.observed == 50 and found.types.counts.max() == 2


def test_sampler_keeps_everything_small_and_bounds_the_rest():
    sampler = Sampler(most=1 << 14)
    codes = np.arange(10_000)
    sampler.add(Chunk(codes[None, :6000], np.array([0])), 0)
    sampler.add(Chunk(codes[None, 6000:], np.array([500])), 6000)
    found = sampler.result()
    assert (found.codes[0] == codes).all() and found.starts.tolist() == [0, 6500]

    sampler = Sampler(most=1 << 14)
    for number in range(100):
        rows = np.arange(10_000) + 10_000 * number
        sampler.add(Chunk(np.stack([rows, rows]), np.array([0])), 10_000 * number)
    found = sampler.result()
    assert (1 << 13) < found.codes.shape[1] <= (1 << 15)
    jumps = np.flatnonzero(np.diff(found.codes[0]) != 1) + 1
    assert set(jumps) <= set(found.starts.tolist())
    assert found.codes[0].max() > 700_000  # spread over all
