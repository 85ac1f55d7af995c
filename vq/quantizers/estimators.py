"""How gradients pass a quantizer: the values go forward untouched, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vq.codebooks.spec import nearest_names

_TINY = 1e-12


class _Straight(torch.autograd.Function):
    """Forward the values, backward the gradient to the input as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].to(ctx.dtype), None


class _Rotation(torch.autograd.Function):
    """Forward the values, backward the gradient turned and scaled from the values' direction to the input's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(x, values)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        x, values = ctx.saved_tensors
        grad, z, q = grads[0].float(), x.float(), values.float()
        z_norm, q_norm = z.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
        u, v = z / z_norm.clamp_min(_TINY), q / q_norm.clamp_min(_TINY)
        middle = u + v
        length = middle.norm(dim=-1, keepdim=True)
        r = middle / length.clamp_min(_TINY)
        # transpose of  lambda (I - 2 r r^T + 2 v u^T)
        turned = (
            grad
            - 2 * r * (r * grad).sum(-1, keepdim=True)
            + 2 * u * (v * grad).sum(-1, keepdim=True)
        )
        turned = turned * (q_norm / z_norm.clamp_min(_TINY))
        sound = (z_norm > 1e-6) & (q_norm > 1e-6) & (length > 1e-6)
        return torch.where(sound, turned, grad).to(x.dtype), None


def straight_through(x: Tensor, values: Tensor) -> Tensor:
    """``values``, with the gradient handed to x unchanged.

    Reference:
        A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural discrete representation learning" (2017), section 3.2.
    """
    found: Tensor = _Straight.apply(x, values)
    return found


def rotation_trick(x: Tensor, values: Tensor) -> Tensor:
    """``values``, with the gradient rotated and scaled by the map that takes x to them.

    Where a norm is zero or the two point in opposite directions, the gradient passes unchanged.

    Reference:
        C. Fifty et al., "Restructuring vector quantization with the rotation trick", ICLR 2025, equation (4) and
        section 4.2: ``q = lambda (x - 2 r (r^T x) + 2 q^ (x^^T x))`` with everything but x held constant.
    """
    found: Tensor = _Rotation.apply(x, values)
    return found


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "straight": straight_through,
    "rotation": rotation_trick,
}


def estimator(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The estimator of a name: ``straight`` or ``rotation``.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"unknown gradient estimator {name!r}; {nearest_names(name, ESTIMATORS)}")
    return ESTIMATORS[name]
