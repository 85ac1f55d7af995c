"""Rate and distortion of a codebook on vectors, against Shannon."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.measures.coded import Coded, decibels, rows_of
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.statistics.estimators import (
    Spectrum,
    entropy_chao_shen,
    entropy_miller_madow,
    wilson,
)
from vq.analysis.statistics.information import surprise
from vq.analysis.statistics.intervals import around, half_width, of_median, of_ratio
from vq.analysis.subject import Subject
from vq.codebooks.nearest import search


def rate_section(coded: Coded, subject: Subject) -> Section:
    """Distortion and its distance from Shannon at the nominal and at the entropy rate."""
    n, dim = coded.x.shape
    mse, variance = coded.mse, coded.variance
    nominal = sum(math.log2(k) for k in coded.entries) / dim
    if coded.codes is None:
        nominal = float(subject.facts["rate"])
    errors = (coded.x - coded.values[-1]).square().mean(1)
    half = 1.96 * float(errors.std()) / math.sqrt(n) if n > 1 else 0.0
    noise = 10 / math.log(10) * half / max(mse, 1e-300)
    gap = decibels(mse, variance * 4**-nominal)
    rows = [
        measured("rate", nominal),
        measured("mse", mse, n, (max(mse - half, 0.0), mse + half)),
        measured("snr", decibels(variance, mse), n, _around(decibels(variance, mse), noise)),
        measured("gap", gap, n, _around(gap, noise)),
    ]
    eigenvalues = _eigenvalues(coded.x)
    gaussian = decibels(mse, water_filling(eigenvalues, nominal * dim) / dim)
    rows.append(measured("gap_gaussian", gaussian, n, _around(gaussian, noise)))
    entropy = None
    histogram: tuple[Series, ...] = ()
    if coded.codes is not None:
        entropy, more = _entropy_rate(coded, mse, variance, noise)
        margins, histogram = _margins(coded, subject)
        rows += more + margins + _match(coded)
    series = (_plane(nominal, entropy, mse / variance), *histogram)
    return Section("rate", "Rate and distortion", "", tuple(rows), series)


def _around(value: float, half: float) -> tuple[float, float]:
    return value - half, value + half


def _eigenvalues(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(x)).clamp_min(0)


def water_filling(eigenvalues: Tensor, bits: float) -> float:
    """Least total distortion of a Gaussian vector with these variances at so many bits: ``sum min(level, variance)``.

    Reference:
        T. Cover, J. Thomas, "Elements of information theory" (2006), theorem 10.3.3.
    """
    variances = eigenvalues.double().clamp_min(1e-300)
    low, high = -700.0, math.log(float(variances.max()))
    for _ in range(80):
        level = math.exp((low + high) / 2)
        need = 0.5 * float((variances / level).log2().clamp_min(0).sum())
        low, high = ((low + high) / 2, high) if need > bits else (low, (low + high) / 2)
    return float(variances.clamp_max(math.exp(high)).sum())


def _entropy_rate(
    coded: Coded, mse: float, variance: float, noise: float
) -> tuple[float, list[Measurement]]:
    assert coded.codes is not None
    n, dim = coded.x.shape
    bits = other = most = 0.0
    spent = np.zeros(n)
    for q, entries in enumerate(coded.entries):
        column = coded.codes[:, q].numpy()
        use = Spectrum.of(np.bincount(column, minlength=entries))
        bits += min(entropy_chao_shen(use), math.log2(entries))
        other += entropy_miller_madow(use)
        most += math.log2(entries)
        spent += surprise(column)
    half = half_width(spent)
    low, high = max(min(bits, other) - half, 0.0), min(max(bits, other) + half, most)
    gap = decibels(mse, variance * 4 ** (-bits / dim))
    wide = math.hypot(noise, 20 * math.log10(2) * (high - low) / 2 / dim)
    return bits / dim, [
        measured("coded_bits", bits, n, (low, high)),
        measured("entropy_rate", bits / dim, n, (low / dim, high / dim)),
        measured("gap_entropy", gap, n, _around(gap, wide)),
    ]


def _margins(coded: Coded, subject: Subject) -> tuple[list[Measurement], tuple[Series, ...]]:
    """How clear the choice of the last code is."""
    table = subject.tables[-1]
    rest = coded.x - (coded.values[-2] if len(coded.values) > 1 else 0)
    if subject.structure == "grouped":
        rest = coded.x[:, -table.values.shape[1] :]
    rows = rows_of(table)
    if len(rows) < 2:
        return [], ()
    x = rest.float()
    if table.cosine:
        x = torch.nn.functional.normalize(x, dim=1)
    found = search(x.contiguous(), rows, margin=True)
    assert found.margins is not None
    least = (x - rows[found.codes[:, 0].long()]).square().sum(1).clamp_min(1e-30)
    ratio = found.margins.clamp_min(0) / least
    ties = int((ratio < 0.01).sum())
    found_rows = [
        measured("margin", float(ratio.median()), len(x), of_median(ratio.numpy())),
        measured("near_ties", ties / len(x), len(x), wilson(ties, len(x))),
    ]
    return found_rows, (_histogram(ratio),)


def _histogram(ratio: Tensor) -> Series:
    """How many vectors have which margin."""
    bins, top = 40, 4.0
    counts = torch.histc(ratio.clamp_max(top), bins, 0, top)
    columns = {
        "margin": tuple((i + 0.5) * top / bins for i in range(bins)),
        "vectors": tuple(int(c) for c in counts),
    }
    about = (
        "(d2 - d1) / d1 of the squared distances to the nearest and the second nearest entry; how many have it, "
        f"the last with all from {top:g} on; a heap at 0 means codes that a little noise changes"
    )
    return Series("margins", "Margins", columns, about)


def _match(coded: Coded) -> list[Measurement]:
    """Whether values lie where the data lie."""
    n = len(coded.x)
    values = coded.values[-1]
    spread = math.sqrt(coded.variance * coded.x.shape[1])
    apart = coded.x - values
    shift = float(apart.mean(0).norm())
    rows = ((x - x.mean(0)).square().sum(1).numpy() for x in (values, coded.x))
    mine, theirs = rows
    own = math.sqrt(float(mine.mean()))
    if not spread:
        return [measured("mean_shift", 0.0, n), measured("spread_ratio", 0.0, n)]
    along = apart @ (apart.mean(0) / max(shift, 1e-300))
    ratio = own / spread
    half = 0.0 if not own else 0.5 * of_ratio(mine, theirs) / ratio  # of a root: half the square's
    return [
        measured(
            "mean_shift",
            shift / spread,
            n,
            around(shift / spread, half_width(along.numpy()) / spread, 0.0),
        ),
        measured("spread_ratio", ratio, n, around(ratio, half, 0.0)),
    ]


def _plane(nominal: float, entropy: float | None, distortion: float) -> Series:
    columns: dict[str, tuple[float | str | None, ...]] = {
        "rate": (nominal,) if entropy is None else (nominal, entropy),
        "distortion": (distortion,) if entropy is None else (distortion, distortion),
        "what": ("nominal",) if entropy is None else ("nominal", "entropy coded"),
    }
    about = "bits a dimension; mean squared error over variance; Shannon's line is 4^-rate"
    return Series("rd", "Rate and distortion", columns, about)
