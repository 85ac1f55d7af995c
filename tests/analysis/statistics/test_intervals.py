"""Intervals hold the truth about as often as they say: by simulation, against closed forms, by name."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vq.analysis.catalogue import CATALOGUE
from vq.analysis.catalogue_intervals import INTERVALS
from vq.analysis.files.array import codes_of
from vq.analysis.measures.explicitness import explicitness
from vq.analysis.measures.gather import gather
from vq.analysis.measures.labels import _clusters, tell
from vq.analysis.measures.sequence import block_entropies
from vq.analysis.measures.shape import fisher, spread_of
from vq.analysis.statistics.estimators import (
    Z95,
    Spectrum,
    gini,
    gini_error,
    standard_error,
    straightness,
)
from vq.analysis.statistics.information import corrected, pointwise
from vq.analysis.statistics.intervals import (
    chance_error,
    half_width,
    of_decibels,
    of_deviation,
    of_median,
    of_ratio,
    of_variation,
)

TRIES = 60


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def spread_and_claim(draw, tries: int = TRIES) -> tuple[float, float]:
    """Half of the interval that repeated samples show, and that which they claim; ``draw`` gives value and claim."""
    found = np.array([draw(rng(seed)) for seed in range(tries)])
    return Z95 * float(found[:, 0].std(ddof=1)), float(np.median(found[:, 1]))


def alike(draw, tries: int = TRIES, rel: float = 0.3) -> None:
    shown, claimed = spread_and_claim(draw, tries)
    assert claimed == pytest.approx(shown, rel=rel)


def test_every_measurement_says_how_its_interval_is_made():
    assert INTERVALS.keys() == CATALOGUE.keys()
    assert all(INTERVALS.values())


@pytest.mark.parametrize(
    "statistic",
    [
        lambda x: (x.std(), of_deviation(x)),
        lambda x: (x.std() / x.mean(), of_variation(x)),
        lambda x: (np.square(x).mean() / x.mean(), of_ratio(np.square(x), x)),
        lambda x: (
            10 * math.log10(np.square(x).mean() / x.mean()),
            of_decibels(np.square(x), x),
        ),
    ],
)
def test_delta_method_against_repeated_samples(statistic):
    alike(lambda g: statistic(g.gamma(3, size=500)), 150)


def test_median_holds_the_truth_as_often_as_it_says():
    inside = 0
    for seed in range(400):
        low, high = of_median(rng(seed).exponential(size=60))
        inside += low <= math.log(2) <= high
    assert 0.92 <= inside / 400 <= 0.995
    assert of_median(np.zeros(5)) is None


def test_gini_and_zipf_fit():
    p = 1 / np.arange(1, 201)
    p /= p.sum()

    def one(g):
        counts = g.multinomial(20_000, p)
        return gini(counts), Z95 * gini_error(counts)

    alike(one)

    def straight(g):
        use = Spectrum.of(g.multinomial(20_000, p))
        return straightness(use), Z95 * standard_error(straightness, use)

    shown, claimed = spread_and_claim(straight, 40)
    assert shown < claimed < 2 * shown  # noise on noise: on the safe side


def linked(g: np.random.Generator, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    a = g.integers(0, 8, n)
    return a, np.where(g.random(n) < 0.5, a, g.integers(0, 8, n))


def test_information_of_linked_streams():
    def one(g):
        found = corrected(*linked(g), g)
        return found.value, found.half

    alike(one)


def test_information_of_independent_streams_is_within_its_interval():
    inside = []
    for seed in range(TRIES):
        g = rng(seed)
        found = corrected(g.integers(0, 32, 3000), g.integers(0, 32, 3000), g)
        inside.append(abs(found.value) <= found.half)
    assert np.mean(inside) >= 0.9


def test_chance_against_shuffles():
    g = rng()
    a, b = g.integers(0, 16, 2000), g.integers(0, 16, 2000)
    shown = np.std([pointwise(a, g.permutation(b)).information.mean() for _ in range(80)])
    assert chance_error(16, 16, 2000) == pytest.approx(shown, rel=0.25)


def test_block_entropies_of_independent_codes():
    p = np.array([0.5, 0.25, 0.15, 0.1])

    def one(g):
        found = block_entropies(g.choice(4, size=3000, p=p), np.array([0]), 2)[0]
        return found.bits, found.half

    alike(one)


def test_pnmi_and_v_measure():
    for key in ("pnmi", "v_measure"):

        def one(g, key=key):
            m = next(m for m in _clusters(*linked(g), g) if m.key == key)
            assert m.low is not None and m.high is not None
            return m.value, (m.high - m.low) / 2

        alike(one)


def test_modularity_and_compactness():
    for place in (0, 1):

        def one(g, place=place):
            labels = g.integers(0, 4, (1500, 2))
            mixed = np.where(g.random(1500) < 0.7, labels[:, 0], labels[:, 1])
            codes = np.stack([mixed, labels[:, 1]], 1)
            told = tell(labels, codes, g)
            m = told.concentrations(np.array([True, True]), 1500)[place]
            return m.value, (m.high - m.low) / 2

        alike(one, 40, rel=0.5)


def test_explicitness_on_tokens_held_out():
    def one(g):
        a, b = linked(g, 1500)
        m = explicitness(b[:, None], a[:, None], g)
        return m.value, (m.high - m.low) / 2

    alike(one, 16, rel=0.6)


@pytest.mark.parametrize(
    "key", ["norm", "norm_spread", "effective_rank", "participation", "anisotropy"]
)
def test_shape_of_tables(key):
    scale = torch.tensor([3.0, 2.0, 1.0, 0.5])

    def one(g):
        x = torch.from_numpy(g.normal(size=(400, 4)).astype("f4")) * scale + 1
        m = next(m for m in spread_of(x) if m.key == key)
        return m.value, (m.high - m.low) / 2

    alike(one)


def test_fisher_by_hand():
    low, high = fisher(0.0, 103)
    assert (low, high) == pytest.approx((-math.tanh(0.196), math.tanh(0.196)), rel=1e-3)
    assert fisher(1.0, 10)[1] == pytest.approx(1) and fisher(0.5, 3) is None


def test_half_width_of_one_observation_is_unknown():
    assert math.isnan(half_width(np.zeros(1)))


def test_measurements_of_codes_have_intervals_or_a_reason():
    row = rng().integers(0, 64, 5000)
    for section in gather(codes_of(row)).sections(0):
        for m in section.measurements:
            assert m.interval, m.key
            if m.low is None:
                assert m.interval.startswith("none: "), m.key
            else:
                assert m.low <= m.value <= m.high, m.key
