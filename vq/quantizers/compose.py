"""What lets quantizers stand inside others: gradients in two lanes."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vq.quantizers.base import Quantized, Quantizer, check_input
from vq.quantizers.estimators import estimator as find_estimator
from vq.quantizers.passing import everything


class Composable(Quantizer):
    """A quantizer whose losses and whose values can send their gradients to different tensors.

    In a sum of stages the losses of a later stage must reach the encoder, but the gradient of the sum must reach it
    once, not once a stage. So a container hands a stage its input twice: ``x`` for the losses, and ``through``, the
    same numbers, for the gradient estimator.

    Parameters and buffers stay float32 whatever the module is cast to.
    """

    @abc.abstractmethod
    def run(self, x: Tensor, through: Tensor, mask: Tensor | None = None) -> Quantized:
        """As ``forward``; gradients of the losses go to ``x``, those of the values to ``through``, equal numbers."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize ``(*batch, dim)``; see ``Quantizer``.

        Raises:
            ValueError: for a wrong last dimension, a mask of another shape, or a quantizer that is not ready.
        """
        return self.run(x, x, mask)

    @torch.no_grad()
    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Codes ``(*batch, *codes_shape)`` int64; see ``Quantizer``.

        Raises:
            ValueError: as ``forward``, and for NaN or infinity that no mask hides, with its index.
        """
        check_input(self.kind, x, self.dim, mask)
        self._check_ready()
        check_finite(self.kind, x, mask)
        return self._encode(x, mask)

    @abc.abstractmethod
    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Codes of an input that was checked, without gradient."""

    def _check_ready(self) -> None:
        if not torch.compiler.is_compiling() and not self.ready:
            raise ValueError(f"{self.kind}: not ready; call start(features) or load a checkpoint")

    def _check_stages(self, stages: int | None) -> int:
        """The number of stages to decode.

        Raises:
            ValueError: for a number there is not.
        """
        count = self.stages if stages is None else stages
        if not isinstance(count, int) or not 1 <= count <= self.stages:
            raise ValueError(f"{self.kind}: stages must be 1 to {self.stages}, got {stages!r}")
        return count

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move to another device, but never to another floating-point type."""

        def same_type(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(same_type, recurse)


def run_part(part: Quantizer, x: Tensor, through: Tensor, mask: Tensor | None) -> Quantized:
    """Run a quantizer inside another one; see ``Composable``.

    A kind that does not know two lanes gives its losses to x and no gradient from its values.
    """
    if isinstance(part, Composable):
        return part.run(x, through, mask)
    found: Quantized = part(x, mask)
    return found if through is x else dataclasses.replace(found, values=found.values.detach())


class _Also(torch.autograd.Function):
    """Forward the first, backward the gradient to both."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, total: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], grads[0]


def carry(estimator: str, through: Tensor, total: Tensor) -> Tensor:
    """``total`` to the bit; its gradient goes to ``through`` by the estimator, and to what made ``total``."""
    values = find_estimator(estimator)(through, total.detach())
    found: Tensor = _Also.apply(values, total)
    return found


def clean(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The input as float32 with zeros where it does not count, what counts, and how many vectors were not finite.

    A float32 input that counts everywhere comes back as it is: nothing may write to it.

    Returns:
        ``(*batch, dim)``, bool ``(*batch,)`` and a scalar.
    """
    full = x.float()
    finite = torch.isfinite(torch.linalg.vector_norm(full, dim=-1))
    wanted = torch.ones_like(finite) if mask is None else mask
    valid = finite & wanted
    if not everything(valid):
        full = torch.where(valid[..., None], full, 0.0)
    return full, valid, (wanted & ~finite).sum()


def check_finite(kind: str, x: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError for NaN or infinity where the mask counts, with the first index."""
    bad = ~torch.isfinite(x)
    if mask is not None:
        bad &= mask[..., None]
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(f"{kind}: x[{index}] is {float(x[index])}; expected finite numbers")
