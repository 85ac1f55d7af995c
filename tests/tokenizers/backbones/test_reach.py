"""Spans worked out from layers against gradients of those layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vq.tokenizers.backbones.layers import ChannelNorm, PaddedConv1d, Residual, Snake, UpConv1d
from vq.tokenizers.backbones.reach import reach, union

LENGTH = 240


def by_gradient(net: nn.Module, span: tuple[int, int], axes: int) -> tuple[int, int]:
    """First and last input along the last axis that any output of the span depends on."""
    size = (LENGTH,) if axes == 1 else (12, LENGTH)
    x = torch.randn(1, 1, *size, dtype=torch.float64)
    x.requires_grad_()
    net.double()(x)[..., span[0] : span[1] + 1].sum().backward()
    where = x.grad.abs().flatten(0, -2).sum(0).nonzero().flatten()
    return int(where[0]), int(where[-1])


def one_axis(seed: int) -> nn.Sequential:
    """A random chain of the layers audio backbones use."""
    generator = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    layers: list[nn.Module] = []
    for _ in range(4):
        kind, causal = pick(0, 4), bool(pick(0, 1))
        if kind == 0:
            stride = pick(1, 3)
            layers.append(PaddedConv1d(1, 1, stride + pick(0, 4), stride=stride, causal=causal))
        elif kind == 1:
            layers.append(PaddedConv1d(1, 1, pick(1, 4), dilation=pick(1, 3), causal=causal))
        elif kind == 2:
            layers.append(UpConv1d(1, 1, pick(1, 4), causal))
        elif kind == 3:
            layers.append(Residual(nn.ELU(), PaddedConv1d(1, 1, pick(1, 5), causal=causal)))
        else:
            layers.append(nn.Conv1d(1, 1, 3, padding=1, dilation=1))
    return nn.Sequential(*layers, nn.Identity())


@pytest.mark.parametrize("seed", range(12))
def test_chains_of_one_axis(seed):
    torch.manual_seed(seed)
    net = one_axis(seed)
    length = net.double()(torch.zeros(1, 1, LENGTH, dtype=torch.float64)).shape[-1]
    for first, width in ((length // 2, 0), (length // 2 + 1, 0), (length // 2, 5)):
        span = (first, first + width)
        assert reach(net, span) == by_gradient(net, span, 1), net


@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 4, stride=2, padding=1),
        nn.Conv2d(1, 1, 3, dilation=2, padding=2),
        nn.Sequential(nn.PixelUnshuffle(3), nn.Conv2d(9, 1, 3, padding=1)),
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.PixelShuffle(2)),
        nn.Sequential(nn.Conv2d(1, 2, 4, 2, 1), nn.SiLU(), nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)),
    ],
    ids=["same", "strided", "dilated", "unshuffle", "shuffle", "down-up"],
)
def test_layers_of_two_axes(net):
    torch.manual_seed(0)
    for span in ((40, 40), (41, 41), (40, 45)):
        assert reach(net, span) == by_gradient(net, span, 2)


def test_outside_of_the_signal_is_allowed():
    assert reach(nn.Conv1d(1, 1, 5, padding=2), (0, 0)) == (-2, 2)
    assert reach(nn.PixelShuffle(2), (-1, 0)) == (-1, 0)


def test_pointwise_layers_reach_nothing_more():
    for layer in (nn.GELU(), nn.SiLU(), nn.ELU(), nn.Identity(), ChannelNorm(2), Snake(2)):
        assert reach(layer, (3, 5)) == (3, 5)
    assert union((1, 3), (2, 7)) == (1, 7)


@pytest.mark.parametrize("layer", [nn.GroupNorm(1, 4), nn.BatchNorm1d(4), nn.LSTM(1, 1)])
def test_layers_that_mix_positions_are_not_guessed(layer):
    with pytest.raises(TypeError, match=r"must say its receptive field by a method reach"):
        reach(nn.Sequential(nn.Identity(), layer), (0, 0))
