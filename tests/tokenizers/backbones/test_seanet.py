from __future__ import annotations

import pytest
import torch

from vq.tokenizers.backbones import make_backbone


def test_hop_is_the_product_of_strides():
    backbone = make_backbone("seanet", width=4, max_width=8, dim=5)
    assert backbone.hop == (320,)
    assert backbone.encode(torch.zeros(1, 1, 960)).shape == (1, 5, 3)


def test_context_of_one_stride_by_hand():
    """Stride 4, kernels 7, 3 dilated by 1 and 3, 8, 3: worked out by hand.

    conv3 at the end: positions -1..1; strided kernel 8 padded by 2 and 2: samples -6..9; units 1 and 3 and the first
    convolution 3 more on each side: -13..16, so positions -4..4.
    """
    backbone = make_backbone("seanet", strides=[4], width=4)
    assert backbone.context == ((4, 4),)
    causal = make_backbone("seanet", strides=[4], width=4, causal=True)
    # -2..0; kernel 8 padded by 4: -12..3; 2 + 6 + 6 more to the left: -26..3
    assert causal.context == ((7, 0),)


def test_snake_is_the_formula():
    from vq.tokenizers.backbones.layers import Snake

    layer = Snake(2)
    with torch.no_grad():
        layer.alpha[0, 1, 0] = 3.0
    x = torch.linspace(-2, 2, 7).expand(1, 2, 7)
    expected = x[0, 1] + (1 - torch.cos(6 * x[0, 1])) / 6  # sin^2 = (1 - cos 2ax) / 2
    torch.testing.assert_close(layer(x)[0, 1], expected)


def test_it_learns_a_tone():
    """Amplitudes and phases of one tone, on phases not seen."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.2832 * torch.rand(48, 1, 1, generator=generator)
    x = torch.sin(0.3 * torch.arange(160.0) + phase)
    backbone = make_backbone("seanet", strides=[4, 5], width=8, dim=8, seed=0)
    optimizer = torch.optim.Adam(backbone.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        (backbone(x[:32]) - x[:32]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        error = (backbone(x[32:]) - x[32:]).square().mean()
    assert error < 0.1 * x.square().mean()


def test_the_first_weights_let_signals_through():
    """Features tell two signals apart from the start, and scale stays within a factor of ten to the output."""
    backbone = make_backbone("seanet", seed=0)
    x = torch.randn(2, 1, 6400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, y = backbone.encode(x), backbone(x)
    assert 0.1 < float(z.std()) < 10 and 0.1 < float(y.std()) < 10
    assert (z[0] - z[1]).std() > 0.5 * z.std()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"strides": []}, "at least one stride"),
        ({"strides": [2, 0]}, r"strides\[1\] must be"),
        ({"dilations": [1, 2.0]}, r"dilations\[1\] must be"),
        ({"width": 3}, "must be even"),
        ({"width": 32, "max_width": 16}, "must be even and grow"),
        ({"activation": "relu"}, "activation must be one of"),
    ],
)
def test_values_out_of_range(config, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("seanet", **config)
