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
        return turned(grads[0], x, values), None


def turned(grad: Tensor, x: Tensor, values: Tensor) -> Tensor:
    """A gradient of values ``(..., dim)`` as the rotation trick hands it to x; a tensor of its own."""
    grad, z, q = grad.float(), x.float(), values.float()
    z_norm, q_norm = z.norm(dim=-1, keepdim=True), q.norm(dim=-1, keepdim=True)
    u, v = 1 / z_norm.clamp_min(_TINY), 1 / q_norm.clamp_min(_TINY)
    cosine, along_z, along_q = _dot(z, q) * u * v, _dot(z, grad) * u, _dot(q, grad) * v
    middle = 2 + 2 * cosine  # |z/|z| + q/|q||²
    # lambda (I - 2 r r^T + 2 u v^T) grad with r along z/|z| + q/|q|: a sum of grad, z and q
    reflected = 2 * (along_z + along_q) / middle.clamp_min(_TINY)
    scale = q_norm * u
    sound = (z_norm > 1e-6) & (q_norm > 1e-6) & (middle > 1e-4)
    one, none = torch.ones_like(scale), torch.zeros_like(scale)
    found = grad * torch.where(sound, scale, one)
    found.addcmul_(z, torch.where(sound, scale * (2 * along_q - reflected) * u, none))
    found.addcmul_(q, torch.where(sound, -scale * reflected * v, none))
    return found.to(x.dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows, ``(..., 1)``."""
    return torch.linalg.vecdot(a, b).unsqueeze(-1)


def straight_through(x: Tensor, values: Tensor) -> Tensor:
    """``values``, with the gradient handed to x unchanged.

    Reference:
        A. van den Oord, O. Vinyals, K. Kavukcuoglu, "Neural discrete representation learning" (2017), section 3.2.
    """
    found: Tensor = _Straight.apply(x, values)
    return found


def rotation_trick(x: Tensor, values: Tensor) -> Tensor:
    """``values``, with the gradient rotated and scaled by the map that takes x to them.

    Where a norm is zero or the two point in opposite directions (to half a degree), the gradient passes unchanged.

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
