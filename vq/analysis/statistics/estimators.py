"""Entropy, richness and inequality from counts, with what is known of their errors at small samples.

All work on a ``Spectrum``: how many types were seen once, twice, and so on. It is small whatever the number of types,
and a sample of types fits in by weights.

Reference:
    G. Miller, "Note on the bias of information estimates" (1955); A. Chao, "Nonparametric estimation of the number of
    classes in a population" (1984); A. Chao, T.-J. Shen, "Nonparametric estimation of Shannon's index of diversity when
    there are unseen species in sample" (2003), equation 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

LOG2 = math.log(2)
Z95 = 1.959964
_DRAWS, _MOST_DRAWN = 64, 1 << 22


@dataclass(frozen=True, eq=False)
class Spectrum:
    """How many types occurred how often.

    Attributes:
        counts: different counts above 0, rising.
        types: how many types have each; not whole numbers where types were sampled.
        n: tokens.
    """

    counts: np.ndarray
    types: np.ndarray
    n: float

    @classmethod
    def of(cls, counts: np.ndarray, weights: np.ndarray | None = None) -> Spectrum:
        """The spectrum of counts, zeros left out; ``weights`` says how many types each stands for."""
        kept = counts > 0
        values, where = np.unique(counts[kept], return_inverse=True)
        types = np.bincount(where, None if weights is None else weights[kept], len(values))
        values = values.astype(np.float64)
        return cls(values, types.astype(np.float64), float((values * types).sum()))

    @property
    def observed(self) -> float:
        """S, the number of types seen."""
        return float(self.types.sum())

    def seen(self, times: int) -> float:
        """How many types were seen exactly so often."""
        return float(self.types[self.counts == times].sum())

    @property
    def coverage(self) -> float:
        """Good and Turing's estimate of the probability of all types seen together, ``1 - f1 / N``."""
        ones = self.seen(1)
        if ones >= self.n:  # all seen once: the estimate would be 0
            ones = max(self.n - 1, 0)
        return 1 - ones / self.n if self.n else 0.0


def entropy_plugin(spectrum: Spectrum) -> float:
    """``-sum p log2 p`` of the shares seen, in bits: too low where N is not many times the number of types."""
    if not spectrum.n:
        return 0.0
    p = spectrum.counts / spectrum.n
    return max(float(-(spectrum.types * p * np.log2(p)).sum()), 0.0)


def entropy_miller_madow(spectrum: Spectrum) -> float:
    """Plug-in plus ``(S - 1) / 2N``, in bits: the first term of the bias of types that were seen."""
    if not spectrum.n:
        return 0.0
    return entropy_plugin(spectrum) + (spectrum.observed - 1) / (2 * spectrum.n) / LOG2


def entropy_chao_shen(spectrum: Spectrum) -> float:
    """Chao and Shen's estimate, in bits: shares are lowered by the coverage, types weighted by 1 / P(seen)."""
    if not spectrum.n:
        return 0.0
    p = spectrum.coverage * spectrum.counts / spectrum.n
    inside = (p > 0) & (p < 1)
    if not inside.any():
        return 0.0
    p, types = p[inside], spectrum.types[inside]
    seen = -np.expm1(spectrum.n * np.log1p(-p))
    return float(-(types * p * np.log2(p) / seen).sum())


def richness(spectrum: Spectrum) -> float:
    """Chao's lower bound of the number of types with a probability above 0, ``S + (N-1)/N f1 (f1-1) / 2 (f2+1)``."""
    ones, twos, n = spectrum.seen(1), spectrum.seen(2), spectrum.n
    if not n:
        return 0.0
    return spectrum.observed + (n - 1) / n * ones * max(ones - 1, 0) / (2 * (twos + 1))


def standard_error(
    statistic: Callable[[Spectrum], float], spectrum: Spectrum, seed: int = 0
) -> float:
    """Standard deviation of a statistic of entropy over samples drawn anew.

    Counts become Poisson numbers around themselves; of millions of types, it is that of the plug-in entropy.
    """
    return standard_errors((statistic,), spectrum, seed)[0]


def standard_errors(
    statistics: Sequence[Callable[[Spectrum], float]], spectrum: Spectrum, seed: int = 0
) -> list[float]:
    """``standard_error`` of several statistics on the same draws."""
    drawn = redrawn(spectrum, seed)
    if drawn is None:  # millions of types: the plain one of an average over tokens
        p = spectrum.counts / spectrum.n
        surprise = -np.log2(p)
        mean = (spectrum.types * p * surprise).sum()
        spread = (spectrum.types * p * (surprise - mean) ** 2).sum()
        return [float(math.sqrt(max(spread, 0.0) / spectrum.n))] * len(statistics)
    values = np.array([[statistic(draw) for statistic in statistics] for draw in drawn])
    if not len(values):
        return [0.0] * len(statistics)
    return [float(value) for value in np.std(values, axis=0, ddof=1)]


def redrawn(spectrum: Spectrum, seed: int = 0) -> Iterator[Spectrum] | None:
    """Samples drawn anew: counts become Poisson numbers around themselves. None where types are too many for it."""
    repeats = np.rint(spectrum.types).astype(np.int64)
    total = int(repeats.sum())
    draws = int(min(_DRAWS, _MOST_DRAWN // total)) if total else 0
    if total and draws < 8:
        return None
    generator = np.random.default_rng(seed)
    each = np.repeat(spectrum.counts, repeats)
    return (Spectrum.of(generator.poisson(each)) for _ in range(draws))


def gini(counts: np.ndarray) -> float:
    """Gini coefficient over all entries: 0 for even use, near 1 where one entry takes all."""
    total = float(counts.sum())
    if not total:
        return 0.0
    k = len(counts)
    order = np.sort(counts).astype(np.float64)
    return float(((2 * np.arange(1, k + 1) - k - 1) * order).sum() / (k * total))


def gini_error(counts: np.ndarray) -> float:
    """Standard error of the Gini coefficient by the delta method.

    It is ``sum w p`` with weights ``(2 rank - K - 1) / K``, and at first order ranks do not move: the variance of the
    weights over the tokens, over N.
    """
    total, k = float(counts.sum()), len(counts)
    if not total:
        return 0.0
    p = np.sort(counts).astype(np.float64) / total
    weights = (2 * np.arange(1, k + 1) - k - 1) / k
    mean = float((p * weights).sum())
    return math.sqrt(max(float((p * weights * weights).sum()) - mean * mean, 0.0) / total)


def gini_even(tokens_per_entry: float) -> float:
    """Gini coefficient that even use shows at this N/K: ``exp(-2a) (I0(2a) + I1(2a))`` of Poisson counts of mean a."""
    angle = (np.arange(20_000) + 0.5) * math.pi / 20_000
    return float((np.exp(2 * tokens_per_entry * (np.cos(angle) - 1)) * (1 + np.cos(angle))).mean())


@dataclass(frozen=True)
class ZipfFit:
    """``p_r`` proportional to ``r^-exponent`` over the ranks 1 to K.

    Attributes:
        exponent: of greatest likelihood.
        error: its standard error.
        r2: share of the variance of log counts over log ranks that the line explains.
    """

    exponent: float
    error: float
    r2: float


def zipf_fit(counts: np.ndarray) -> ZipfFit | None:
    """Fit a power law to counts by rank; None where fewer than three entries were used."""
    order = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    if len(order) < 3:
        return None
    log_rank = np.log(np.arange(1, len(counts) + 1))
    n = order.sum()
    target = (order * log_rank[: len(order)]).sum() / n
    low, high = -1.0, 8.0
    for _ in range(60):  # the mean log rank falls with the exponent
        middle = (low + high) / 2
        low, high = (middle, high) if _moments(middle, log_rank)[0] > target else (low, middle)
    _, variance = _moments(low, log_rank)
    return ZipfFit((low + high) / 2, 1 / math.sqrt(n * max(variance, 1e-12)), _straight(order))


def _straight(order: np.ndarray) -> float:
    """Squared correlation of log count and log rank, of falling counts above 0."""
    if len(order) < 3:
        return 0.0
    x, y = np.log(np.arange(1, len(order) + 1)), np.log(order)
    return float(np.corrcoef(x, y)[0, 1] ** 2) if float(np.var(y)) > 1e-12 else 0.0


def straightness(spectrum: Spectrum) -> float:
    """``r2`` of ``zipf_fit``, of a spectrum with whole numbers of types."""
    repeats = np.rint(spectrum.types[::-1]).astype(np.int64)
    return _straight(np.repeat(spectrum.counts[::-1], repeats))


def _moments(exponent: float, log_rank: np.ndarray) -> tuple[float, float]:
    """Mean and variance of the log rank under the law."""
    p = np.exp(-exponent * log_rank - (-exponent * log_rank).max())
    p /= p.sum()
    mean = float((p * log_rank).sum())
    return mean, float((p * (log_rank - mean) ** 2).sum())


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not n:
        return 0.0, 1.0
    p, z2 = hits / n, Z95**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return min(max(middle - half, 0.0), p), max(min(middle + half, 1.0), p)
