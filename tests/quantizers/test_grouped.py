"""Quantizers side by side."""

import pytest
import torch

from vq.quantizers import make

VQ = {"kind": "vq", "codebook": "kmeans(dim=4, entries=16)", "revival": 0}
FSQ = {"kind": "fsq", "levels": [5, 5, 5]}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_groups_are_quantized_on_their_own():
    layer = make("grouped", of=[VQ, FSQ])
    layer.start(randn(500, 7))
    x = randn(3, 20, 7, seed=1)
    codes, values = layer.eval().encode(x), layer(x).values
    assert layer.dim == 7 and layer.code_entries == (16, 125)
    for i, (part, piece) in enumerate(zip(layer.each(), x.split([4, 3], -1), strict=True)):
        assert torch.equal(part.encode(piece), codes[..., i])
        assert torch.equal(part.decode(codes[..., i]), values.split([4, 3], -1)[i])


def test_residuals_in_groups_have_two_axes_and_prefixes():
    layer = make("grouped", of={"kind": "residual", "of": VQ, "stages": 3}, groups=2)
    layer.start(randn(500, 8))
    x = randn(40, 8, seed=1)
    codes = layer.eval().encode(x)
    assert codes.shape == (40, 2, 3) and layer.stages == 3
    errors = [float((layer.decode(codes, n) - x).square().mean()) for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    left = layer.parts[0].decode(codes[:, 0], 2)
    assert torch.equal(layer.decode(codes, 2)[:, :4], left)


def test_gradients_pass_each_group_once_also_within_a_stage():
    inner = {"kind": "grouped", "of": {**VQ, "dim": 3}, "groups": 2}
    for layer in (make(**inner), make("residual", of=inner, stages=3)):
        layer.start(randn(500, 6))
        x, grad = randn(40, 6).requires_grad_(), randn(40, 6, seed=2)
        found = layer(x)
        if layer.kind == "residual":
            found.values.backward(grad, retain_graph=True)
            torch.testing.assert_close(x.grad, grad)
        x.grad = None
        found.loss.backward()
        assert float(x.grad.norm()) > 0
        assert set(found.losses) == {"commitment"}


def test_a_loss_is_the_mean_over_groups():
    layer = make("grouped", of=VQ, groups=2)
    layer.start(randn(500, 8))
    x = randn(40, 8)
    found = layer.eval()(x)
    errors = [
        part(piece).losses["commitment"]
        for part, piece in zip(layer.each(), x.split(4, -1), strict=True)
    ]
    torch.testing.assert_close(found.losses["commitment"], sum(errors) / 2)
    assert {"perplexity_group0", "perplexity_group1"} <= set(found.stats)


def test_nothing_in_one_group_leaves_the_others():
    layer = make("grouped", of=VQ, groups=2)
    codes = torch.tensor([[3, -1], [-1, -1]])
    values = layer.decode(codes)
    assert torch.equal(values[0, :4], layer.parts[0].decode(codes[0, 0]))
    assert bool((values[0, 4:] == 0).all()) and bool((values[1] == 0).all())


def test_number_of_groups():
    with pytest.raises(ValueError, match="grouped.*how many"):
        make("grouped", of=VQ)
    layer = make("grouped", of=[VQ, {"kind": "residual", "of": VQ, "stages": 2}])
    assert layer.stages == 1 and layer.codes_shape == (3,)
