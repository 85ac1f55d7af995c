"""Images at the rate of their codes: principal axes of patches, and networks beside them that look around."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional

from vq.tokenizers.backbones.base import Backbone, check_whole, register_backbone
from vq.tokenizers.backbones.layers import ChannelNorm, Residual
from vq.tokenizers.backbones.principal import Sum, first_convolution, quieten, start_linear
from vq.tokenizers.backbones.reach import Span


@register_backbone("lapped")
class Lapped(Backbone):
    """A linear map of patches and its inverse, and beside each ConvNeXt blocks that see the neighbours.

    ::

        (B, C, H, W) -> patches -> linear
                                 + linear -> norm -> blocks -> norm -> linear
        (B, dim, H / patch, W / patch) -> linear -> patches
                                        + conv 3x3 -> norm -> blocks -> norm -> linear -> patches of twice the side

    ``start`` sets the linear maps to the principal axes of patches, the best that is possible without context; the
    blocks learn what is better, and their patches overlap by half, so that no edge need stay between positions. All
    between first and last map runs on one vector for each position: a fifth of the work of ``conv2d`` at 16 x 16
    pixels, so that training can use crops much larger than what a position sees. What lies beyond the border is its
    nearest position again, which looks like the inside of an image.

    Args:
        channels: of the image.
        patch: pixels of one position per axis; even.
        dim: length of a feature vector.
        width: channels of the blocks.
        blocks: of the encoder.
        decoder_blocks: of the decoder; None takes ``blocks``.
        kernel: taps of the blocks' depthwise convolutions; odd.

    Reference:
        Z. Liu et al., "A ConvNet for the 2020s" (2022), figure 4, for the block; H. Malvar and D. Staelin, "The LOT:
        transform coding without blocking effects" (1989), for the synthesis.
    """

    kind: ClassVar[str] = "image"

    def __init__(
        self,
        channels: int = 3,
        patch: int = 16,
        dim: int = 64,
        width: int = 256,
        blocks: int = 2,
        decoder_blocks: int | None = None,
        kernel: int = 3,
    ) -> None:
        check_whole("lapped", patch=patch, width=width, blocks=blocks, kernel=kernel)
        if patch % 2 or not kernel % 2:
            raise ValueError(
                f"lapped: expected an even patch and an odd kernel, got {patch} and {kernel}"
            )
        super().__init__(channels, dim, (patch, patch))
        self.width = width
        self.blocks = blocks
        self.decoder_blocks = blocks if decoder_blocks is None else decoder_blocks
        self.kernel = kernel
        check_whole("lapped", decoder_blocks=self.decoder_blocks)
        pixels = channels * patch**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch),
            Sum(
                nn.Conv2d(pixels, dim, 1),
                nn.Sequential(
                    nn.Conv2d(pixels, width, 1),
                    ChannelNorm(width),
                    *(self._block() for _ in range(blocks)),
                    ChannelNorm(width),
                    quieten(nn.Conv2d(width, dim, 1)),
                ),
            ),
        )
        self.decoder = Sum(
            nn.Sequential(nn.Conv2d(dim, pixels, 1), nn.PixelShuffle(patch)),
            nn.Sequential(
                _around(dim, width, 3),
                ChannelNorm(width),
                *(self._block() for _ in range(self.decoder_blocks)),
                ChannelNorm(width),
                quieten(nn.Conv2d(width, 4 * pixels, 1)),
                OverlapAdd(patch),
            ),
        )

    def start(self, x: Tensor) -> None:
        """Principal axes of the patches of images ``(B, channels, H, W)`` for the linear maps; see ``start_linear``."""
        patches = functional.pixel_unshuffle(x, self.hop[0]).movedim(1, -1).flatten(0, 2)
        start_linear(first_convolution(self.encoder), first_convolution(self.decoder), patches)

    def config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "channels": self.channels,
            "patch": self.hop[0],
            "dim": self.dim,
            "width": self.width,
            "blocks": self.blocks,
            "decoder_blocks": self.decoder_blocks,
            "kernel": self.kernel,
        }

    def _block(self) -> Residual:
        """ConvNeXt: depthwise convolution, norm, three times wider network."""
        wide = 3 * self.width
        return Residual(
            _around(self.width, self.width, self.kernel, groups=self.width),
            ChannelNorm(self.width),
            nn.Conv2d(self.width, wide, 1),
            nn.GELU(),
            nn.Conv2d(wide, self.width, 1),
        )


def _around(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """A convolution whose image goes on beyond its border as it ended there."""
    side = kernel // 2
    return nn.Conv2d(inputs, outputs, kernel, padding=side, groups=groups, padding_mode="replicate")


class OverlapAdd(nn.Module):
    """``(B, C * (2 patch)^2, h, w)`` to ``(B, C, h patch, w patch)``: patches of twice the side, centred, added up.

    Args:
        patch: distance of two patches, in pixels; even.
    """

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Add the patches; what lies outside of the image is dropped."""
        patch, (rows, columns) = self.patch, x.shape[2:]
        size = ((rows + 1) * patch, (columns + 1) * patch)
        full = functional.fold(x.flatten(2), size, 2 * patch, stride=patch)
        half = patch // 2
        return full[..., half : half + rows * patch, half : half + columns * patch]

    def reach(self, span: Span) -> Span:
        """Patch p covers ``p patch - patch / 2 .. (p + 1) patch + patch / 2 - 1``."""
        half = self.patch // 2
        first, last = span[0] + half, span[1] + half
        return -((2 * self.patch - 1 - first) // self.patch), last // self.patch
