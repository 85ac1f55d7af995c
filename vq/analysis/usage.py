"""How the entries of a codebook are used."""

from __future__ import annotations

import math

import numpy as np

from vq.analysis.estimators import (
    Z95,
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
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.stream import UseCounter

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
        rows += _inequality(counts, n, k)
    series = () if counts is None or not n else (by_rank(counts),)
    return Section("usage", "Use of the entries", part, tuple(rows), series)


def _seen(spectrum: Spectrum, k: int, n: int) -> list[Measurement]:
    used = min(spectrum.observed / k, 1.0)
    whole = min(richness(spectrum) / k, 1.0)
    ratio = n / k
    dead = 1 - used if ratio >= ENOUGH else None
    few = (
        ""
        if dead is not None
        else (
            f"{ratio:.2g} tokens for each entry; below {ENOUGH:g} an unseen entry is not called dead"
        )
    )
    return [
        Measurement("entries", k, "entries", "entries K", "values that a code can take"),
        Measurement("tokens", n, "tokens", "tokens N", "codes counted; -1 (nothing) is not"),
        Measurement("tokens_per_entry", ratio, "", "tokens for each entry", "N / K", n),
        Measurement(
            "used", used, "", "used at least once", "share of the K entries that occur among the N tokens", n,
            used, max(whole, used), "the upper end adds Chao's estimate of entries not seen yet",
        ),
        Measurement(
            "ceiling", -math.expm1(-ratio), "", "what even use would show",
            "1 - exp(-N/K): expected share used if all entries were equally likely", n,
        ),
        Measurement(
            "unseen", 1 - used, "", "never seen", "share of the K entries without a token", n,
            max(1 - max(whole, used), 0.0), 1 - used,
        ),
        Measurement(
            "dead", dead, "", "dead",
            "share of the entries without a token where even use gives at least 10 for each; an unseen entry has a "
            "probability below 3/N with 95 % confidence", n,
            None if dead is None else max(1 - max(whole, used), 0.0), dead, few,
        ),
    ]  # fmt: skip


def _entropies(spectrum: Spectrum, k: int, n: int, seed: int) -> list[Measurement]:
    limit = math.log2(k)
    plain, miller = entropy_plugin(spectrum), entropy_miller_madow(spectrum)
    chao = min(entropy_chao_shen(spectrum), limit)
    error = standard_error(entropy_plugin, spectrum, seed)
    wide = standard_error(entropy_chao_shen, spectrum, seed)
    low, high = max(chao - Z95 * wide, 0.0), min(chao + Z95 * wide, limit)
    return [
        Measurement(
            "entropy", plain, "bits", "entropy of use, plug-in", "-sum p log2 p over the shares seen; too low at small N/K",
            n, max(plain - Z95 * error, 0.0), plain + Z95 * error,
        ),
        Measurement(
            "entropy_mm", miller, "bits", "entropy, Miller-Madow", "plug-in plus (S-1)/2N nats, S entries seen", n,
        ),
        Measurement(
            "entropy_cs", chao, "bits", "entropy, Chao-Shen",
            "shares lowered by the coverage 1 - f1/N, each weighted by 1/P(seen), at most log2 K "
            "(Chao and Shen 2003, eq. 9)", n, low, high,
        ),
        Measurement(
            "perplexity", 2**plain, "entries", "perplexity, plug-in", "2^entropy: as many entries used evenly", n,
            2 ** max(plain - Z95 * error, 0.0), 2 ** (plain + Z95 * error),
        ),
        Measurement("perplexity_mm", 2**miller, "entries", "perplexity, Miller-Madow", "2^entropy_mm", n),
        Measurement(
            "perplexity_cs", 2**chao, "entries", "perplexity, Chao-Shen", "2^entropy_cs", n, 2**low, 2**high
        ),
        Measurement(
            "evenness", chao / limit if limit else 1.0, "", "entropy as a share of log2 K",
            "entropy_cs / log2 K: 1 where all entries are used alike", n,
            low / limit if limit else 1.0, high / limit if limit else 1.0,
        ),
        Measurement(
            "coverage", spectrum.coverage, "", "coverage",
            "1 - f1/N (Good and Turing): probability that the next token is an entry seen before", n,
            *wilson(spectrum.coverage * spectrum.n, spectrum.n),
        ),
    ]  # fmt: skip


def _inequality(counts: np.ndarray, n: int, k: int) -> list[Measurement]:
    if not n:
        return []
    even = gini_even(n / k) if n / k < _EVEN_LIMIT else 0.0
    top = max(round(k / 100), 1)
    share = float(np.sort(counts)[-top:].sum()) / n
    largest = float(counts.max()) / n
    rows = [
        Measurement(
            "gini", gini(counts), "", "Gini coefficient",
            "0 where all entries are used alike, near 1 where one takes all; over all K", n, note=f"even use of N tokens would show {even:.3f}",
        ),
        Measurement(
            "top_share", share, "", f"tokens of the top {top} entries", "share of the tokens of the 1 % most used entries", n, *wilson(share * n, n)
        ),
        Measurement(
            "largest", largest, "", "tokens of the top entry", "share of the tokens of the most used entry", n, *wilson(largest * n, n)
        ),
    ]  # fmt: skip
    fit = zipf_fit(counts)
    if fit is not None:
        rows += [
            Measurement(
                "zipf", fit.exponent, "", "Zipf exponent",
                "s of p_r ~ r^-s over ranks 1..K by greatest likelihood; 0 is even use, words of a language have about 1", n,
                fit.exponent - Z95 * fit.error, fit.exponent + Z95 * fit.error,
            ),
            Measurement("zipf_r2", fit.r2, "", "Zipf fit R2", "squared correlation of log count and log rank", n),
        ]  # fmt: skip
    return rows


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
