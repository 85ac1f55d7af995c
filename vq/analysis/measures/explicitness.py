"""How well a regression on codes tells factors (InfoE).

Reference:
    K. Hsu et al., "Disentanglement via latent quantization" (2023), section 4.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vq.analysis.catalogue import measured
from vq.analysis.model import Measurement
from vq.analysis.statistics.intervals import around, half_width

_MOST_VALUES = 1 << 12  # one-hot columns of the regression
_ROWS = 1 << 14  # tokens of the regression


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
    scores: list[float] = []
    moves: list[np.ndarray] = []
    for label in labels.T:
        target = torch.from_numpy(np.unique(label, return_inverse=True)[1].reshape(-1)[picks])
        if int(target.max()) == 0:
            continue
        score, move = _score(columns, target, sum(widths), half)
        scores.append(score)
        moves.append(move)
    if not scores:
        return measured("explicitness", None, len(codes), note="every factor has one value alone")
    value, wide = float(np.mean(scores)), half_width(np.mean(moves, axis=0))
    return measured("explicitness", value, len(picks) - half, around(value, wide, 0.0, 1.0))


def _score(columns: Tensor, target: Tensor, width: int, half: int) -> tuple[float, np.ndarray]:
    """``1 - H(model) / H(constant)`` on the second half, of a model learned on the first, and what each token moves."""
    classes = int(target.max()) + 1
    weight = torch.zeros(width, classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

    def logits(rows: Tensor) -> Tensor:
        """Sums of the weights of a token's codes."""
        return torch.nn.functional.embedding_bag(rows, weight, mode="sum") + bias

    def closure() -> Tensor:
        """Loss on the first half with its gradient, as L-BFGS asks for it."""
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(columns[:half]), target[:half])
        loss = loss + weight.square().sum() * (0.05 / half)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        own = torch.nn.functional.cross_entropy(
            logits(columns[half:]), target[half:], reduction="none"
        ).double()
    counts = torch.bincount(target[:half], minlength=classes).double() + 0.5
    plain = -(counts / counts.sum()).log()[target[half:]]
    model, constant = float(own.mean()), float(plain.mean())
    if constant <= 1e-9 or not math.isfinite(model) or model >= constant:
        return 0.0, np.zeros(len(own))
    return 1 - model / constant, ((model / constant * plain - own) / constant).numpy()
