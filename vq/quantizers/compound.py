"""Quantizers made of others: their parts, codes side by side, losses together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vq.quantizers.base import Quantized, Quantizer, check_codes
from vq.quantizers.compose import Composable
from vq.quantizers.registry import KINDS, make

Part = Mapping[str, Any]


class Compound(Composable):
    """Base of quantizers with parts of any kind.

    Args:
        parts: quantizers, in order.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.layout = CodeLayout(parts)

    def each(self) -> list[Quantizer]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, Quantizer)]

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Codes of the parts, see ``CodeLayout``."""
        return self.layout.shape

    @property
    def code_entries(self) -> tuple[int, ...]:
        """Those of the parts one after another."""
        return tuple(n for part in self.each() for n in part.code_entries)

    @property
    def ready(self) -> bool:
        """Whether all parts are."""
        return all(part.ready for part in self.each())

    def _split_codes(self, codes: Tensor) -> list[Tensor]:
        """Codes of each part.

        Raises:
            ValueError: for codes of another shape or out of range, or a quantizer that is not ready.
        """
        check_codes(self.kind, codes, self.codes_shape, self.code_entries)
        self._check_ready()
        return self.layout.split(codes)


def is_there(codes: Tensor, depth: int) -> Tensor:
    """Bool ``(*batch,)``: whether any code of a vector, in the last ``depth`` axes, counts something."""
    return (codes >= 0).flatten(codes.ndim - depth).any(-1) if depth else codes >= 0


def build_part(config: Part, seed: int = 0) -> Quantizer:
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
    name: str, of: Part | Sequence[Part], count: int | None, seed: int
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
        flat = [c.reshape((*c.shape[:batch], n)) for c, n in zip(codes, self.sizes, strict=True)]
        return torch.cat(flat, dim=batch)

    def split(self, codes: Tensor) -> list[Tensor]:
        """Inverse of ``join``."""
        batch = codes.ndim - len(self.shape)
        if self.even:
            return list(codes.unbind(batch))
        pieces = codes.split(self.sizes, dim=batch)
        return [
            c.reshape((*codes.shape[:batch], *s)) for c, s in zip(pieces, self.shapes, strict=True)
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
