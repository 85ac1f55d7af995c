"""Labels: purity by hand, InfoMEC on latents made for it."""

from __future__ import annotations

import numpy as np
import pytest

from vq.analysis.measures.labels import LabelCounter, info_mc, labels_section, nmi_matrix
from vq.analysis.measures.stream import read
from vq.analysis.subject import Chunk, Codes
from vq.errors import VqError

N = 6000


def section(codes: np.ndarray, labels: np.ndarray):
    """Codes ``(n, Q)``."""
    entries = tuple(int(c.max()) + 1 for c in codes.T)
    parts = np.array_split(codes.T, 3, axis=1)
    stream = Codes(entries, lambda: (Chunk(p, np.array([0])) for p in parts))
    counter = LabelCounter(labels, entries)
    read(stream, [counter])
    return labels_section(counter, stream)


def factors(count: int, values: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, (N, count))


def test_each_code_tells_one_factor():
    s = factors(3)
    found = section(s[:, [2, 0, 1]], s)
    for key in ("modularity", "compactness", "explicitness"):
        assert found.number(key) == pytest.approx(1, abs=0.02)


def test_a_code_that_tells_two_factors_is_compact_but_not_modular():
    s = factors(2)
    codes = np.stack([s[:, 0] * 4 + s[:, 1], np.zeros(N, np.int64)], 1)
    found = section(codes, s)
    assert found.number("modularity") == pytest.approx(0, abs=0.02)
    assert found.number("compactness") == pytest.approx(1, abs=0.02)
    assert found.number("explicitness") == pytest.approx(1, abs=0.03)


def test_a_factor_spread_over_two_codes_is_modular_but_not_compact():
    s = factors(2, values=16)
    codes = np.stack([s[:, 0] // 4, s[:, 0] % 4, s[:, 1] // 4, s[:, 1] % 4], 1)
    found = section(codes, s)
    assert found.number("modularity") == pytest.approx(1, abs=0.02)
    assert found.number("compactness") == pytest.approx((1 / 2 - 1 / 4) / (3 / 4), abs=0.02)


def test_noise_tells_nothing():
    found = section(factors(3, seed=1), factors(3, seed=2))
    assert found.number("explicitness") == pytest.approx(0, abs=0.02)
    assert np.max(found.matrices[0].values) < 0.01


def test_info_mc_by_hand():
    table = np.array([[0.8, 0.2, 0.0], [0.0, 0.2, 0.4]])
    modularity, compactness = info_mc(table)
    assert modularity == pytest.approx(np.mean([1, 0, 1]))
    share = [0.8, 0.4 / 0.6]
    assert compactness == pytest.approx(np.mean([(s - 1 / 3) / (2 / 3) for s in share]))
    assert info_mc(np.zeros((2, 3))) == (0, 0)


def test_purity_by_hand():
    codes = np.array([0, 0, 0, 1, 1, 1, 1, 2])[:, None]
    labels = np.array([5, 5, 6, 6, 6, 6, 5, 5])
    found = section(codes, labels)
    assert found.number("purity") == pytest.approx(6 / 8)
    assert found.number("label_purity") == pytest.approx((2 + 3) / 8)


def test_pnmi_of_clusters_that_tell_all_and_nothing():
    y = factors(1, values=8)[:, 0]
    fine = section((y * 3 + factors(1, values=3, seed=4)[:, 0])[:, None], y)
    assert fine.number("pnmi") == pytest.approx(1, abs=0.02) and fine.number("purity") == 1
    assert fine.number("v_measure") == pytest.approx(2 * 3 / (3 + 3 + np.log2(3)), rel=0.02)
    noise = section(factors(1, values=200, seed=5), y)
    assert noise.number("pnmi") == pytest.approx(0, abs=0.01)
    assert noise.number("purity") == pytest.approx(noise.number("purity_chance"), abs=0.02)


def test_nmi_is_exact_without_chance():
    s = factors(1, values=2, seed=7)
    table = nmi_matrix(s, s, np.random.default_rng(0))
    assert table[0, 0] == pytest.approx(1, abs=0.001)


def test_positions_without_a_label_are_left_out():
    y = factors(1)[:, 0].copy()
    y[::2] = -1
    found = section(y[:, None].clip(0), y)
    assert found.number("labelled") == N // 2 and found.number("purity") == 1


def test_labels_that_do_not_fit():
    with pytest.raises(VqError, match="expected integers"):
        LabelCounter(np.zeros(4), (4,))
    assert section(np.zeros((4, 1), np.int64), np.full(4, -1)).notes == ("no position has a label",)
