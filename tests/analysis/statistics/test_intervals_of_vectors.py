"""Intervals of what two subjects have in common, and of what a table does to vectors, by repeated samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vq.analysis.measures.coded import code_vectors, stage_curve
from vq.analysis.measures.compare import _agreement, _alignment, _divergence
from vq.analysis.measures.rate import rate_section
from vq.analysis.measures.stages import _redundancy
from vq.analysis.measures.stream import UseCounter
from vq.analysis.statistics.estimators import Z95
from vq.analysis.statistics.information import surprise
from vq.analysis.subject import Chunk, Subject, Table

TRIES = 50


def alike(draw, rel: float = 0.35) -> None:
    """Measurements of repeated samples spread as their intervals say."""
    found = [draw(np.random.default_rng(seed)) for seed in range(TRIES)]
    shown = Z95 * float(np.std([m.value for m in found], ddof=1))
    claimed = float(np.median([(m.high - m.low) / 2 for m in found]))
    assert claimed == pytest.approx(shown, rel=rel)


def linked(g: np.random.Generator, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    a = g.integers(0, 8, n)
    return a, np.where(g.random(n) < 0.6, a, g.integers(0, 8, n))


def test_agreement():
    alike(lambda g: _agreement(*linked(g))[0])


def test_divergence_of_use():
    p = np.array([0.4, 0.3, 0.2, 0.1])

    def one(g):
        uses = []
        for share in (p, p[::-1]):
            use = UseCounter(4, 0)
            use.add(Chunk(g.choice(4, (1, 2000), p=share), np.zeros(1, np.int64)), 0)
            uses.append(use)
        return _divergence(*uses)[0]

    alike(one)


def test_alignment():
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))

    def one(g):
        x = torch.from_numpy(g.normal(size=(600, 4)))
        return _alignment(x, x @ mix.double() + torch.from_numpy(g.normal(size=(600, 4))), "")

    alike(one, 0.5)


def test_redundancy():
    def one(g):
        return _redundancy(np.stack(linked(g)))

    alike(one)


TABLES = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(5))


def coded(g: np.random.Generator):
    tables = (Table("stage 0", TABLES[0]), Table("stage 1", 0.5 * TABLES[1]))
    subject = Subject("codebook", "x", None, tables=tables, structure="residual")  # type: ignore[arg-type]
    x = torch.from_numpy(g.normal(size=(800, 3)).astype("f4")) + 0.3
    return code_vectors(subject, x), subject


@pytest.mark.parametrize("key", ["mse", "snr", "coded_bits", "mean_shift", "spread_ratio"])
def test_what_a_table_does_to_vectors(key):
    # the interval of the coded bits also spans two estimates; that of snr takes the variance as known
    alike(lambda g: rate_section(*coded(g)).get(key), 0.6 if key in ("coded_bits", "snr") else 0.35)


def test_gain_of_stages():
    found = [stage_curve(coded(np.random.default_rng(seed))[0]) for seed in range(TRIES)]
    for stage in range(2):
        shown = Z95 * float(np.std([c.gain[stage] for c in found], ddof=1))
        assert np.median([c.gain_half[stage] for c in found]) == pytest.approx(shown, rel=0.35)
    shown = Z95 * float(np.std([c.snr[-1] for c in found], ddof=1))
    assert np.median([c.half for c in found]) == pytest.approx(shown, rel=0.35)


def test_surprise_is_the_plug_in_entropy():
    keys = np.array([5, 5, 9, 1 << 40])
    assert surprise(keys).tolist() == [1, 1, 2, 2]
    assert surprise(keys.astype(np.uint64)).mean() == 1.5 and not len(surprise(keys[:0]))
