"""The contract of a backbone, and one dictionary of backbones by name."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vq.codebooks.spec import nearest_names
from vq.tokenizers.backbones.reach import reach

Context = tuple[tuple[int, int], ...]
"""Per axis: positions that are needed before and after the one that is computed."""

BACKBONES: dict[str, type[Backbone]] = {}

B = TypeVar("B", bound="type[Backbone]")


class Backbone(nn.Module, abc.ABC):
    """An encoder of signals to features and a decoder back; the quantizer stands between them.

    Signals are ``(B, channels, *size)`` and features ``(B, dim, *positions)``, with ``size = positions * hop`` on each
    axis. The output is linear: train it in the range the signals have (-1 to 1 is usual). Nothing is normalised over
    positions, so that a feature depends on the samples within ``context`` alone and long inputs can be cut into
    windows; and no layer holds statistics, so that train and eval mode agree.

    Args:
        channels: of the signal, in and out.
        dim: length of a feature vector.
        hop: samples (pixels) of one position, per axis.
        tile: positions that are encoded as one block, per axis; 1 where positions slide.

    Attributes:
        name: registered name of the class.
        kind: "image" (two axes) or "audio" (one).
        encoder: ``(B, channels, *size)`` to ``(B, dim, *positions)``.
        decoder: back.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self, channels: int, dim: int, hop: Sequence[int], tile: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        check_whole(type(self).name, channels=channels, dim=dim)
        self.channels = channels
        self.dim = dim
        self.hop = tuple(hop)
        self.tile = tuple(tile) if tile is not None else (1,) * len(self.hop)

    @property
    def grain(self) -> tuple[int, ...]:
        """What each size must be a multiple of, in samples: ``hop * tile``."""
        return tuple(h * t for h, t in zip(self.hop, self.tile, strict=True))

    @property
    def context(self) -> Context:
        """Positions on each side of a tile whose samples its features depend on, from the layers themselves."""
        low, high = reach(self.encoder, (0, 0))
        return tuple((max(-(low // h), 0), max(high // h, 0)) for h in self.hop)

    @property
    def decoder_context(self) -> Context:
        """Positions on each side of a tile whose features its samples depend on."""
        spans = [reach(self.decoder, (0, h - 1)) for h in self.hop]
        return tuple((max(-low, 0), max(high, 0)) for low, high in spans)

    @property
    def last_weight(self) -> nn.Parameter:
        """Weight of the decoder's last layer, where gradients of losses are compared."""
        return [p for p in self.decoder.parameters() if p.ndim > 1][-1]

    @abc.abstractmethod
    def config(self) -> dict[str, Any]:
        """Keyword arguments, JSON-able, that make an equal backbone; ``make_backbone(name, **config)`` inverts it."""

    def start(self, x: Tensor) -> None:
        """Set what can be computed from signals ``(B, channels, *size)`` before training; by default nothing."""

    def positions(self, size: Sequence[int]) -> tuple[int, ...]:
        """Positions of a signal of this size.

        Raises:
            ValueError: for another number of axes, or a size that is zero or no multiple of ``grain``.
        """
        if len(size) != len(self.hop):
            raise ValueError(
                f"{self.name}: expected {len(self.hop)} axes (B, {self.channels}, *size), got size {tuple(size)}"
            )
        if any(n < 1 or n % g for n, g in zip(size, self.grain, strict=True)):
            raise ValueError(
                f"{self.name}: expected sizes that are multiples of {self.grain}, got {tuple(size)}; "
                "pad with vq.tokenizers.windows.pad_to_grain"
            )
        return tuple(n // h for n, h in zip(size, self.hop, strict=True))

    def encode(self, x: Tensor) -> Tensor:
        """Features ``(B, dim, *positions)`` of signals ``(B, channels, *size)``.

        Raises:
            ValueError: for other shapes; see ``positions``.
        """
        if x.ndim < 3 or x.shape[1] != self.channels:
            raise ValueError(
                f"{self.name}: expected signals (B, {self.channels}, *size), got {tuple(x.shape)}"
            )
        expected = (x.shape[0], self.dim, *self.positions(x.shape[2:]))
        out: Tensor = self.encoder(x)
        assert out.shape == expected, (out.shape, expected)
        return out

    def decode(self, z: Tensor) -> Tensor:
        """Signals ``(B, channels, *size)`` of features ``(B, dim, *positions)``.

        Raises:
            ValueError: for another number of axes or features, or positions that do not fill whole tiles.
        """
        if z.ndim != 2 + len(self.hop) or z.shape[1] != self.dim:
            raise ValueError(
                f"{self.name}: expected features (B, {self.dim}, *{len(self.hop)} axes), got {tuple(z.shape)}"
            )
        size = tuple(n * h for n, h in zip(z.shape[2:], self.hop, strict=True))
        self.positions(size)
        out: Tensor = self.decoder(z)
        assert out.shape == (z.shape[0], self.channels, *size), (out.shape, size)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """The plain autoencoder, ``decode(encode(x))``."""
        return self.decode(self.encode(x))


def register_backbone(name: str) -> Callable[[B], B]:
    """Class decorator: make a backbone known under ``name``.

    Raises:
        ValueError: if the name is taken.
    """

    def add(cls: B) -> B:
        if name in BACKBONES:
            raise ValueError(f"backbone {name!r} is registered twice")
        cls.name = name
        BACKBONES[name] = cls
        return cls

    return add


def make_backbone(name: str, *, seed: int | None = None, **config: Any) -> Backbone:
    """The backbone of a name, for instance ``make_backbone("conv2d", factor=8, seed=0)``.

    Args:
        name: a key of ``BACKBONES``.
        seed: of the first weights; torch's global generator is left as it was. None draws from that one.
        config: arguments of the class.

    Raises:
        ValueError: for an unknown name or argument (with the nearest known ones), or a value out of range.
    """
    cls = BACKBONES.get(name)
    if cls is None:
        raise ValueError(f"unknown backbone {name!r}; {nearest_names(name, BACKBONES)}")
    known = [p for p in inspect.signature(cls.__init__).parameters if p != "self"]
    for key in config:
        if key not in known:
            raise ValueError(
                f"backbone {name!r} has no argument {key!r}; {nearest_names(key, known)}"
            )
    with nullcontext() if seed is None else torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        try:
            return cls(**config)
        except TypeError as error:
            raise ValueError(f"backbone {name!r}: {error}") from error


def check_whole(owner: str, **values: object) -> None:
    """Raise ValueError unless every value is a whole number from 1."""
    for key, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{owner}: {key} must be a whole number from 1, got {value!r}")
