"""SEANet: a convolutional autoencoder of waveforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from vq.tokenizers.backbones.base import Backbone, check_whole, register_backbone
from vq.tokenizers.backbones.layers import PaddedConv1d, Residual, Snake, UpConv1d, unit_gain

ACTIVATIONS = ("elu", "snake")


@register_backbone("seanet")
class SEANet(Backbone):
    """Strided convolutions with dilated residual units between them, and the mirror image back.

    ::

        (B, C, T) -> conv 7 -> [units -> act -> conv of kernel 2s, stride s] for each stride -> act -> conv 3
        (B, dim, T / hop) -> conv 3 -> [act -> transposed conv -> units] for each stride backwards -> act -> conv 7

    A unit is ``x + conv1(act(conv3_dilated(act(x))))`` through half the channels. Widths double with each stride up to
    ``max_width``. There is no norm; weights are plain (no weight norm), so that a state dict is what it says.

    Args:
        channels: of the signal.
        strides: from the fastest rate to the slowest; their product is the hop in samples.
        dim: length of a feature vector.
        width: channels at the full rate.
        max_width: channels are not doubled beyond it.
        dilations: one residual unit of each at each rate.
        activation: "elu" or "snake".
        causal: no output looks ahead of the end of its own position.

    Reference:
        M. Tagliasacchi et al., "SEANet: a multi-modal speech enhancement network" (2020), in the form of A. Defossez
        et al., "High fidelity neural audio compression" (2022), section 3.1, without its LSTM.
    """

    kind: ClassVar[str] = "audio"

    def __init__(
        self,
        channels: int = 1,
        strides: Sequence[int] = (2, 4, 5, 8),
        dim: int = 64,
        width: int = 16,
        max_width: int = 256,
        dilations: Sequence[int] = (1, 3),
        activation: str = "elu",
        causal: bool = False,
    ) -> None:
        if not strides:
            raise ValueError("seanet: expected at least one stride, got none")
        check_whole("seanet", **{f"strides[{i}]": s for i, s in enumerate(strides)})
        check_whole("seanet", **{f"dilations[{i}]": d for i, d in enumerate(dilations)})
        check_whole("seanet", width=width, max_width=max_width)
        if width % 2 or max_width < width or max_width % 2:
            raise ValueError(
                f"seanet: width {width} and max_width {max_width} must be even and grow"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(f"seanet: activation must be one of {ACTIVATIONS}, got {activation!r}")
        super().__init__(channels, dim, (math.prod(strides),))
        self.strides = tuple(strides)
        self.width = width
        self.max_width = max_width
        self.dilations = tuple(dilations)
        self.activation = activation
        self.causal = causal
        self.widths = [min(width * 2**i, max_width) for i in range(len(strides) + 1)]
        self.encoder = self._encoder()
        self.decoder = self._decoder()
        unit_gain(self)

    def config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "channels": self.channels,
            "strides": list(self.strides),
            "dim": self.dim,
            "width": self.width,
            "max_width": self.max_width,
            "dilations": list(self.dilations),
            "activation": self.activation,
            "causal": self.causal,
        }

    def _act(self, width: int) -> nn.Module:
        return Snake(width) if self.activation == "snake" else nn.ELU()

    def _conv(self, inputs: int, outputs: int, kernel: int, **more: int) -> PaddedConv1d:
        return PaddedConv1d(inputs, outputs, kernel, causal=self.causal, **more)

    def _units(self, width: int) -> list[nn.Module]:
        half = width // 2
        return [
            Residual(
                self._act(width),
                self._conv(width, half, 3, dilation=dilation),
                self._act(half),
                self._conv(half, width, 1),
            )
            for dilation in self.dilations
        ]

    def _encoder(self) -> nn.Sequential:
        layers: list[nn.Module] = [self._conv(self.channels, self.width, 7)]
        for i, stride in enumerate(self.strides):
            narrow, wide = self.widths[i : i + 2]
            layers += self._units(narrow)
            layers += [self._act(narrow), self._conv(narrow, wide, 2 * stride, stride=stride)]
        wide = self.widths[-1]
        return nn.Sequential(*layers, self._act(wide), self._conv(wide, self.dim, 3))

    def _decoder(self) -> nn.Sequential:
        layers: list[nn.Module] = [self._conv(self.dim, self.widths[-1], 3)]
        for i in reversed(range(len(self.strides))):
            narrow, wide = self.widths[i : i + 2]
            layers += [self._act(wide), UpConv1d(wide, narrow, self.strides[i], self.causal)]
            layers += self._units(narrow)
        return nn.Sequential(
            *layers, self._act(self.width), self._conv(self.width, self.channels, 7)
        )
