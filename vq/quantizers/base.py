"""The contract every trainable quantizer keeps."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        values: ``(*batch, dim)`` in the input's dtype. In the forward direction exactly ``decode(codes)``; backward,
            the quantizer's gradient estimator. Zero where masked.
        codes: ``(*batch, *codes_shape)`` int64; -1 where masked, and in stages that were dropped.
        losses: named scalars, before any weight; means over the valid vectors.
        weights: what each loss counts by default, the same keys.
        stats: named detached scalars of this batch, for logs.
    """

    values: Tensor
    codes: Tensor
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    stats: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def loss(self) -> Tensor:
        """Sum of the losses by their weights; zero where there are none."""
        total = self.values.new_zeros((), dtype=torch.float32)
        for name, value in self.losses.items():
            total = total + self.weights.get(name, 1.0) * value
        return total


class Quantizer(nn.Module, abc.ABC):
    """A layer that replaces vectors by those of a codebook and lets gradients through.

    Shapes: vectors are ``(*batch, dim)``, the last axis is the feature; codes are ``(*batch, *codes_shape)`` int64; a
    mask is ``(*batch,)`` bool, True for vectors that count. Code -1 means "nothing": it decodes to zero, so that
    ``decode(forward(x).codes)`` equals ``forward(x).values`` bit for bit, masked or not, with stages dropped or not, in
    train and eval mode, before and after a step, a save and a load.

    For that to hold while a table moves, a training forward only *collects* statistics; the table moves at the start
    of the next training forward (and what was collected is part of the state dict). An eval forward, ``encode`` and
    ``decode`` never change state. All arithmetic is float32, within autocast too.

    Attributes:
        kind: registered name of the class.
    """

    kind: ClassVar[str] = ""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Length of an input vector."""

    @property
    @abc.abstractmethod
    def code_entries(self) -> tuple[int, ...]:
        """How many values each code can take, one number for each code of a vector in row-major order."""

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of the codes of one vector; empty for one index a vector."""
        return ()

    @property
    def stages(self) -> int:
        """How many prefixes ``decode`` knows; 1 where a code cannot be cut short."""
        return 1

    @property
    def ready(self) -> bool:
        """Whether the quantizer can encode now; if not, ``start`` must see data first."""
        return True

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """Keyword arguments, JSON-able, that make an equal layer; ``make(kind, **config)`` inverts it."""

    @abc.abstractmethod
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize ``(*batch, dim)``; see the class.

        Raises:
            ValueError: for a wrong last dimension, a mask of another shape, or a quantizer that is not ready.
        """

    @abc.abstractmethod
    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Codes alone, without gradient and without a change of state; equals ``forward(x).codes`` in eval mode.

        Raises:
            ValueError: as ``forward``, and for NaN or infinity, with its index.
        """

    @abc.abstractmethod
    def decode(self, codes: Tensor, stages: int | None = None) -> Tensor:
        """Values ``(*batch, dim)`` float32 of codes; differentiable in what the quantizer learns.

        Args:
            codes: ``(*batch, *codes_shape)``; -1 counts nothing.
            stages: use this many stages only; None takes all.

        Raises:
            ValueError: for codes out of range or a number of stages there is not.
        """

    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Set everything that wants data, from features ``(n, dim)`` of a warmed-up encoder.

        Distributed, every rank must call it with the same x and seed. Layers with nothing to set do nothing.

        Raises:
            ValueError: for too few vectors, with the number that is needed.
        """

    def extra_repr(self) -> str:
        """The configuration, for ``print(layer)``."""
        return ", ".join(f"{key}={value}" for key, value in self.config().items())


def check_input(name: str, x: Tensor, dim: int, mask: Tensor | None = None) -> None:
    """Raise ValueError unless x is floating point ``(*batch, dim)`` and mask, if any, is bool ``(*batch,)``.

    Looks at shapes and types alone, so that it costs nothing under ``torch.compile``.
    """
    if not x.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got {x.dtype}")
    if x.ndim < 1 or x.shape[-1] != dim:
        raise ValueError(
            f"{name}: expected x of shape (*batch, {dim}) with features last, got {tuple(x.shape)}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:-1]):
        raise ValueError(
            f"{name}: expected a bool mask of shape {tuple(x.shape[:-1])} (True counts), got "
            f"{mask.dtype} {tuple(mask.shape)}"
        )


def check_codes(name: str, codes: Tensor, shape: tuple[int, ...], entries: tuple[int, ...]) -> None:
    """Raise ValueError unless codes are integers ``(*batch, *shape)`` from -1 to their number of entries less 1."""
    depth = len(shape)
    if codes.is_floating_point() or tuple(codes.shape[codes.ndim - depth :]) != shape:
        raise ValueError(
            f"{name}: expected integer codes (*batch, {', '.join(map(str, shape))}), got "
            f"{codes.dtype} {tuple(codes.shape)}"
        )
    limits = torch.tensor(entries, device=codes.device).reshape(shape)
    bad = (codes < -1) | (codes >= limits)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"{name}: codes[{index}] is {int(codes[index])}; expected -1 (nothing) to entries - 1"
        )
