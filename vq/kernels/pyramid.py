"""The search of pyramid vector quantization, as an operation."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels import dispatch

MAX_PULSES = 2**15 - 1
_GAIN = 1 + 1e-9  # an exchange must help by more than rounding errors
_CHUNK = 1 << 20  # pairs of coordinates the reference holds at a time


def pyramid_search(x: Tensor, pulses: int, weight: Tensor | None = None) -> Tensor:
    """Whole numbers y with ``sum |y| = pulses`` in the direction nearest to each point's.

    Maximises ``(sum w x y)^2 / (sum w y^2)``: starts from the point scaled onto the pyramid and rounded down, adds
    the pulses that are left one by one where each helps most, then moves single pulses while that helps. The lowest
    coordinate wins among equals. The result is a local optimum under exchanges of one pulse, for N(0, I) nearly
    always the best of all.

    Args:
        x: ``(n, dim)`` finite floats; a zero vector gets all pulses in one coordinate.
        pulses: 1 to 32767.
        weight: ``(n, dim)``, not negative, or None.

    Returns:
        int16 ``(n, dim)``.

    Raises:
        ValueError: for shapes or pulses that do not fit.

    Reference:
        T. R. Fischer, "A pyramid vector quantizer", IEEE Trans. Inf. Theory 32 (1986), section IV; J.-M. Valin et al.,
        "High-quality, low-delay music coding in the Opus codec", AES 135 (2013), section 3.3.
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"pyramid_search: expected x (n, dim), got {tuple(x.shape)}")
    if not 1 <= pulses <= MAX_PULSES:
        raise ValueError(f"pyramid_search: expected 1 to {MAX_PULSES} pulses, got {pulses}")
    if weight is not None and weight.shape != x.shape:
        raise ValueError(
            f"pyramid_search: expected weight {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    return _op(
        x.float().contiguous(), None if weight is None else weight.float().contiguous(), pulses
    )


def _score(dot: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm > 0, dot.square() / norm.clamp_min(1e-300), torch.zeros_like(dot))


def _reference(x: Tensor, weight: Tensor | None, pulses: int) -> Tensor:
    step = max(1, _CHUNK // x.shape[1] ** 2)
    out = torch.empty(x.shape, dtype=torch.int16, device=x.device)
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        size = x[rows].double().abs()
        metric = torch.ones_like(size) if weight is None else weight[rows].double()
        count = _exchange(metric * size, metric, _greedy(size, metric, pulses), 2 * pulses)
        out[rows] = torch.where(x[rows] < 0, -count, count).to(torch.int16)
    return out


def _greedy(size: Tensor, metric: Tensor, pulses: int) -> Tensor:
    """Pulses by projection and greedy addition: float64 ``(n, dim)``."""
    total = size.sum(1, keepdim=True)
    factor = torch.where(total > 0, pulses / total.clamp_min(1e-300), torch.zeros_like(total))
    count = (size * factor + 1e-5).floor()
    product = metric * size
    while True:
        rows = (count.sum(1) < pulses).nonzero()[:, 0]
        if not len(rows):
            return count
        y, p, w = count[rows], product[rows], metric[rows]
        dot, norm = (p * y).sum(1, keepdim=True), (w * y * y).sum(1, keepdim=True)
        best = _score(dot + p, norm + w * (2 * y + 1)).argmax(1)
        count[rows, best] += 1


def _exchange(product: Tensor, metric: Tensor, count: Tensor, rounds: int) -> Tensor:
    """Moves of one pulse, the best of each row first, until none helps."""
    dim = count.shape[1]
    active = torch.arange(len(count), device=count.device)
    for _ in range(rounds):
        y, p, w = count[active], product[active], metric[active]
        dot, norm = (p * y).sum(1, keepdim=True), (w * y * y).sum(1, keepdim=True)
        less, shorter = dot - p, norm - w * (2 * y - 1)
        more = shorter.unsqueeze(2) + (w * (2 * y + 1)).unsqueeze(1)
        value = _score(less.unsqueeze(2) + p.unsqueeze(1), more)
        value.masked_fill_((y < 1).unsqueeze(2), -1.0)
        value.diagonal(dim1=1, dim2=2).fill_(-1.0)
        high, pair = value.flatten(1).max(1)
        helps = high > _score(dot, norm)[:, 0] * _GAIN
        active, pair = active[helps], pair[helps]
        if not len(active):
            break
        count[active, pair // dim] -= 1
        count[active, pair % dim] += 1
    return count


def _cpu(x: Tensor, weight: Tensor | None, pulses: int) -> Tensor:
    native = dispatch.native()
    assert native is not None
    x = x.contiguous()
    weight = None if weight is None else weight.contiguous()
    out = torch.empty(x.shape, dtype=torch.int16)
    native.pyramid_search(
        x.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        x.shape[0],
        x.shape[1],
        pulses,
        out.data_ptr(),
        dispatch.threads(),
    )
    return out


def _fake(x: Tensor, weight: Tensor | None, pulses: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int16)


_op = dispatch.declare(
    "pyramid_search(Tensor x, Tensor? weight, int pulses) -> Tensor",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
)
