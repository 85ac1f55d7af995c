"""What codes tell of labels: phones, classes, factors of variation.

Reference:
    W.-N. Hsu et al., "HuBERT" (2021), section IV-C (purity, PNMI); K. Hsu et al., "Disentanglement via latent
    quantization" (2023), section 4 (InfoM, InfoC, InfoE).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.estimators import Spectrum, entropy_plugin, wilson
from vq.analysis.model import Matrix, Measurement, Section
from vq.analysis.stream import SAMPLE
from vq.analysis.subject import Chunk, Codes
from vq.errors import VqError

_MOST_VALUES = 1 << 12  # one-hot columns of the regression
_ROWS = 1 << 14  # tokens of the regression
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
    table = nmi_matrix(labels, codes, generator)
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
        modularity, compactness = info_mc(table[:, active])
        rows += [measured("modularity", modularity, n), measured("compactness", compactness, n)]
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
    joint = contingency(labels, codes)
    chance = contingency(generator.permutation(labels), codes)
    purity = float(joint.max(0).sum()) / n
    mi, by_chance = (information(t) for t in (joint, chance))
    of_labels, of_codes = (entropy_plugin(Spectrum.of(joint.sum(axis))) for axis in (1, 0))
    homogeneous = mi / of_labels if of_labels else 1.0
    complete = mi / of_codes if of_codes else 1.0
    both = homogeneous + complete
    return [
        measured("purity", purity, n, wilson(purity * n, n)),
        measured("purity_chance", float(chance.max(0).sum()) / n, n),
        measured("label_purity", float(joint.max(1).sum()) / n, n),
        measured("pnmi", (mi - by_chance) / of_labels if of_labels else 0.0, n),
        measured("v_measure", 2 * homogeneous * complete / both if both else 0.0, n),
    ]


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
    found = np.zeros((labels.shape[1], codes.shape[1]))
    for i, label in enumerate(labels.T):
        entropy = entropy_plugin(Spectrum.of(np.bincount(label)))
        shuffled = generator.permutation(label)
        for j, code in enumerate(codes.T):
            gain = information(contingency(label, code)) - information(contingency(shuffled, code))
            found[i, j] = max(gain, 0.0) / entropy if entropy else 0.0
    return found


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


def explicitness(
    codes: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> Measurement:
    """How well a logistic regression on the codes (one column for each value) tells each factor, on held-out tokens."""
    values = [np.unique(c, return_inverse=True)[1].reshape(-1) for c in codes.T]
    widths = [int(v.max()) + 1 for v in values]
    if sum(widths) > _MOST_VALUES:
        note = f"{sum(widths)} values of codes; the regression takes up to {_MOST_VALUES}"
        return measured("explicitness", None, len(codes), note=note)
    picks = generator.permutation(len(codes))[:_ROWS]
    offsets = np.concatenate([[0], np.cumsum(widths)[:-1]])
    columns = torch.from_numpy(np.stack(values, 1)[picks] + offsets)
    half = len(picks) // 2
    if half < 2:
        return measured("explicitness", None, len(codes), note="too few labelled tokens")
    scores = []
    for label in labels.T:
        target = torch.from_numpy(np.unique(label, return_inverse=True)[1].reshape(-1)[picks])
        if int(target.max()) == 0:
            continue
        scores.append(_score(columns, target, sum(widths), half))
    if not scores:
        return measured("explicitness", None, len(codes), note="every factor has one value alone")
    return measured("explicitness", float(np.mean(scores)), len(picks) - half)


def _score(columns: Tensor, target: Tensor, width: int, half: int) -> float:
    """``1 - H(model) / H(constant)`` on the second half, of a model learned on the first."""
    classes = int(target.max()) + 1
    weight = torch.zeros(width, classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

    def logits(rows: Tensor) -> Tensor:
        return torch.nn.functional.embedding_bag(rows, weight, mode="sum") + bias

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(columns[:half]), target[:half])
        loss = loss + weight.square().sum() * (0.05 / half)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        model = float(torch.nn.functional.cross_entropy(logits(columns[half:]), target[half:]))
    counts = torch.bincount(target[:half], minlength=classes).double() + 0.5
    constant = -float((counts / counts.sum()).log()[target[half:]].mean())
    return max(1 - model / constant, 0.0) if constant > 1e-9 and math.isfinite(model) else 0.0
