"""Stages at several paces: means of what counts, repetition, masks, prefixes."""

import pytest
import torch

from vq.quantizers import make
from vq.quantizers.multiscale import pool

VQ = {"kind": "vq", "codebook": "kmeans(dim=3, entries=16)", "revival": 0}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow(sequences, time, seed=0):
    """Sequences that change slowly."""
    return randn(sequences, time, 3, seed=seed).cumsum(1) / 4


def started(strides=(4, 2, 1), **config):
    layer = make("multiscale", of=VQ, strides=strides, **config)
    layer.start(slow(40, 48, seed=9))
    return layer


@pytest.mark.parametrize("time", [1, 4, 7, 12])
def test_means_of_blocks_count_what_counts(time):
    x, valid = (
        randn(2, time, 3),
        torch.rand(2, time, generator=torch.Generator().manual_seed(1)) < 0.6,
    )
    means, some = pool(torch.where(valid[..., None], x, 0.0), valid, 4)
    assert means.shape == (2, -(-time // 4), 3)
    for row in range(2):
        for block in range(means.shape[1]):
            own = slice(4 * block, 4 * block + 4)
            chosen = x[row, own][valid[row, own]]
            assert bool(some[row, block]) == (len(chosen) > 0)
            if len(chosen):
                torch.testing.assert_close(means[row, block], chosen.mean(0))


@pytest.mark.parametrize("time", [1, 5, 8, 11])
def test_the_algorithm_by_hand(time):
    layer = started().eval()
    x = slow(2, time)
    left, codes = x, layer.encode(x)
    for i, (part, stride) in enumerate(zip(layer.each(), (4, 2, 1), strict=True)):
        blocks = torch.stack([left[:, t : t + stride].mean(1) for t in range(0, time, stride)], 1)
        own = part.encode(blocks)
        assert torch.equal(codes[..., i], own.repeat_interleave(stride, 1)[:, :time])
        left = left - part.decode(own).repeat_interleave(stride, 1)[:, :time]
    torch.testing.assert_close(layer.decode(codes), x - left)
    assert torch.equal(layer(x).values, layer.decode(codes))


def test_padding_does_not_matter():
    layer = started().eval()
    x = slow(1, 10)
    mask = torch.arange(16)[None] < 10
    padded = torch.cat([x, 100 * randn(1, 6, 3)], dim=1)
    assert torch.equal(layer.encode(padded, mask)[:, :10], layer.encode(x))
    found = layer(padded, mask)
    assert bool((found.codes[:, 10:] == -1).all()) and bool((found.values[:, 10:] == 0).all())
    torch.testing.assert_close(found.values[:, :10], layer(x).values)


def test_one_code_of_each_block_is_enough():
    layer = started().eval()
    codes = layer.encode(slow(3, 13))
    stored = [codes[:, ::stride, i] for i, stride in enumerate(layer.strides)]
    assert [part.shape[1] for part in stored] == [4, 7, 13]
    again = [
        part.repeat_interleave(s, 1)[:, :13] for part, s in zip(stored, layer.strides, strict=True)
    ]
    assert torch.equal(torch.stack(again, -1), codes)


def test_a_block_lives_while_one_frame_counts():
    layer = started().eval()
    x, mask = slow(1, 8), torch.tensor([[False, True, True, False, False, False, False, True]])
    found = layer(x, mask)
    assert torch.equal(layer.decode(found.codes), found.values)
    torch.testing.assert_close(layer.parts[0].encode(x[0, 1:3].mean(0)), found.codes[0, 1, 0])
    assert bool((found.values[~mask] == 0).all())


def test_prefixes_and_growth():
    layer = started().eval()
    x = slow(10, 40, seed=4)
    codes = layer.encode(x)
    errors = [float((layer.decode(codes, n) - x).square().mean()) for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    cut = codes.clone()
    cut[..., 1:] = -1
    assert torch.equal(layer.decode(cut), layer.decode(codes, 1))


def test_gradients():
    layer = started()
    x, grad = slow(2, 9).requires_grad_(), randn(2, 9, 3, seed=3)
    found = layer(x)
    found.values.backward(grad, retain_graph=True)
    torch.testing.assert_close(x.grad, grad)
    x.grad = None
    found.loss.backward()
    last = found.codes[..., 2]  # stage of stride 1: its own share of the gradient, frame by frame
    assert float(x.grad.norm()) > 0 and last.shape == (2, 9)
    assert bool((x.grad.norm(dim=-1) > 0).all())


def test_dropout_is_one_number_a_sequence():
    layer = started(dropout=1.0)
    kept = (layer(slow(200, 9)).codes >= 0).sum(-1)
    assert bool((kept == kept[:, :1]).all())
    assert set(kept[:, 0].tolist()) == {1, 2, 3}
    alone = (layer(slow(1, 9)[0]).codes >= 0).sum(-1)  # without a batch axis time is no batch
    assert bool((alone == alone[0]).all())


def test_a_start_from_frames_is_one_sequence():
    layers = [make("multiscale", of=VQ, strides=[3, 1]) for _ in range(2)]
    x = slow(1, 300)
    layers[0].start(x[0])
    layers[1].start(x)
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(layer.state_dict().values() for layer in layers), strict=True)
    )


def test_strides_are_checked():
    for wrong in ([], [0], [2.5]):
        with pytest.raises(ValueError, match="strides"):
            make("multiscale", of=VQ, strides=wrong)
    with pytest.raises(ValueError, match="lists 2"):
        make("multiscale", of=[VQ, VQ], strides=[4, 2, 1])
