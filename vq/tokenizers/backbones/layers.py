"""Layers that look at few positions: a norm over channels, padded convolutions, residual branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vq.tokenizers.backbones.reach import Span, reach, union


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of each position by itself: ``x / rms(x) * weight``.

    Group and instance norms average over positions: with them a feature depends on the whole image, and tiles of it
    disagree with the whole. Here x is ``(B, channels, *positions)``.

    Reference:
        B. Zhang and R. Sennrich, "Root mean square layer normalization" (2019), equation (4).
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position."""
        scale = torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return x * scale * self.weight.reshape(-1, *(1,) * (x.ndim - 2))

    def reach(self, span: Span) -> Span:
        """The positions themselves."""
        return span


class Snake(nn.Module):
    """``x + sin(a x)^2 / a`` with one learned a per channel; x is ``(B, channels, T)``.

    Reference:
        L. Ziyin et al., "Neural networks fail to learn periodic functions and how to fix it" (2020), equation (1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each sample."""
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)

    def reach(self, span: Span) -> Span:
        """The positions themselves."""
        return span


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return x + self.branch(x)

    def reach(self, span: Span) -> Span:
        """What the branch reaches, and the span itself."""
        return union(span, reach(self.branch, span))


class PaddedConv1d(nn.Conv1d):
    """A 1-D convolution padded with zeros so that T samples give ``T / stride`` outputs.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: taps; at least the stride.
        stride: samples per output.
        dilation: of the taps.
        groups: as torch has them.
        causal: all padding on the left: an output sees no sample after its own stride.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, 0, dilation, groups)
        total = dilation * (kernel - 1) + 1 - stride
        assert total >= 0, "kernel shorter than its stride"
        self.left = total if causal else (total + 1) // 2
        self.right = total - self.left

    def forward(self, input: Tensor) -> Tensor:
        """``(B, inputs, T)`` to ``(B, outputs, T / stride)``."""
        return super().forward(functional.pad(input, (self.left, self.right)))

    def reach(self, span: Span) -> Span:
        """See ``reach.reach``."""
        s, wide = self.stride[0], self.dilation[0] * (self.kernel_size[0] - 1)
        return span[0] * s - self.left, span[1] * s - self.left + wide


class UpConv1d(nn.ConvTranspose1d):
    """A transposed 1-D convolution, kernel twice the stride, cut so that T positions give ``T * stride`` samples.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: samples per position.
        causal: cut the end alone: a sample sees no position after its own.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, causal: bool = False) -> None:
        super().__init__(inputs, outputs, 2 * stride, stride)
        self.left = 0 if causal else stride // 2

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, inputs, T)`` to ``(B, outputs, T * stride)``."""
        assert output_size is None, "the size follows from the input"
        full = super().forward(input)
        return full[..., self.left : self.left + input.shape[-1] * self.stride[0]]

    def reach(self, span: Span) -> Span:
        """Positions ``ceil((a - 2 stride + 1) / stride) .. floor(b / stride)`` of uncut samples a..b."""
        s = self.stride[0]
        first, last = span[0] + self.left, span[1] + self.left
        return -((self.kernel_size[0] - 1 - first) // s), last // s


def unit_gain(net: nn.Module) -> None:
    """Draw the weights of all 1-D convolutions from N(0, 1 / fan in) and set their biases to zero.

    Without a norm, torch's own start (variance 1 / (3 fan in)) loses two thirds of the power at each layer: after
    twenty of them the features of any two signals are almost the same.
    """
    for layer in net.modules():
        if isinstance(layer, UpConv1d):
            fan_in = 2 * layer.in_channels  # of the 2 stride taps, two meet each sample
        elif isinstance(layer, nn.Conv1d):
            fan_in = layer.weight[0].numel()
        else:
            continue
        nn.init.normal_(layer.weight, 0.0, fan_in**-0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
