"""What lets quantizers stand inside others: gradients in two lanes, codes side by side, losses together."""

from __future__ import annotations

import abc
import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vq.quantizers.base import Quantized, Quantizer
from vq.quantizers.estimators import estimator as find_estimator
from vq.quantizers.registry import KINDS, make


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
    """x as float32 with zeros where it does not count, what counts, and how many vectors were not finite.

    Returns:
        ``(*batch, dim)``, bool ``(*batch,)`` and a scalar.
    """
    finite = torch.isfinite(x).all(-1)
    wanted = torch.ones_like(finite) if mask is None else mask
    valid = finite & wanted
    full = torch.where(valid[..., None], x.float(), 0.0)
    return full, valid, (wanted & ~finite).sum()


def check_finite(kind: str, x: Tensor, mask: Tensor | None) -> None:
    """Raise ValueError for NaN or infinity where the mask counts, with the first index."""
    bad = ~torch.isfinite(x)
    if mask is not None:
        bad &= mask[..., None]
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(f"{kind}: x[{index}] is {float(x[index])}; expected finite numbers")


def build_part(config: Mapping[str, Any], seed: int = 0) -> Quantizer:
    """The quantizer of ``{"kind": ..., **arguments}``; a kind that takes a seed gets this one if it names none.

    Raises:
        ValueError: if it is not such a dictionary, and as ``make`` raises it.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("kind"), str):
        raise ValueError(
            f"expected a part such as {{'kind': 'fsq', 'levels': [8, 5]}}, got {config!r}"
        )
    arguments = {key: value for key, value in config.items() if key != "kind"}
    cls = KINDS.get(config["kind"])
    if cls is not None and "seed" in inspect.signature(cls.__init__).parameters:
        arguments.setdefault("seed", seed)
    return make(config["kind"], **arguments)


def build_parts(
    name: str, of: Mapping[str, Any] | Sequence[Mapping[str, Any]], count: int | None, seed: int
) -> list[Quantizer]:
    """Quantizers of a list of configurations, or of one and how many; part i has the seed ``seed + i``.

    Raises:
        ValueError: if both numbers differ, or there is no part.
    """
    if isinstance(of, Mapping):
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"{name}: with one part in `of`, say how many, 1 or more; got {count!r}"
            )
        of = [of] * count
    if not isinstance(of, Sequence) or isinstance(of, str) or not of:
        raise ValueError(f"{name}: `of` must be a part or a list of parts, got {of!r}")
    if count not in (None, len(of)):
        raise ValueError(
            f"{name}: `of` lists {len(of)} parts, but their number is given as {count}"
        )
    return [build_part(part, seed + i) for i, part in enumerate(of)]


def part_configs(parts: Sequence[Quantizer]) -> list[dict[str, Any]]:
    """Inverse of ``build_parts``."""
    return [{"kind": part.kind, **part.config()} for part in parts]


class CodeLayout:
    """How the codes of parts stand in one tensor.

    Parts of equal code shapes get an axis in front: ``(parts, *shape)``. Parts of different shapes are laid flat one
    after another: ``(all codes,)``.

    Args:
        parts: quantizers.

    Attributes:
        shape: of all codes of a vector.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        self.shapes = [part.codes_shape for part in parts]
        self.even = len(set(self.shapes)) == 1
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.shape = (len(parts), *self.shapes[0]) if self.even else (sum(self.sizes),)

    def join(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes of the parts, ``(*batch, *their shape)`` each, in one tensor."""
        batch = codes[0].ndim - len(self.shapes[0])
        if self.even:
            return torch.stack(list(codes), dim=batch)
        flat = [c.reshape(*c.shape[:batch], n) for c, n in zip(codes, self.sizes, strict=True)]
        return torch.cat(flat, dim=batch)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Inverse of ``join``."""
        batch = codes.ndim - len(self.shape)
        if self.even:
            return list(codes.unbind(batch))
        pieces = codes.split(self.sizes, dim=batch)
        return [
            c.reshape(*codes.shape[:batch], *s) for c, s in zip(pieces, self.shapes, strict=True)
        ]


def merge_losses(
    found: Sequence[Quantized], label: str
) -> tuple[dict[str, Tensor], dict[str, float], dict[str, Tensor]]:
    """Losses, weights and statistics of parts together.

    A loss is the mean over all parts (zero for those without it) where its weights agree, else one loss for each,
    named ``<loss>_<label><i>``. Statistics are named ``<name>_<label><i>``.
    """
    losses: dict[str, Tensor] = {}
    weights: dict[str, float] = {}
    for name in dict.fromkeys(name for part in found for name in part.losses):
        own = {i: part for i, part in enumerate(found) if name in part.losses}
        counts = {part.weights.get(name, 1.0) for part in own.values()}
        if len(counts) == 1:
            losses[name] = sum_of([part.losses[name] for part in own.values()]) / len(found)
            weights[name] = counts.pop()
            continue
        for i, part in own.items():
            key = f"{name}_{label}{i}"
            losses[key] = part.losses[name] / len(found)
            weights[key] = part.weights.get(name, 1.0)
    stats = {
        f"{name}_{label}{i}": value
        for i, part in enumerate(found)
        for name, value in part.stats.items()
    }
    return losses, weights, stats


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """Sum in order, without a zero in front."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
