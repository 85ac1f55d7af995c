"""A transformer over the patches of square tiles of an image."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from vq.tokenizers.backbones.base import Backbone, Context, check_whole, register_backbone


@register_backbone("vit")
class ViT(Backbone):
    """Patches attend to all patches of their tile, and to nothing beyond it.

    ::

        (B, C, H, W) -> tiles of tile x tile patches -> linear + learned position -> layers -> norm -> linear
        (B, dim, H / patch, W / patch) -> tiles -> linear + learned position -> layers -> norm -> linear -> pixels

    A layer is ``x + attention(norm(x))``, then ``x + mlp(norm(x))``. Tiles are cut from the top left corner;
    sizes must be multiples of ``patch * tile`` pixels.

    Args:
        channels: of the image.
        patch: pixels of one position per axis.
        tile: patches of a tile per axis.
        dim: length of a feature vector.
        width: of the transformers.
        layers: of the encoder.
        decoder_layers: of the decoder; None takes ``layers``.
        heads: of the attention; must divide ``width``.

    Reference:
        J. Yu et al., "Vector-quantized image modeling with improved VQGAN" (2022), section 3.1, made local.
    """

    kind: ClassVar[str] = "image"

    def __init__(
        self,
        channels: int = 3,
        patch: int = 4,
        tile: int = 8,
        dim: int = 32,
        width: int = 128,
        layers: int = 4,
        decoder_layers: int | None = None,
        heads: int = 4,
    ) -> None:
        check_whole("vit", patch=patch, tile=tile, width=width, layers=layers, heads=heads)
        if width % heads:
            raise ValueError(f"vit: heads must divide width, got {heads} and {width}")
        super().__init__(channels, dim, (patch, patch), (tile, tile))
        self.width = width
        self.layers = layers
        self.decoder_layers = layers if decoder_layers is None else decoder_layers
        self.heads = heads
        check_whole("vit", decoder_layers=self.decoder_layers)
        pixels = channels * patch**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(patch), TileTransformer(pixels, dim, width, tile, layers, heads)
        )
        self.decoder = nn.Sequential(
            TileTransformer(dim, pixels, width, tile, self.decoder_layers, heads),
            nn.PixelShuffle(patch),
        )

    @property
    def context(self) -> Context:
        """None: a tile is encoded by itself."""
        return ((0, 0), (0, 0))

    @property
    def decoder_context(self) -> Context:
        """None."""
        return ((0, 0), (0, 0))

    def config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            "channels": self.channels,
            "patch": self.hop[0],
            "tile": self.tile[0],
            "dim": self.dim,
            "width": self.width,
            "layers": self.layers,
            "decoder_layers": self.decoder_layers,
            "heads": self.heads,
        }


class TileTransformer(nn.Module):
    """A transformer over each tile of a grid of vectors.

    Args:
        inputs: channels in.
        outputs: channels out.
        width: of the layers.
        tile: positions of a tile per axis.
        layers: how many.
        heads: of the attention.
    """

    def __init__(
        self, inputs: int, outputs: int, width: int, tile: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.tile = tile
        self.entry = nn.Linear(inputs, width)
        self.place = nn.Parameter(0.02 * torch.randn(tile * tile, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, rows, columns)`` to ``(B, outputs, rows, columns)``, both multiples of the tile."""
        batch, _, rows, columns = x.shape
        t = self.tile
        x = x.unflatten(3, (columns // t, t)).unflatten(2, (rows // t, t))
        tiles = x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)  # (tiles, t * t, inputs)
        out = self.exit(self.layers(self.entry(tiles) + self.place))
        out = out.reshape(batch, rows // t, columns // t, t, t, -1).permute(0, 5, 1, 3, 2, 4)
        return out.reshape(batch, -1, rows, columns)


class Layer(nn.Module):
    """Attention and a two-layer network, each beside the identity and behind a norm; ``(n, tokens, width)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.mix_in = nn.Linear(width, 3 * width)
        self.mix_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        parts = self.mix_in(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.mix_out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(x)
