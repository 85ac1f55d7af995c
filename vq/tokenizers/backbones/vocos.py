"""Vocos: a codec that works at the rate of its codes and ends in an inverse Fourier transform."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vq.tokenizers.backbones.base import Backbone, check_whole, register_backbone
from vq.tokenizers.backbones.layers import ChannelNorm, PaddedConv1d, Residual
from vq.tokenizers.backbones.principal import (
    Sum,
    Unfold1d,
    first_convolution,
    quieten,
    start_linear,
)
from vq.tokenizers.backbones.reach import Span


@register_backbone("vocos")
class Vocos(Backbone):
    """ConvNeXt blocks between a strided convolution and a head that predicts a spectrum.

    ::

        (B, C, T) -> conv of kernel 2 hop, stride hop -> norm -> blocks -> norm -> conv 1
        (B, dim, T / hop) -> conv 7 -> norm -> blocks -> norm -> conv 1 -> magnitude and phase -> inverse STFT

    Nothing runs at the rate of the samples but the first and the last step: about ten times less work than SEANet at
    equal parameters.

    Args:
        channels: of the signal.
        hop: samples of one position; even.
        dim: length of a feature vector.
        width: channels of the blocks.
        blocks: of the encoder.
        decoder_blocks: of the decoder.
        kernel: taps of the blocks' depthwise convolutions; odd.
        overlap: frames of the inverse transform over each sample, 2 to 8; a frame has ``overlap * hop`` samples.
        causal: no output looks ahead of the end of its own position.
        linear: a linear map of blocks of a hop into features stands beside the encoder, and one back beside the
            decoder; ``start`` sets them to the principal axes of blocks. The waveform is then what codebooks begin
            with, and the network learns what is better.

    Reference:
        H. Siuzdak, "Vocos: closing the gap between time-domain and Fourier-based neural vocoders" (2023), section 3,
        with an encoder of the same blocks.
    """

    kind: ClassVar[str] = "audio"

    def __init__(
        self,
        channels: int = 1,
        hop: int = 320,
        dim: int = 64,
        width: int = 192,
        blocks: int = 2,
        decoder_blocks: int = 4,
        kernel: int = 7,
        overlap: int = 4,
        causal: bool = False,
        linear: bool = False,
    ) -> None:
        sizes = {"hop": hop, "width": width, "blocks": blocks, "decoder_blocks": decoder_blocks}
        check_whole("vocos", **sizes, kernel=kernel, overlap=overlap)
        if hop % 2 or not kernel % 2 or not 2 <= overlap <= 8:
            raise ValueError(
                f"vocos: expected an even hop, an odd kernel and an overlap of 2 to 8, got {hop}, {kernel}, {overlap}"
            )
        super().__init__(channels, dim, (hop,))
        self.width = width
        self.blocks = blocks
        self.decoder_blocks = decoder_blocks
        self.kernel = kernel
        self.overlap = overlap
        self.causal = causal
        self.linear = linear
        encoder = nn.Sequential(
            PaddedConv1d(channels, width, 2 * hop, stride=hop, causal=causal),
            ChannelNorm(width),
            *(self._block() for _ in range(blocks)),
            ChannelNorm(width),
            nn.Conv1d(width, dim, 1),
        )
        head = InverseSpectrum(channels, hop, overlap, causal)
        decoder = nn.Sequential(
            PaddedConv1d(dim, width, kernel, causal=causal),
            ChannelNorm(width),
            *(self._block() for _ in range(decoder_blocks)),
            ChannelNorm(width),
            nn.Conv1d(width, head.inputs, 1),
            head,
        )
        self.encoder, self.decoder = encoder, decoder
        if linear:
            self._add_linear(encoder, decoder)

    def _add_linear(self, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        """Linear maps of blocks beside networks that begin nearly silent."""
        hop, (last, spectrum) = self.hop[0], (encoder[-1], decoder[-2])
        assert isinstance(last, nn.Conv1d) and isinstance(spectrum, nn.Conv1d)
        quieten(last)
        quieten(spectrum)
        assert spectrum.bias is not None
        with torch.no_grad():
            spectrum.bias.unflatten(0, (self.channels, 2, -1))[:, 0] = QUIET_LOG
        self.encoder = Sum(nn.Conv1d(self.channels, self.dim, hop, hop), encoder)
        back = nn.Conv1d(self.dim, self.channels * hop, 1)
        self.decoder = Sum(nn.Sequential(back, Unfold1d(hop)), decoder)

    def start(self, x: Tensor) -> None:
        """Principal axes of the blocks of signals ``(B, channels, T)`` for the linear maps, if there are any."""
        if self.linear:
            blocks = x.unflatten(2, (-1, self.hop[0])).transpose(1, 2).flatten(2).flatten(0, 1)
            start_linear(first_convolution(self.encoder), first_convolution(self.decoder), blocks)

    def config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "channels": self.channels,
            "hop": self.hop[0],
            "dim": self.dim,
            "width": self.width,
            "blocks": self.blocks,
            "decoder_blocks": self.decoder_blocks,
            "kernel": self.kernel,
            "overlap": self.overlap,
            "causal": self.causal,
            **({"linear": True} if self.linear else {}),
        }

    def _block(self) -> Residual:
        """ConvNeXt: depthwise convolution, norm, three times wider network."""
        wide = 3 * self.width
        return Residual(
            PaddedConv1d(
                self.width, self.width, self.kernel, groups=self.width, causal=self.causal
            ),
            ChannelNorm(self.width),
            nn.Conv1d(self.width, wide, 1),
            nn.GELU(),
            nn.Conv1d(wide, self.width, 1),
        )


class InverseSpectrum(nn.Module):
    """Log-magnitudes and phases to samples: an inverse real Fourier transform per position, windowed and added.

    Frame p covers ``overlap`` positions: around position p, or, if causal, p and those after it. Frames are
    weighted by a periodic Hann window, whose shifts by a hop add to ``overlap / 2``, and the sum is divided by that.
    The ends of a signal have fewer frames and fade, in training as in use.

    Args:
        channels: of the signal.
        hop: samples of a position.
        overlap: frames over each sample.
        causal: frames begin with their position.
    """

    def __init__(self, channels: int, hop: int, overlap: int, causal: bool) -> None:
        super().__init__()
        self.channels = channels
        self.hop = hop
        self.overlap = overlap
        self.size = hop * overlap
        self.skip = 0 if causal else (self.size - hop) // 2

    @property
    def inputs(self) -> int:
        """Channels in: log-magnitude and phase of each bin."""
        return self.channels * 2 * (self.size // 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, n)`` to ``(B, channels, n * hop)``."""
        batch, _, count = x.shape
        with torch.autocast(x.device.type, enabled=False):
            x = x if x.dtype == torch.float64 else x.float()
            log, phase = x.unflatten(1, (self.channels, 2, -1)).unbind(2)
            magnitude = log.clamp(max=MAX_LOG).exp()
            spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
            frames = torch.fft.irfft(spectrum, n=self.size, dim=2, norm="ortho")
            window = torch.hann_window(self.size, dtype=x.dtype, device=x.device)
            frames = frames * (2 / self.overlap * window)[:, None]
            out = x.new_zeros(batch, self.channels, count + self.overlap - 1, self.hop)
            blocks = frames.unflatten(2, (self.overlap, self.hop)).transpose(-1, -2)
            for k in range(self.overlap):
                out[:, :, k : k + count] += blocks[:, :, k]
        return out.flatten(2)[..., self.skip : self.skip + count * self.hop]

    def reach(self, span: Span) -> Span:
        """Frames over samples a..b: ``ceil((a + skip - size + 1) / hop) .. floor((b + skip) / hop)``."""
        first, last = span[0] + self.skip, span[1] + self.skip
        return -((self.size - 1 - first) // self.hop), last // self.hop


QUIET_LOG = -3.0
"""Log-magnitudes that a network beside a linear map begins with."""

MAX_LOG = 5.0
"""Magnitudes stop here: exp(5) times what noise of variance 1 has."""
