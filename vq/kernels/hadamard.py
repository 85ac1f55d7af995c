"""Block-diagonal Walsh-Hadamard transform with sign flips: ``vq::hadamard``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vq.kernels.dispatch import declare, library, native, threads
from vq.kernels.layouts import unpack_signs


def blocks_of(n: int) -> list[int]:
    """Powers of two of the binary form of n, largest first: 577 = 512 + 64 + 1.

    Raises:
        ValueError: if n is not positive.
    """
    if n < 1:
        raise ValueError(f"n: expected a positive width, got {n}")
    return [1 << bit for bit in range(n.bit_length() - 1, -1, -1) if n >> bit & 1]


def transform(x: Tensor) -> Tensor:
    """Orthonormal block Walsh-Hadamard transform of the last dimension, in x's dtype, plain torch."""
    pieces = []
    for piece in x.split(blocks_of(x.shape[-1]), dim=-1):
        size, half, value = piece.shape[-1], 1, piece
        while half < size:
            pairs = value.reshape(*x.shape[:-1], size // (2 * half), 2, half)
            low, high = pairs[..., 0, :], pairs[..., 1, :]
            value = torch.stack([low + high, low - high], dim=-2)
            half *= 2
        pieces.append(value.reshape(*x.shape[:-1], size) * (1.0 / size**0.5))
    return torch.cat(pieces, dim=-1)


def _working(x: Tensor) -> Tensor:
    """X in the dtype the transform computes in: float64 stays, all else is float32."""
    if not x.is_floating_point():
        raise TypeError(f"hadamard: expected a floating-point tensor, got {x.dtype}")
    return x if x.dtype == torch.float64 else x.float()


def reference(x: Tensor, signs_first: Tensor | None, signs_last: Tensor | None) -> Tensor:
    """``vq::hadamard`` in plain torch."""
    value, n = _working(x), x.shape[-1]
    if signs_first is not None:
        value = value * unpack_signs(signs_first, n)
    value = transform(value)
    if signs_last is not None:
        value = value * unpack_signs(signs_last, n)
    return value.to(x.dtype)


def rotate_(x: Tensor, signs_first: Tensor | None, signs_last: Tensor | None) -> Tensor:
    """The compiled transform in place over contiguous float32 ``(rows, n)`` on the CPU; returns x.

    Raises:
        ValueError: if signs have another size.
    """
    module, n = native(), x.shape[-1]
    assert module is not None and x.is_contiguous() and x.dtype == torch.float32
    address = []
    for signs in (signs_first, signs_last):
        if signs is not None and (signs.dtype != torch.uint8 or signs.shape != ((n + 7) // 8,)):
            raise ValueError(
                f"signs: expected uint8 of shape ({(n + 7) // 8},) for {n} channels, got "
                f"{signs.dtype} of shape {tuple(signs.shape)}"
            )
        address.append(0 if signs is None else signs.contiguous().data_ptr())
    module.hadamard(x.data_ptr(), x.numel() // n, n, *address, threads())
    return x


def _cpu(x: Tensor, signs_first: Tensor | None, signs_last: Tensor | None) -> Tensor:
    if x.dtype == torch.float64 or not x.is_floating_point() or not x.numel():
        return reference(x, signs_first, signs_last)
    work = torch.empty(x.shape, dtype=torch.float32).copy_(x)
    return (
        rotate_(work.reshape(-1, x.shape[-1]), signs_first, signs_last).reshape(x.shape).to(x.dtype)
    )


def _fake(x: Tensor, signs_first: Tensor | None, signs_last: Tensor | None) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


hadamard = declare(
    "hadamard(Tensor x, Tensor? signs_first, Tensor? signs_last) -> Tensor",
    fake=_fake,
    reference=reference,
    cpu=_cpu,
    triton="vq.kernels.triton.hadamard:hadamard",
)
"""``hadamard(x, signs_first, signs_last)``: ``signs_last * H(signs_first * x)`` over the last dimension.

Args:
    x: ``(*batch, n)`` floating point; computed in float64 for float64 and in float32 for all else.
    signs_first, signs_last: uint8 ``(ceil(n / 8),)`` sign bits (``layouts.pack_signs``), or None.

H is block-diagonal, one orthonormal Sylvester matrix per power of two of n's binary form, and its own inverse.
"""


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    first, last = ctx.saved_tensors
    return hadamard(grad, last, first), None, None


torch.library.register_autograd("vq::hadamard", _backward, setup_context=_setup, lib=library)
