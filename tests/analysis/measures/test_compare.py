"""Pairings, agreement, alignment."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from vq.analysis.files.open import open_subject
from vq.analysis.measures.compare import compare_sections, linear_cka
from vq.analysis.measures.gather import gather
from vq.analysis.pipeline import analyze
from vq.analysis.plots.choice import figures
from vq.analysis.statistics.assignment import assign
from vq.analysis.subject import Subject, Table
from vq.errors import VqError


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 7), (6, 6)])
def test_pairing_against_all_pairings(shape):
    for seed in range(5):
        cost = np.random.default_rng(seed).normal(size=shape)
        found = assign(cost)
        assert len(set(found.tolist())) == shape[0]
        each = itertools.permutations(range(shape[1]), shape[0])
        best = min(cost[np.arange(shape[0]), list(p)].sum() for p in each)
        assert cost[np.arange(shape[0]), found].sum() == pytest.approx(best)


def test_pairing_of_many_against_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    cost = np.random.default_rng(0).random((120, 150))
    rows, columns = optimize.linear_sum_assignment(cost)
    assert cost[np.arange(120), assign(cost)].sum() == pytest.approx(cost[rows, columns].sum())


def test_pairing_refuses():
    for cost in (np.zeros((3, 2)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="rows <= columns"):
            assign(cost)


def subject(table: torch.Tensor) -> Subject:
    return Subject("codebook", "x", None, tables=(Table("", table),))  # type: ignore[arg-type]


def test_a_shuffled_table_is_the_same_and_another_is_not():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 8, generator=generator)
    (same,) = compare_sections(
        subject(table), subject(table[torch.randperm(200, generator=generator)])
    )
    assert (
        same.number("matched_cosine") == pytest.approx(1) and same.number("matched_distance") < 1e-5
    )
    assert same.number("cka") == pytest.approx(1)
    (other,) = compare_sections(subject(table), subject(torch.randn(200, 8, generator=generator)))
    assert other.number("matched_cosine") < 0.9 and other.number("matched_distance") > 0.3


def test_cka_is_blind_to_rotation_and_scale_only():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 6, generator=generator)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    assert linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    assert linear_cka(x, torch.randn(500, 6, generator=generator)) < 0.1


def codes_file(path, codes):
    np.save(path, codes)
    return open_subject(path)


def compared(first, second):
    return compare_sections(first, second, gather(first.codes), gather(second.codes))


def test_agreement_of_codes(tmp_path):
    generator = np.random.default_rng(0)
    a = generator.integers(0, 32, 20_000)
    first = codes_file(tmp_path / "a.npy", a)
    renamed = codes_file(tmp_path / "b.npy", (a * 5 + 3) % 32)
    (section,) = compared(first, renamed)
    assert section.number("agreement") == pytest.approx(1, abs=1e-6)
    assert section.number("same_codes") < 0.1
    noise = codes_file(tmp_path / "c.npy", generator.integers(0, 32, 20_000))
    (section,) = compared(first, noise)
    assert section.number("agreement") == pytest.approx(0, abs=0.02)
    assert section.number("use_divergence") < 0.01
    half = codes_file(tmp_path / "d.npy", np.concatenate([[31], a[1:] % 16]))
    (section,) = compared(first, half)
    p, q = np.full(32, 1 / 32), np.r_[np.full(16, 1 / 16), np.zeros(16)]
    middle = (p + q) / 2
    want = (
        0.5 * (p * np.log2(p / middle)).sum() + 0.5 * (1 / 16 * np.log2(1 / 16 / middle[:16])).sum()
    )
    assert section.number("use_divergence") == pytest.approx(want, rel=0.02)


def test_distortion_side_by_side(tmp_path):
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0))
    from dataclasses import replace

    a, b = subject(x[:16]), subject(x[:256])
    found = analyze(replace(a, vectors=lambda: x), b)
    section = next(s for s in found.sections if s.get("snr_change"))
    assert section.number("snr_change") > 2 and section.number("rate_change") == pytest.approx(1)
    assert any("more signal to noise" in f.text for f in found.findings)


def test_nothing_in_common(tmp_path):
    with pytest.raises(VqError, match="nothing to compare"):
        compare_sections(subject(torch.randn(4, 3)), codes_file(tmp_path / "a.npy", np.arange(9)))


def test_two_sets_of_tokens_side_by_side(tmp_path):
    """Of any length: use of both, with the codes of each position where there are as many."""
    generator = np.random.default_rng(0)
    even, few = generator.integers(0, 32, 20_000), generator.integers(0, 3, 9_000)
    few[0] = 31
    found = analyze(codes_file(tmp_path / "even.npy", even), codes_file(tmp_path / "few.npy", few))
    use = {section.part: section for section in found.of("usage")}
    assert list(use) == ["even.npy", "few.npy"]
    assert use["even.npy"].number("used") == 1
    assert use["few.npy"].number("used") == pytest.approx(4 / 32)
    (section,) = found.of("compare")
    assert section.get("agreement") is None and "cannot be compared" in section.notes[0]
    assert section.number("use_divergence") > 0.5
    assert any(
        f.severity == "warn" and "of few.npy has collapsed" in f.text for f in found.findings
    )
    assert any("Use of the entries differs" in f.text for f in found.findings)
    (rank,) = figures(found, "usage")
    assert "even.npy" in rank.svg and "few.npy" in rank.svg
    twice = analyze(*(codes_file(tmp_path / "even.npy", even) for _ in range(2)))
    assert [s.part for s in twice.of("usage")] == ["first", "second"]
