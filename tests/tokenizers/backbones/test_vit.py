from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.backbones.vit import Layer, TileTransformer


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_grain_is_a_tile_of_patches():
    backbone = make_backbone("vit", patch=4, tile=2, width=8, heads=2, layers=1, dim=5)
    assert (backbone.hop, backbone.tile, backbone.grain) == ((4, 4), (2, 2), (8, 8))
    assert backbone.encode(noise(1, 3, 16, 24)).shape == (1, 5, 4, 6)
    with pytest.raises(ValueError, match=r"multiples of \(8, 8\)"):
        backbone.encode(noise(1, 3, 16, 20))


def test_a_tile_is_encoded_and_decoded_as_if_alone():
    backbone = make_backbone("vit", patch=2, tile=3, width=8, heads=2, layers=2, dim=5, seed=0)
    x = noise(2, 3, 12, 18)
    z, y = backbone.encode(x), backbone(x)
    for row in range(2):
        for column in range(3):
            pixels = (..., slice(6 * row, 6 * row + 6), slice(6 * column, 6 * column + 6))
            cells = (..., slice(3 * row, 3 * row + 3), slice(3 * column, 3 * column + 3))
            assert_close(z[cells], backbone.encode(x[pixels]), rtol=1e-4, atol=1e-5)
            assert_close(y[pixels], backbone(x[pixels]), rtol=1e-4, atol=1e-5)


def test_tiles_keep_the_order_of_their_cells():
    """With linear layers that pass their input on, and nothing between, the grid comes back as it was."""
    net = TileTransformer(4, 4, 4, tile=2, layers=1, heads=1)
    net.layers = torch.nn.Sequential()
    net.exit = torch.nn.Sequential(torch.nn.Identity())
    with torch.no_grad():
        net.place.zero_()
        net.entry.weight.copy_(torch.eye(4))
        net.entry.bias.zero_()
    x = noise(3, 4, 4, 6)
    assert torch.equal(net(x), x)


def test_a_layer_equals_attention_by_hand():
    torch.manual_seed(0)
    layer = Layer(6, 2).double()
    x = noise(3, 5, 6).double()
    normed = torch.nn.functional.layer_norm(x, (6,))
    query, key, value = (normed @ layer.mix_in.weight.T + layer.mix_in.bias).chunk(3, -1)
    mixed = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = query[..., head] @ key[..., head].transpose(1, 2) / 3**0.5
        mixed.append(scores.softmax(-1) @ value[..., head])
    middle = x + layer.mix_out(torch.cat(mixed, -1))
    assert_close(layer(x), middle + layer.mlp(middle))


@pytest.mark.parametrize(
    ("config", "message"),
    [({"heads": 3, "width": 8}, "must divide"), ({"patch": 0}, "patch"), ({"tile": 2.0}, "tile")],
)
def test_values_out_of_range(config, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("vit", **config)
