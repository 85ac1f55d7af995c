"""What codes tell of labels: phones, classes, factors of variation.

Reference:
    W.-N. Hsu et al., "HuBERT" (2021), section IV-C (purity, PNMI); K. Hsu et al., "Disentanglement via latent
    quantization" (2023), section 4 (InfoM, InfoC, InfoE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vq.analysis.catalogue import measured
from vq.analysis.measures.explicitness import explicitness
from vq.analysis.measures.stream import SAMPLE
from vq.analysis.model import Matrix, Measurement, Section
from vq.analysis.statistics.estimators import Z95, Spectrum, entropy_plugin, wilson
from vq.analysis.statistics.information import pointwise
from vq.analysis.statistics.intervals import around, chance_error, half_width, of_ratio
from vq.analysis.subject import Chunk, Codes
from vq.errors import VqError

_TOKENS = 1 << 16  # from which the intervals of modularity and compactness are made
_STEP = 1e-5
_ACTIVE = 1e-3  # bits of entropy from which a code counts as used


class LabelCounter:
    """Keeps codes with labels, evenly spread, up to a bound.

    Args:
        labels: integers ``(positions,)`` or ``(positions, factors)``; negative for none.
        entries: of the codes.

    Raises:
        VqError: for labels that are no integers or of another shape.
    """

    def __init__(self, labels: np.ndarray, entries: tuple[int, ...]) -> None:
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim not in (1, 2):
            raise VqError(
                "labels: expected integers (positions,) or (positions, factors), got "
                f"{labels.dtype} {labels.shape}"
            )
        self.labels = labels if labels.ndim == 2 else labels[:, None]
        self.entries = entries
        self._stride = max(len(labels) // SAMPLE, 1)
        self._codes: list[np.ndarray] = []
        self._kept: list[np.ndarray] = []

    def add(self, chunk: Chunk, position: int) -> None:
        """Keep every so many positions."""
        first = -position % self._stride
        codes = chunk.codes[:, first :: self._stride]
        rows = self.labels[position + first : position + chunk.codes.shape[1] : self._stride]
        if codes.shape[1] == len(rows):
            self._codes.append(codes.astype(np.int64))
            self._kept.append(rows.astype(np.int64))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes ``(n, Q)`` and labels ``(n, factors)``, nothing negative."""
        if not self._codes:
            return np.zeros((0, len(self.entries)), np.int64), np.zeros((0, 1), np.int64)
        codes, labels = np.concatenate(self._codes, 1).T, np.concatenate(self._kept)
        kept = (codes >= 0).all(1) & (labels >= 0).all(1)
        return codes[kept], labels[kept]


def labels_section(counter: LabelCounter, streams: Codes, seed: int = 0) -> Section:
    """Everything about labels."""
    codes, labels = counter.result()
    n = len(codes)
    rows = [measured("labelled", n)]
    if not n:
        return Section(
            "labels", "Codes and labels", "", tuple(rows), notes=("no position has a label",)
        )
    generator = np.random.default_rng(seed)
    whole, first = _joined(codes), labels[:, 0]
    if labels.shape[1] == 1:
        rows += _clusters(whole, first, generator)
    told = tell(labels, codes, generator)
    table = told.table
    factors = [f"factor {i}" for i in range(labels.shape[1])]
    names = tuple(streams.name(q) or "code" for q in range(codes.shape[1]))
    matrix = Matrix(
        "label_information",
        "What codes tell of factors",
        tuple(factors),
        names,
        tuple(tuple(float(v) for v in row) for row in table),
        "",
        "mutual information less that of shuffled labels, over the entropy of the factor",
    )
    if labels.shape[1] > 1:
        active = [entropy_plugin(Spectrum.of(np.bincount(c))) > _ACTIVE for c in codes.T]
        rows += told.concentrations(np.array(active), n)
    rows.append(explicitness(codes, labels, generator))
    return Section("labels", "Codes and labels", "", tuple(rows), (), (matrix,))


def _joined(codes: np.ndarray) -> np.ndarray:
    """One number for each combination of codes that occurs."""
    if codes.shape[1] == 1:
        return codes[:, 0]
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def _clusters(
    codes: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> list[Measurement]:
    n = len(codes)
    shuffled = generator.permutation(labels)
    joint, chance = contingency(labels, codes), contingency(shuffled, codes)
    rows = [
        measured(key, hits / n, n, wilson(hits, n))
        for key, hits in (
            ("purity", float(joint.max(0).sum())),
            ("purity_chance", float(chance.max(0).sum())),
            ("label_purity", float(joint.max(1).sum())),
        )
    ]
    whole, by_chance = pointwise(labels, codes), information(chance)
    each, both = whole.information, whole.first + whole.second
    mi = max(float(each.mean()), 0.0)
    pnmi, half = 0.0, 0.0
    of_labels = float(whole.first.mean())
    if of_labels:
        pnmi = (mi - by_chance) / of_labels
        noise = math.sqrt(2) * Z95 * chance_error(*whole.types, n) / of_labels
        half = math.hypot(half_width((each - pnmi * whole.first) / of_labels), noise)
    rows.append(measured("pnmi", pnmi, n, around(pnmi, half, -1.0, 1.0)))
    # of homogeneity mi / H(labels) and completeness mi / H(codes), the harmonic mean
    total = float(both.mean())
    value, wide = (2 * mi / total, 2 * of_ratio(each, both)) if total else (1.0, 0.0)
    rows.append(measured("v_measure", value, n, around(value, wide, 0.0, 1.0)))
    return rows


def contingency(labels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Joint counts ``(labels, codes)`` of the values that occur."""
    rows, columns = (np.unique(x, return_inverse=True)[1].reshape(-1) for x in (labels, codes))
    width = int(columns.max()) + 1
    flat = np.bincount(rows * width + columns, minlength=(int(rows.max()) + 1) * width)
    return flat.reshape(-1, width)


def information(joint: np.ndarray) -> float:
    """Plug-in mutual information in bits of a table of joint counts."""
    parts = (joint.sum(0), joint.sum(1), joint.reshape(-1))
    a, b, both = (entropy_plugin(Spectrum.of(part)) for part in parts)
    return max(a + b - both, 0.0)


def nmi_matrix(labels: np.ndarray, codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Information of each factor and each code over the factor's entropy ``(factors, Q)``, chance taken off."""
    return tell(labels, codes, generator).table


@dataclass(frozen=True, eq=False)
class Told:
    """What codes tell of factors.

    Attributes:
        table: information over the factor's entropy ``(factors, Q)``, chance taken off.
        moves: by how much some of the tokens move each number of it ``(factors, Q, tokens)``.
    """

    table: np.ndarray
    moves: np.ndarray

    def concentrations(self, active: np.ndarray, n: int) -> list[Measurement]:
        """Modularity and compactness over the codes in use ``(Q,)``."""
        table, moves = self.table[:, active], self.moves[:, active]
        value = info_mc(table)
        slopes = np.zeros((2, *table.shape))
        for place in np.ndindex(*table.shape):
            step = np.zeros_like(table)
            step[place] = _STEP
            slopes[(slice(None), *place)] = np.subtract(
                info_mc(table + step), info_mc(np.maximum(table - step, 0.0))
            ) / (min(float(table[place]), _STEP) + _STEP)
        each = np.einsum("mfq,fqn->mn", slopes, moves)
        return [
            measured(key, v, n, around(v, half_width(e) * math.sqrt(len(e) / n), 0.0, 1.0))
            for key, v, e in zip(("modularity", "compactness"), value, each, strict=True)
        ]


def tell(labels: np.ndarray, codes: np.ndarray, generator: np.random.Generator) -> Told:
    """What each code ``(n, Q)`` tells of each factor ``(n, factors)``."""
    every = max(len(labels) // _TOKENS, 1)
    found = np.zeros((labels.shape[1], codes.shape[1]))
    moves = np.zeros((*found.shape, len(labels[::every])))
    for i, label in enumerate(labels.T):
        shuffled = generator.permutation(label)
        for j, code in enumerate(codes.T):
            whole = pointwise(label, code)
            entropy = float(whole.first.mean()) if len(whole.first) else 0.0
            if not entropy:
                continue
            gain = float(whole.information.mean()) - information(contingency(shuffled, code))
            found[i, j] = max(gain, 0.0) / entropy
            if gain > 0:
                each = whole.information - found[i, j] * whole.first
                moves[i, j] = (each / entropy)[::every]
    return Told(found, moves)


def info_mc(table: np.ndarray) -> tuple[float, float]:
    """Modularity and compactness of a table of information ``(factors, codes in use)``, each 0 to 1."""
    factors, codes = table.shape
    if not factors or not codes:
        return 0.0, 0.0
    by_code = _concentration(table.T, factors)
    by_factor = _concentration(table, codes)
    return by_code, by_factor


def _concentration(rows: np.ndarray, width: int) -> float:
    """Mean over rows of the largest share, 0 where all shares are alike and 1 where there is one."""
    if width == 1:
        return 1.0
    sums = rows.sum(1)
    telling = sums > 1e-6
    if not telling.any():
        return 0.0
    share = rows[telling].max(1) / sums[telling]
    return float(((share - 1 / width) / (1 - 1 / width)).mean())
