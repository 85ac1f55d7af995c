"""A small convolutional autoencoder of images whose features are local."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from vq.tokenizers.backbones.base import Backbone, Context, check_whole, register_backbone
from vq.tokenizers.backbones.layers import ChannelNorm, Residual

FACTORS = (2, 4, 8, 16, 32)


@register_backbone("conv2d")
class Conv2d(Backbone):
    """Residual convolutions at a half, a quarter, ... of the image's resolution.

    ::

        (B, C, H, W) -> fold 2x2 into channels -> conv 3x3 -> blocks -> [conv 4x4 stride 2 -> blocks] ... -> conv 1x1
        and the same backwards with 1x1 convolutions that unfold; (B, dim, H / factor, W / factor) between.

    Widths double with each halving, up to four times the first. A block is ``x + conv3(act(conv3(act(norm(x)))))``
    with a norm over the channels of each position. No attention and no group norm, so that the receptive field is
    finite.

    Args:
        channels: of the image.
        factor: pixels of one position per axis: 2, 4, 8, 16 or 32.
        dim: length of a feature vector.
        width: channels at half resolution.
        blocks: residual blocks at each resolution.
        decoder_blocks: the same for the decoder; None takes ``blocks``.
        tile: positions of a tile per axis, each tile coded by itself; 0 lets positions see beyond. Trained on crops of
            one tile, whole images are then no other task than the crops; without tiles, train on crops that are
            several times what a position sees.

    Reference:
        P. Esser, R. Rombach, B. Ommer, "Taming transformers for high-resolution image synthesis" (2021), with what is
        not local taken out.
    """

    kind: ClassVar[str] = "image"

    def __init__(
        self,
        channels: int = 3,
        factor: int = 4,
        dim: int = 32,
        width: int = 32,
        blocks: int = 1,
        decoder_blocks: int | None = None,
        tile: int = 0,
    ) -> None:
        if factor not in FACTORS:
            raise ValueError(f"conv2d: factor must be one of {FACTORS}, got {factor!r}")
        check_whole("conv2d", width=width, blocks=blocks)
        if tile:
            check_whole("conv2d", tile=tile)
        super().__init__(channels, dim, (factor, factor), (tile or 1,) * 2)
        self.tiled = bool(tile)
        self.width = width
        self.blocks = blocks
        self.decoder_blocks = blocks if decoder_blocks is None else decoder_blocks
        check_whole("conv2d", decoder_blocks=self.decoder_blocks)
        widths = [width * min(2**i, 4) for i in range(FACTORS.index(factor) + 1)]
        encoder = _encoder(channels, dim, widths, blocks)
        decoder = _decoder(channels, dim, widths, self.decoder_blocks)
        self.encoder = Tiled(tile * factor, encoder) if tile else encoder
        self.decoder = Tiled(tile, decoder) if tile else decoder

    @property
    def context(self) -> Context:
        """From the layers; none where a tile is coded by itself."""
        return ((0, 0), (0, 0)) if self.tiled else super().context

    @property
    def decoder_context(self) -> Context:
        """The same of the decoder."""
        return ((0, 0), (0, 0)) if self.tiled else super().decoder_context

    def config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "channels": self.channels,
            "factor": self.hop[0],
            "dim": self.dim,
            "width": self.width,
            "blocks": self.blocks,
            "decoder_blocks": self.decoder_blocks,
            **({"tile": self.tile[0]} if self.tiled else {}),
        }


class Tiled(nn.Sequential):
    """Layers that run on each square tile of an image by itself; parameters are named as without tiles.

    Args:
        side: of a tile, in positions of the input.
        layers: what runs.
    """

    def __init__(self, side: int, layers: nn.Sequential) -> None:
        super().__init__(*layers)
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, sides multiples of the tile's; the output's tiles stand where those of x did."""
        rows, columns = (n // self.side for n in x.shape[2:])
        tiles = x.unflatten(3, (columns, self.side)).unflatten(2, (rows, self.side))
        tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # (B * rows * columns, C, side, side)
        out = super().forward(tiles).unflatten(0, (x.shape[0], rows, columns))
        return out.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _block(width: int) -> Residual:
    """Two 3x3 convolutions beside the identity."""
    return Residual(
        ChannelNorm(width),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
    )


def _encoder(channels: int, dim: int, widths: list[int], blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * channels, widths[0], 3, padding=1),
    ]
    for i, width in enumerate(widths):
        if i:
            layers.append(nn.Conv2d(widths[i - 1], width, 4, stride=2, padding=1))
        layers += [_block(width) for _ in range(blocks)]
    return nn.Sequential(*layers, ChannelNorm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], dim, 1))


def _decoder(channels: int, dim: int, widths: list[int], blocks: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1)]
    for i in reversed(range(len(widths))):
        layers += [_block(widths[i]) for _ in range(blocks)]
        if i:
            layers += [nn.Conv2d(widths[i], 4 * widths[i - 1], 1), nn.PixelShuffle(2)]
    return nn.Sequential(
        *layers,
        ChannelNorm(widths[0]),
        nn.SiLU(),
        nn.Conv2d(widths[0], 4 * channels, 3, padding=1),
        nn.PixelShuffle(2),
    )
