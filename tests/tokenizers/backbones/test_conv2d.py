from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vq.tokenizers.backbones import make_backbone


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_factor_is_the_hop(factor):
    backbone = make_backbone("conv2d", factor=factor, width=4, dim=3, seed=0)
    assert backbone.hop == backbone.grain == (factor, factor)
    z = backbone.encode(torch.zeros(2, 3, 2 * factor, 3 * factor))
    assert z.shape == (2, 3, 2, 3)


def test_widths_stop_at_four_times():
    backbone = make_backbone("conv2d", factor=16, width=4, dim=3)
    assert max(p.shape[0] for p in backbone.encoder.parameters()) == 16


def test_context_of_the_default_by_hand():
    """Factor 4, one block: conv3 + 2 conv3 at half resolution, conv4/2, 2 conv3 at a quarter.

    From one position: two convolutions reach 2 quarters, the strided one 1 half pixel more on each side, the three at
    half resolution 3 more: halves -8..9, pixels -16..19.
    """
    assert make_backbone("conv2d").context == ((4, 4), (4, 4))


def test_it_learns():
    """40 steps on smooth images beat the best constant image by far, on images not seen."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 3, 4, 4, generator=generator)
    images = functional.interpolate(images, size=(16, 16), mode="bicubic")
    train, held_out = images[:48], images[48:]
    backbone = make_backbone("conv2d", width=8, seed=0)
    optimizer = torch.optim.Adam(backbone.parameters(), 4e-3)
    for _ in range(40):
        optimizer.zero_grad()
        (backbone(train) - train).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = (backbone(held_out) - held_out).square().mean()
    assert error < 0.3 * held_out.var()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"factor": 3}, "factor must be one of"),
        ({"width": 0}, "width must be a whole number"),
        ({"blocks": 1.5}, "blocks must be a whole number"),
        ({"decoder_blocks": -1}, "decoder_blocks must be"),
    ],
)
def test_values_out_of_range(config, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("conv2d", **config)


def test_tiles_are_coded_by_themselves():
    whole = make_backbone("conv2d", factor=4, width=4, dim=3, seed=1)
    tiled = make_backbone("conv2d", factor=4, width=4, dim=3, tile=2, seed=1)
    assert tiled.grain == (8, 8) and tiled.context == tiled.decoder_context == ((0, 0), (0, 0))
    assert make_backbone("conv2d", **tiled.config()).config() == tiled.config()
    tiled.load_state_dict(whole.state_dict())  # the same names
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(2))
    z, y = tiled.encode(x), tiled.decode(tiled.encode(x))
    for row in range(2):
        for column in range(3):
            part = x[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            own = whole.encode(part)
            at = z[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(at, own, atol=1e-6, rtol=1e-5)
            back = y[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            torch.testing.assert_close(back, whole.decode(own), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(z, whole.encode(x), atol=1e-3)
    with pytest.raises(ValueError, match="tile"):
        make_backbone("conv2d", tile=-1)
