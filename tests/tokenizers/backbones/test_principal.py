from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vq.tokenizers.backbones.principal import Sum, Unfold1d, quieten, start_linear
from vq.tokenizers.backbones.reach import reach


def rows(count: int, length: int, rank: int) -> torch.Tensor:
    """Correlated vectors off the origin."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(count, rank, generator=generator) * torch.arange(rank, 0, -1)
    return mixed @ torch.randn(rank, length, generator=generator) + 2.0


@pytest.mark.parametrize("dim", [2, 5, 9])
def test_the_maps_against_a_singular_value_decomposition(dim):
    x = rows(400, 7, 5)
    into, back = nn.Conv1d(7, dim, 1), nn.Conv1d(dim, 7, 1)
    start_linear(into, back, x)
    with torch.no_grad():
        z = into(x.T[None])
        found = back(z)[0].T
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh[:dim]
    assert_close(found, (x - mean) @ axes.T @ axes + mean, rtol=1e-3, atol=1e-3)
    assert_close(z.mean((0, 2)), torch.zeros(dim), rtol=0, atol=1e-4)
    assert_close(z.square().mean(), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_vectors_that_never_change():
    into, back = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
    start_linear(into, back, torch.full((10, 3), 0.5))
    with torch.no_grad():
        out = back(into(torch.full((1, 3, 2, 2), 0.5)))
    assert_close(out, torch.full((1, 3, 2, 2), 0.5), rtol=0, atol=1e-5)


def test_blocks_are_laid_out_channel_by_channel():
    x = torch.arange(2 * 3 * 4.0).reshape(1, 6, 4)  # 2 channels, hop 3, 4 blocks
    out = Unfold1d(3)(x)
    assert out.shape == (1, 2, 12)
    for channel in range(2):
        expected = [float(x[0, 3 * channel + k, n]) for n in range(4) for k in range(3)]
        assert out[0, channel].tolist() == expected
    assert reach(Unfold1d(3), (-1, 7)) == (-1, 2)


def test_branches_add_up_and_reach_what_either_does():
    wide, narrow = nn.Conv1d(1, 1, 5, padding=2), nn.Conv1d(1, 1, 1)
    both, x = Sum(narrow, wide), torch.randn(2, 1, 9)
    assert_close(both(x), wide(x) + narrow(x))
    assert reach(both, (0, 3)) == (-2, 5)


def test_quiet_layers_say_little():
    layer = nn.Conv1d(4, 3, 1)
    before = layer.weight.detach().clone()
    assert quieten(layer) is layer
    assert_close(layer.weight.detach(), 0.02 * before)
    assert not layer.bias.any()
