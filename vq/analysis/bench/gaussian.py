"""Distortion of codebooks on N(0, 1), held out, against Shannon's limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vq.codebooks import Codebook, build

_FIT_VECTORS = 300_000  # numbers, not vectors, that an unfitted table learns from, at the least
_CHUNK = 1 << 16
_STREAM = (
    0x5EED0000  # fresh numbers come from seeds (32 bits count) that no shipped table was trained on
)


def measure(codebook: Codebook, samples: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Mean squared error of a codebook on fresh N(0, 1) numbers.

    The error is divided by the sample's own power, which takes the sampling noise of the power out.
    A codebook without a table is fitted first, on other numbers.

    Args:
        codebook: of any family.
        samples: numbers to encode, rounded up to whole vectors; by default as many as take seconds.
        seed: of the numbers; fitting takes another stream.

    Returns:
        ``codebook`` (spec text), ``rate`` (bits a number), ``mse``, ``gap_db`` (above Shannon's
        ``4^-rate``), ``samples``.
    """
    generator = torch.Generator().manual_seed(_STREAM + seed)
    if not codebook.fitted:
        _fit(codebook, torch.Generator().manual_seed(seed + 1_000_003))
    vectors = -(-(samples or _default_samples(codebook)) // codebook.dim)
    error = power = 0.0
    step = max(1, _CHUNK // codebook.dim)
    for start in range(0, vectors, step):
        x = torch.randn(min(step, vectors - start), codebook.dim, generator=generator)
        error += float((x - codebook(x)).double().square().sum())
        power += float(x.double().square().sum())
    mse = error / power
    return {
        "codebook": str(codebook.spec),
        "rate": codebook.rate,
        "mse": mse,
        "gap_db": gap_db(mse, codebook.rate),
        "samples": vectors * codebook.dim,
    }


def _default_samples(codebook: Codebook) -> int:
    """4 million numbers for small tables, fewer where the search is long; never below 262,144."""
    memory = codebook.spec.get("memory")
    if isinstance(memory, int):
        return 1 << min(20, max(18, 32 - memory))
    return 1 << (22 if (codebook.entries or 0) <= 256 else 20)


def gap_db(mse: float, rate: float) -> float:
    """Decibels above Shannon's limit ``D(R) = 4^-R`` for a unit-variance Gaussian source."""
    return 10 * math.log10(mse * 4**rate)


def measure_all(
    specs: Iterable[str],
    samples: int | None = None,
    seed: int = 0,
    done: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """``measure`` for each spec in turn; ``done`` hears of each row."""
    rows = []
    for spec in specs:
        rows.append(measure(build(spec), samples, seed))
        if done is not None:
            done(rows[-1])
    return rows


def _fit(codebook: Codebook, generator: torch.Generator) -> None:
    vectors = max(_FIT_VECTORS // codebook.dim, 64 * codebook.table_entries)
    x: Tensor = torch.randn(vectors, codebook.dim, generator=generator)
    codebook.fit(x, generator=generator)
