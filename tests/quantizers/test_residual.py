"""Residual stages: growth of the SNR, prefixes, gradients in two lanes, dropout of stages."""

import itertools

import pytest
import torch

from vq.quantizers import make

FSQ = {"kind": "fsq", "levels": [5] * 4, "normalise": True}
VQ = {"kind": "vq", "codebook": "kmeans(dim=4, entries=16)", "revival": 0}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def snr(values, x):
    return float(10 * torch.log10(x.square().mean() / (values - x).square().mean()))


def started(**config):
    layer = make("residual", **config)
    layer.start(2 * randn(800, layer.dim) + 1)
    return layer


def test_stages_on_gaussian_numbers_give_the_known_growth():
    layer = make("residual", of={"kind": "vq", "codebook": "kmeans(dim=8, entries=256)"}, stages=3)
    layer.start(randn(50000, 8), torch.Generator().manual_seed(0))
    x = randn(20000, 8, seed=1)
    codes = layer.eval().encode(x)
    found = [snr(layer.decode(codes, n), x) for n in (1, 2, 3)]
    assert found == pytest.approx([4.83, 9.61, 14.22], abs=0.15)


@pytest.mark.parametrize(
    "of", [VQ, FSQ, {"kind": "fixed", "codebook": "dn(dim=4, bits=2)"}], ids=str
)
def test_every_stage_helps_on_held_out_data(of):
    layer = started(of=of, stages=4).eval()
    x = 2 * randn(2000, 4, seed=5) + 1
    codes = layer.encode(x)
    found = [snr(layer.decode(codes, n), x) for n in range(1, 5)]
    assert all(low + 1 < high for low, high in itertools.pairwise(found))


def test_a_prefix_is_the_sum_of_its_stages():
    layer = started(of=[VQ, FSQ, VQ]).eval()
    codes = layer.encode(randn(50, 4))
    total = torch.zeros(50, 4)
    for n, part in enumerate(layer.each(), start=1):
        total = total + part.decode(codes[:, n - 1])
        assert torch.equal(layer.decode(codes, n), total)
        cut = codes.clone()
        cut[:, n:] = -1
        assert torch.equal(layer.decode(cut), total)


def test_losses_of_all_stages_reach_the_encoder():
    layer = started(of={**VQ, "commitment": 1.0}, stages=3)
    x = randn(40, 4).requires_grad_()
    found = layer(x)
    expected, left = torch.zeros(40, 4), x.detach()
    for part, codes in zip(layer.each(), found.codes.unbind(-1), strict=True):
        left = left - part.decode(codes)
        expected += 2 * left / left.numel() / 3
    found.loss.backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("stages", [1, 4])
def test_the_gradient_of_the_values_arrives_once(stages):
    layer = started(of=VQ, stages=stages)
    x, grad = randn(40, 4).requires_grad_(), randn(40, 4, seed=2)
    layer(x).values.backward(grad)
    torch.testing.assert_close(x.grad, grad)


def test_the_rotation_is_from_the_input_to_the_sum():
    layer = started(of=VQ, stages=2, estimator="rotation")
    x, grad = randn(40, 4).requires_grad_(), randn(40, 4, seed=2)
    found = layer(x)
    found.values.backward(grad)
    expected = grad.norm(dim=1) * found.values.detach().norm(dim=1) / x.detach().norm(dim=1)
    torch.testing.assert_close(x.grad.norm(dim=1), expected)


def test_maps_of_stages_learn_from_the_values():
    layer = started(of={**VQ, "dim": 6}, stages=2)
    x, grad = randn(40, 6).requires_grad_(), randn(40, 6, seed=2)
    found = layer(x)
    found.values.backward(grad)
    torch.testing.assert_close(x.grad, grad)
    for part, codes in zip(layer.each(), found.codes.unbind(-1), strict=True):
        torch.testing.assert_close(part.projection.weight_out.grad, grad.t() @ part.table[codes])
        torch.testing.assert_close(part.projection.bias_out.grad, grad.sum(0))
        assert float(part.projection.weight_in.grad.norm()) > 0


def test_dropped_stages_are_minus_one_and_the_rest_is_the_prefix():
    layer = started(
        of={"kind": "fixed", "codebook": "dn(dim=4, bits=2)", "scale": "fixed"},
        stages=4,
        dropout=0.7,
    )
    x = randn(300, 5, 4)
    full = layer.eval().encode(x)
    found = layer.train()(x)
    kept = (found.codes >= 0).sum(-1)
    assert bool((kept == kept[:, :1]).all())  # a sample drops the same stages everywhere
    share = torch.bincount(kept[:, 0], minlength=5) / 300
    assert (
        share[0] == 0
        and float((share - torch.tensor([0, 0.175, 0.175, 0.175, 0.475])).abs().max()) < 0.08
    )
    for n in range(1, 5):
        own = kept[:, 0] == n
        assert torch.equal(found.codes[own][..., :n], full[own][..., :n])
        assert bool((found.codes[own][..., n:] == -1).all())
        assert torch.equal(found.values[own], layer.decode(full[own], n))


def test_dropout_depends_on_seed_and_step_alone():
    layers = [make("residual", of=FSQ, stages=3, dropout=1.0, seed=seed) for seed in (0, 0, 1)]
    x, found = randn(64, 4), []
    torch.manual_seed(1)
    for layer in layers:
        found.append([(layer(x).codes >= 0).sum(-1) for _ in range(2)])
        torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[2][0]) and not torch.equal(found[0][0], found[0][1])
    other = make("residual", of=FSQ, stages=3, dropout=1.0)
    other.load_state_dict(layers[0].state_dict())
    assert torch.equal(other(x).codes, layers[0](x).codes)
    assert bool((layers[0].eval()(x).codes >= 0).all())


def test_dropped_stages_learn_nothing():
    layer = started(of={**VQ, "decay": 0.5}, stages=2, dropout=1.0)
    layer.kept = lambda samples: torch.ones(samples, dtype=torch.int64)
    first, second = (part.table.clone() for part in layer.each())
    for turn in range(3):
        layer(randn(60, 4, seed=turn))
    assert not torch.equal(layer.parts[0].table, first)
    assert torch.equal(layer.parts[1].table, second)


def test_names_of_losses_and_statistics():
    found = started(of=[VQ, {**VQ, "commitment": 0.5}, FSQ])(randn(30, 4))
    assert set(found.losses) == {"commitment_stage0", "commitment_stage1"}
    assert found.weights == {"commitment_stage0": 0.25, "commitment_stage1": 0.5}
    assert {"perplexity_stage0", "utilization_stage2", "nonfinite"} <= set(found.stats)
    assert set(started(of=VQ, stages=2)(randn(30, 4)).losses) == {"commitment"}


def test_codes_of_different_shapes_lie_flat():
    layer = started(of=[VQ, {"kind": "fixed", "codebook": "scalar(bits=2)", "dim": 4}])
    assert layer.codes_shape == (5,) and layer.code_entries == (16, 4, 4, 4, 4)
    codes = layer.eval().encode(randn(7, 3, 4))
    assert torch.equal(codes[..., 0], layer.parts[0].encode(randn(7, 3, 4)))
    assert torch.equal(layer.decode(codes, 1), layer.parts[0].decode(codes[..., 0]))


def test_stages_have_seeds_of_their_own():
    layer = make("residual", of={**VQ, "dim": 6}, stages=2, seed=3)
    assert [part.seed for part in layer.each()] == [3, 4]
    assert not torch.equal(layer.parts[0].table, layer.parts[1].table)
    named = make("residual", of={**VQ, "seed": 9}, stages=2)
    assert torch.equal(named.parts[0].table, named.parts[1].table)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"of": VQ}, "how many"),
        ({"of": []}, "list of parts"),
        ({"of": [VQ], "stages": 2}, "lists 1 parts"),
        ({"of": [VQ, {**FSQ, "levels": [3] * 5}]}, "one dimension"),
        ({"of": {"levels": [3]}, "stages": 2}, "kind"),
        ({"of": {"kind": "vqq"}, "stages": 2}, "unknown quantizer"),
        ({"of": VQ, "stages": 2, "dropout": 1.5}, "dropout"),
        ({"of": VQ, "stages": 2, "estimator": "none"}, "estimator"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        make("residual", **config)
