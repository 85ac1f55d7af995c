from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers.backbones.layers import ChannelNorm, PaddedConv1d, Residual, UpConv1d


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 5, 3, 4)])
def test_channel_norm_sees_one_position(shape):
    norm = ChannelNorm(5, eps=0.0).double()
    with torch.no_grad():
        norm.weight.copy_(noise(5, seed=1))
    x = noise(*shape)
    found = norm(x)
    vector = x.movedim(1, -1)[0, 2] if len(shape) == 3 else x.movedim(1, -1)[0, 2, 1]
    expected = vector / vector.square().mean().sqrt() * norm.weight
    here = found.movedim(1, -1)[0, 2] if len(shape) == 3 else found.movedim(1, -1)[0, 2, 1]
    assert_close(here, expected)
    assert_close(norm(3 * x), found)


def test_channel_norm_of_silence_is_silence():
    x = torch.zeros(1, 4, 3, requires_grad=True)
    y = ChannelNorm(4)(x)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y)) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"),
    [(3, 1, 1), (4, 1, 1), (3, 1, 3), (4, 2, 1), (3, 3, 1), (7, 2, 2)],
)
def test_padded_convolution_by_hand(kernel, stride, dilation, causal):
    conv = PaddedConv1d(2, 3, kernel, stride, dilation, causal=causal).double()
    x = noise(1, 2, 12 * stride)
    y = conv(x)
    assert y.shape == (1, 3, 12)
    total = dilation * (kernel - 1) + 1 - stride
    left = total if causal else (total + 1) // 2
    for at in range(12):
        expected = conv.bias.clone()
        for tap in range(kernel):
            source = at * stride - left + tap * dilation
            if 0 <= source < x.shape[-1]:
                expected = expected + conv.weight[:, :, tap] @ x[0, :, source]
        assert_close(y[0, :, at], expected)
    if causal:
        last = 11 * stride - left + dilation * (kernel - 1)
        assert last == 12 * stride - 1  # the newest tap is on the last sample of the position


def test_a_kernel_shorter_than_its_stride_is_our_own_mistake():
    with pytest.raises(AssertionError, match="shorter than its stride"):
        PaddedConv1d(1, 1, 2, stride=3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3, 8])
def test_up_convolution_by_hand(stride, causal):
    conv = UpConv1d(2, 3, stride, causal).double()
    x = noise(1, 2, 5)
    full = conv.bias[:, None].repeat(1, 6 * stride)
    for at in range(5):
        for tap in range(2 * stride):
            full[:, at * stride + tap] += conv.weight[:, :, tap].T @ x[0, :, at]
    left = 0 if causal else stride // 2
    assert_close(conv(x)[0], full[:, left : left + 5 * stride])


def test_residual_adds():
    layer = Residual(torch.nn.ELU(), torch.nn.Conv1d(2, 2, 1)).double()
    x = noise(1, 2, 4)
    assert_close(layer(x) - x, layer.branch(x))
