"""Estimators against closed forms, simulation and the published tables of their bias."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vq.analysis.statistics.estimators import (
    Spectrum,
    entropy_chao_shen,
    entropy_miller_madow,
    entropy_plugin,
    gini,
    gini_even,
    richness,
    standard_error,
    wilson,
    zipf_fit,
)

K = 16384


def even(k: int = K) -> np.ndarray:
    return np.full(k, 1 / k)


def zipf(k: int = K, s: float = 1.0) -> np.ndarray:
    p = np.arange(1, k + 1) ** -s
    return p / p.sum()


def draw(p: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(n, p)


# True size 16384; used share, then perplexity by plug-in, Miller-Madow, Chao-Shen of one draw each, by other code.
TABLE = [
    (even(), 4096, 0.221, 3470, 5397, 16737),
    (even(), 65536, 0.983, 14377, 16256, 17978),
    (zipf(), 4096, 0.101, 455, 556, 715),
    (zipf(), 65536, 0.598, 848, 914, 1062),
    (zipf(), 1048576, 1.0, 993, 1001, 995),
]


@pytest.mark.parametrize(("p", "n", "used", "plugin", "miller", "chao"), TABLE)
def test_published_table_of_the_bias(p, n, used, plugin, miller, chao):
    """The table holds single draws: within 2 % and two standard deviations of a draw."""
    spectra = [Spectrum.of(draw(p, n, seed)) for seed in range(12)]
    assert np.mean([s.observed for s in spectra]) / K == pytest.approx(used, rel=0.02)
    for f, want in (
        (entropy_plugin, plugin),
        (entropy_miller_madow, miller),
        (entropy_chao_shen, chao),
    ):
        found = [2 ** f(s) for s in spectra]
        assert abs(np.mean(found) - want) < 0.02 * want + 2 * np.std(found)


@pytest.mark.parametrize(
    ("p", "n"), [(even(), 4096), (even(), 65536), (zipf(1024), 300), (zipf(1024), 4000)]
)
def test_expected_plugin_in_closed_form(p, n):
    """``E H = sum_i E[-c/N log2 c/N]`` over the Poisson numbers that c are."""
    reach = np.arange(1, int(n * p.max() + 10 * math.sqrt(n * p.max()) + 20))
    log_factorial = np.cumsum(np.log(reach))
    want = 0.0
    for share, times in zip(*np.unique(p, return_counts=True), strict=True):
        pmf = np.exp(reach * math.log(n * share) - n * share - log_factorial)
        want -= times * float((pmf * reach / n * np.log2(reach / n)).sum())
    found = np.mean([entropy_plugin(Spectrum.of(draw(p, n, seed))) for seed in range(30)])
    assert 2**found == pytest.approx(2**want, rel=0.02)


def test_estimates_converge_to_the_truth():
    truth = -(zipf() * np.log2(zipf())).sum()
    spectrum = Spectrum.of(draw(zipf(), 1 << 23))
    for f in (entropy_plugin, entropy_miller_madow, entropy_chao_shen):
        assert 2 ** f(spectrum) == pytest.approx(2**truth, rel=0.02)


def test_used_share_of_even_use_is_the_ceiling():
    for n in (4096, 16384, 65536):
        found = Spectrum.of(draw(even(), n)).observed / K
        assert found == pytest.approx(1 - math.exp(-n / K), rel=0.02)


def test_plugin_exact():
    assert entropy_plugin(Spectrum.of(np.array([4, 2, 1, 1, 0]))) == pytest.approx(1.75)
    assert entropy_plugin(Spectrum.of(np.array([7]))) == 0


def test_spectrum_of_weighted_types_equals_repeated_types():
    counts, weights = np.array([3, 1, 5]), np.array([2.0, 4.0, 1.0])
    one = Spectrum.of(counts, weights)
    two = Spectrum.of(np.repeat(counts, weights.astype(int)))
    for f in (entropy_plugin, entropy_miller_madow, entropy_chao_shen, richness):
        assert f(one) == pytest.approx(f(two))


def test_nothing_and_all_seen_once():
    empty = Spectrum.of(np.zeros(4, np.int64))
    for f in (entropy_plugin, entropy_miller_madow, entropy_chao_shen, richness):
        assert f(empty) == 0
    once = Spectrum.of(np.ones(5, np.int64))
    assert entropy_chao_shen(once) > math.log2(5) and 0 < once.coverage < 1


def test_richness_of_even_and_of_skewed_use():
    assert richness(Spectrum.of(draw(even(), 4096))) == pytest.approx(K, rel=0.06)
    share = richness(Spectrum.of(draw(zipf(), 65536))) / K
    assert share == pytest.approx(0.88, abs=0.03)


@pytest.mark.parametrize("p", [even(256), zipf(256)])
def test_standard_error_is_that_of_fresh_samples(p):
    values = [entropy_chao_shen(Spectrum.of(draw(p, 2000, seed))) for seed in range(200)]
    found = standard_error(entropy_chao_shen, Spectrum.of(draw(p, 2000, 999)))
    assert 0.5 * np.std(values) < found < 2 * np.std(values)


def test_standard_error_of_millions_of_types():
    counts = np.random.default_rng(0).poisson(3.0, 3_000_000)
    assert 0 < standard_error(entropy_plugin, Spectrum.of(counts)) < 0.01


def test_gini():
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    x = np.random.default_rng(0).integers(0, 50, 60)
    brute = np.abs(x[:, None] - x[None]).sum() / (2 * len(x) ** 2 * x.mean())
    assert gini(x) == pytest.approx(brute)


@pytest.mark.parametrize("a", [0.25, 2.0, 30.0, 2000.0])
def test_gini_of_even_use(a):
    assert gini_even(a) == pytest.approx(gini(draw(even(), int(a * K))), rel=0.02)


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_zipf_fit_finds_the_exponent(s):
    fit = zipf_fit(draw(zipf(2048, s), 2_000_000))
    assert fit is not None
    assert fit.exponent == pytest.approx(s, rel=0.02) and fit.r2 > 0.9 and fit.error < 0.01


def test_zipf_fit_of_too_little():
    assert zipf_fit(np.array([3, 1, 0, 0])) is None


def test_wilson_covers():
    generator = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        low, high = wilson(generator.binomial(50, 0.1), 50)
        inside += low <= 0.1 <= high
    assert inside > 0.9 * 500 and wilson(0, 0) == (0.0, 1.0)
