"""How the entries of a codebook are used."""

from __future__ import annotations

import math

import numpy as np

from vq.analysis.catalogue import measured
from vq.analysis.measures.stream import UseCounter
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.statistics.estimators import (
    Z95,
    Spectrum,
    entropy_chao_shen,
    entropy_miller_madow,
    entropy_plugin,
    gini,
    gini_error,
    gini_even,
    redrawn,
    richness,
    standard_error,
    standard_errors,
    straightness,
    wilson,
    zipf_fit,
)
from vq.analysis.statistics.intervals import Interval, around

ENOUGH = 10.0  # tokens for each entry below which unseen entries are not called dead
CURVE = 256  # points of a curve
_EVEN_LIMIT = 1e6


def usage_section(counter: UseCounter, part: str = "", seed: int = 0) -> Section:
    """Everything about use, from the counts of one stream."""
    if counter.types is not None:
        found = counter.types.result()
        counts, spectrum = None, found.spectrum
    else:
        counts, spectrum = counter.counts, Spectrum.of(counter.counts)
    k, n = counter.entries, round(spectrum.n)
    rows = _seen(spectrum, k, n) + _entropies(spectrum, k, n, seed)
    if counts is not None:
        rows += _inequality(counts, n, k, seed)
    series = () if counts is None or not n else (by_rank(counts),)
    return Section("usage", "Use of the entries", part, tuple(rows), series)


def _seen(spectrum: Spectrum, k: int, n: int) -> list[Measurement]:
    used = min(spectrum.observed / k, 1.0)
    whole = max(min(richness(spectrum) / k, 1.0), used)
    ratio = n / k
    unseen = (1 - whole, 1 - used)
    return [
        measured("entries", k),
        measured("tokens", n),
        measured("tokens_per_entry", ratio, n),
        measured("used", used, n, (used, whole)),
        measured("ceiling", -math.expm1(-ratio), n),
        measured("unseen", 1 - used, n, unseen),
        measured("dead", 1 - used, n, unseen)
        if ratio >= ENOUGH
        else measured(
            "dead",
            None,
            n,
            note=f"N/K is {ratio:.2g}; {ENOUGH:g} are needed to tell dead from unseen",
        ),
    ]


def _entropies(spectrum: Spectrum, k: int, n: int, seed: int) -> list[Measurement]:
    limit = math.log2(k)
    plain, miller = entropy_plugin(spectrum), entropy_miller_madow(spectrum)
    chao = min(entropy_chao_shen(spectrum), limit)
    errors = standard_errors((entropy_plugin, entropy_chao_shen), spectrum, seed)
    error, wide = (Z95 * each for each in errors)
    near = (max(plain - error, 0.0), plain + error)
    far = (max(min(chao - wide, miller - error), 0.0), min(max(chao + wide, miller + error), limit))
    scale = limit or 1.0
    covered = wilson(spectrum.coverage * spectrum.n, spectrum.n)
    return [
        measured("entropy", plain, n, near),
        measured("entropy_mm", miller, n, (max(miller - error, 0.0), miller + error)),
        measured("entropy_cs", chao, n, far),
        measured("perplexity", 2**plain, n, (2 ** near[0], 2 ** near[1])),
        measured("perplexity_mm", 2**miller, n, (2 ** (miller - error), 2 ** (miller + error))),
        measured("perplexity_cs", 2**chao, n, (2 ** far[0], 2 ** far[1])),
        measured("evenness", chao / scale, n, (far[0] / scale, far[1] / scale)),
        measured("coverage", spectrum.coverage, n, covered),
    ]


def _inequality(counts: np.ndarray, n: int, k: int, seed: int) -> list[Measurement]:
    if not n:
        return []
    even = gini_even(n / k) if n / k < _EVEN_LIMIT else 0.0
    top = max(round(k / 100), 1)
    share = float(np.sort(counts)[-top:].sum()) / n
    largest = float(counts.max()) / n
    rows = [
        measured(
            "gini",
            gini(counts),
            n,
            around(gini(counts), Z95 * gini_error(counts), 0.0, 1.0),
            f"even use of N tokens would show {even:.3f}",
        ),
        measured("top_share", share, n, wilson(share * n, n), f"{top} entries"),
        measured("largest", largest, n, wilson(largest * n, n), f"entry {int(counts.argmax())}"),
    ]
    fit = zipf_fit(counts)
    if fit is not None:
        half = Z95 * fit.error
        rows.append(measured("zipf", fit.exponent, n, (fit.exponent - half, fit.exponent + half)))
        rows.append(measured("zipf_r2", fit.r2, n, _around_r2(fit.r2, counts, seed)))
    return rows


def _around_r2(r2: float, counts: np.ndarray, seed: int) -> Interval | None:
    spectrum = Spectrum.of(counts)
    if redrawn(spectrum, seed) is None:
        return None
    return around(r2, Z95 * standard_error(straightness, spectrum, seed), 0.0, 1.0)


def by_rank(counts: np.ndarray) -> Series:
    """Share of the tokens by rank, at ranks evenly spread on a logarithmic scale."""
    order = np.sort(counts)[::-1]
    k, n = len(order), max(float(order.sum()), 1.0)
    ranks = np.unique(np.geomspace(1, k, min(CURVE, k)).round().astype(np.int64))
    return Series(
        "by_rank",
        "Use by rank",
        {
            "rank": tuple(int(r) for r in ranks),
            "share": tuple(float(order[r - 1]) / n for r in ranks),
            "even": (1 / k,) * len(ranks),
        },
        "rank of an entry by use; its share of the tokens; 1/K",
    )
