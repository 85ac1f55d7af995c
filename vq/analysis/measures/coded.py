"""Vectors through a codebook: codes, values by stage, signal to noise as stages are added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vq.analysis.statistics.intervals import of_decibels
from vq.analysis.subject import Subject, Table
from vq.codebooks.nearest import search

MOST_VECTORS = 1 << 16
_CHUNK = 1 << 14


@dataclass(frozen=True)
class StageCurve:
    """Signal to noise as stages are added.

    Attributes:
        snr: up to each stage, dB.
        gain: of each, dB.
        bits: of each, a dimension.
        per_bit: gain over bits, dB.
        n: vectors.
        gain_half: half of the 95 % interval of each gain, dB.
        half: of that of the signal to noise by all stages.
    """

    snr: tuple[float, ...]
    gain: tuple[float, ...]
    bits: tuple[float, ...]
    per_bit: tuple[float, ...]
    n: int
    gain_half: tuple[float, ...]
    half: float


@dataclass(frozen=True, eq=False)
class Coded:
    """Vectors and what a codebook makes of them.

    Attributes:
        x: ``(n, dim)`` float64.
        codes: ``(n, Q)`` int64; None where only values are known.
        values: by stages used, each ``(n, dim)``; the last uses all.
        entries: of each code.
    """

    x: Tensor
    codes: Tensor | None
    values: tuple[Tensor, ...]
    entries: tuple[int, ...]

    @property
    def mse(self) -> float:
        """Mean squared error a dimension."""
        return float((self.x - self.values[-1]).square().mean())

    @property
    def variance(self) -> float:
        """Of the vectors a dimension, mean removed."""
        return float((self.x - self.x.mean(0)).square().mean())


def code_vectors(subject: Subject, vectors: Tensor, seed: int = 0) -> Coded | None:
    """Encode vectors (a sample where there are many) with a subject's codebook; None where it cannot.

    Raises:
        ValueError: for vectors of another length than the codebook's.
    """
    generator = torch.Generator().manual_seed(seed)
    finite = vectors[torch.isfinite(vectors).all(1)]
    if len(finite) > MOST_VECTORS:
        finite = finite[torch.randperm(len(finite), generator=generator)[:MOST_VECTORS]]
    dim = _dim(subject)
    if dim is None or not len(finite):
        return None
    if finite.shape[1] != dim:
        raise ValueError(
            f"vectors: expected length {dim} for {subject.name}, got {finite.shape[1]}"
        )
    x = finite.float()
    if not subject.tables:
        assert subject.quantize is not None
        values = torch.cat([subject.quantize(part) for part in x.split(_CHUNK)]).double()
        return Coded(x.double(), None, (values,), ())
    codes = _codes(subject, x)
    steps = _partial(subject.tables, subject.structure, codes)
    return Coded(x.double(), codes, steps, tuple(len(t.values) for t in subject.tables))


def _dim(subject: Subject) -> int | None:
    if not subject.tables:
        return None if subject.quantize is None else int(subject.facts["dim"])
    widths = [t.values.shape[1] for t in subject.tables]
    if subject.structure == "grouped":
        return sum(widths)
    return (
        widths[0]
        if len(set(widths)) == 1 and (len(widths) == 1 or subject.structure == "residual")
        else None
    )


def _codes(subject: Subject, x: Tensor) -> Tensor:
    if subject.encode is not None:
        found = torch.cat([subject.encode(part) for part in x.split(_CHUNK)]).long()
        if found.shape[1] == len(subject.tables):
            return found
    columns, rest, at = [], x, 0
    for table in subject.tables:
        rows = rows_of(table)
        width = rows.shape[1]
        part = rest[:, at : at + width] if subject.structure == "grouped" else rest
        looked = torch.nn.functional.normalize(part, dim=1) if table.cosine else part
        code = search(looked.contiguous(), rows).codes[:, 0].long()
        columns.append(code)
        if subject.structure == "grouped":
            at += width
        else:
            rest = rest - rows[code]
    return torch.stack(columns, 1)


def rows_of(table: Table) -> Tensor:
    """Code vectors as they are used: of length 1 where directions alone count."""
    return torch.nn.functional.normalize(table.values, dim=1) if table.cosine else table.values


def _partial(tables: tuple[Table, ...], structure: str, codes: Tensor) -> tuple[Tensor, ...]:
    """Values by the first stages; of groups only the whole."""
    parts = [rows_of(t).double()[codes[:, i]] for i, t in enumerate(tables)]
    if structure == "grouped":
        return (torch.cat(parts, 1),)
    steps = [parts[0]]
    for part in parts[1:]:
        steps.append(steps[-1] + part)
    return tuple(steps)


def stage_curve(coded: Coded) -> StageCurve | None:
    """Signal to noise by stage; None for a single one."""
    if len(coded.values) < 2:
        return None
    dim = coded.x.shape[1]
    each = [(coded.x - v).square().mean(1).numpy() for v in coded.values]
    signal = (coded.x - coded.x.mean(0)).square().mean(1).numpy()
    snr = [decibels(coded.variance, float(e.mean())) for e in each]
    gain = [b - a for a, b in zip([0.0, *snr], snr, strict=False)]
    bits = [math.log2(entries) / dim for entries in coded.entries]
    per_bit = [g / b if b else 0.0 for g, b in zip(gain, bits, strict=True)]
    halves = [of_decibels(a, b) for a, b in pairwise([signal, *each])]
    whole = of_decibels(signal, each[-1])
    n = len(coded.x)
    return StageCurve(tuple(snr), tuple(gain), tuple(bits), tuple(per_bit), n, tuple(halves), whole)


def decibels(signal: float, noise: float) -> float:
    """``10 log10(signal / noise)``, finite whatever they are."""
    return 10 * math.log10(max(signal, 1e-300) / max(noise, 1e-300))
