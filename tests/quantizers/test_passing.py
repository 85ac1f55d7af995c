"""Values, gradients and distances in one node, and the short cuts where every vector counts."""

import copy

import pytest
import torch

from vq.quantizers import compose, make, passing, residual, revival, stack, table
from vq.quantizers.estimators import estimator as find_estimator
from vq.quantizers.passing import measure, passed, pull

KMEANS = "kmeans(dim=6, entries=32, iterations=3)"
VQ = {"kind": "vq", "codebook": KMEANS, "every": 2, "decay": 0.8, "revival": 0.5}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["straight", "rotation"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_gradients_are_those_of_the_formulas(name, lanes):
    x, first, second = randn(20, 5).requires_grad_(), randn(20, 5, seed=1), randn(20, 5, seed=2)
    valid = torch.arange(20) % 3 > 0
    other = x if lanes == 1 else x.detach().clone().requires_grad_()
    gaps = [measure(x, rows, valid, False) for rows in (first, first + second)]
    values, losses = passed(x, None if lanes == 1 else other, first + second, gaps, name)
    grad = randn(20, 5, seed=3)
    ((values * grad).sum() + 0.5 * losses[0] + 7 * losses[1]).backward()

    z = x.detach().clone().requires_grad_()
    lane = z if lanes == 1 else z.detach().clone().requires_grad_()
    means = [(z - rows)[valid].square().mean() for rows in (first, first + second)]
    estimate = find_estimator(name)(lane, first + second)
    ((estimate * grad).sum() + 0.5 * means[0] + 7 * means[1]).backward()
    assert torch.equal(values, first + second)
    torch.testing.assert_close(losses, tuple(means))
    torch.testing.assert_close(x.grad, z.grad)
    torch.testing.assert_close(other.grad, lane.grad)


def test_a_gradient_that_is_handed_in_is_left_as_it_is():
    x, rows, grad = (randn(4, 3, seed=i) for i in range(3))
    x.requires_grad_()
    values, losses = passed(x, None, rows, [measure(x, rows, torch.ones(4) > 0, True)], "straight")
    torch.autograd.backward([values, losses[0]], [grad, torch.ones(())])
    assert torch.equal(grad, randn(4, 3, seed=2)) and not torch.equal(x.grad, grad)


def test_rows_are_pulled_to_their_points():
    x, rows = randn(20, 5), randn(20, 5, seed=1).requires_grad_()
    valid = torch.arange(20) % 3 > 0
    loss = pull(rows, measure(x, rows, valid, False))
    loss.backward()
    other = rows.detach().clone().requires_grad_()
    expected = (x - other)[valid].square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(rows.grad, other.grad)


def test_losses_alone_leave_the_lane_of_the_values_alone():
    x, lane, rows = (randn(4, 3, seed=i).requires_grad_() for i in range(3))
    values, losses = passed(x, lane, rows, [measure(x, rows, torch.ones(4) > 0, True)], "rotation")
    losses[0].backward(retain_graph=True)
    assert lane.grad is None and rows.grad is None and x.grad is not None
    x.grad = None
    values.sum().backward()
    assert x.grad is None and lane.grad is not None


def run(layer, lanes=1, mask=None):
    """Some training steps: everything that comes out of them."""
    found = []
    for turn in range(5):
        x = randn(40, 4, layer.dim, seed=turn).requires_grad_()
        other = x if lanes == 1 else x.detach().clone().requires_grad_()
        result = layer.run(x, other, mask)
        (result.values.square().sum() + result.loss).backward()
        stats = {key: value.float() for key, value in result.stats.items()}
        found.append((result.values, result.codes, result.losses, stats, x.grad, other.grad))
    return found, dict(layer.state_dict()), [p.grad for p in layer.parameters()]


def same(one, two):
    torch.testing.assert_close(one[0], two[0])
    for a, b in zip(one[0], two[0], strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])  # values and codes, to the bit
    torch.testing.assert_close(one[1:], two[1:])


@pytest.mark.parametrize(
    "config",
    [
        VQ,
        {**VQ, "learn": "gradient", "dim": 9},
        {**VQ, "lookup": "cosine", "estimator": "rotation"},
        {"kind": "simvq", "codebook": "simvq(dim=6, entries=32)"},
        {"kind": "ibq", "codebook": KMEANS},
        {"kind": "residual", "of": VQ, "stages": 3},
        {"kind": "multiscale", "of": VQ, "strides": [2, 1]},
        {"kind": "fsq", "levels": [5, 4], "dim": 6, "normalise": True},
    ],
    ids=lambda config: f"{config['kind']}{len(str(config))}",
)
def test_the_short_cuts_change_nothing(config, monkeypatch):
    arguments = dict(config)
    layer = make(arguments.pop("kind"), **arguments)
    other, short = copy.deepcopy(layer), run(layer)
    for module in (compose, passing, residual, stack, table):
        monkeypatch.setattr(module, "everything", lambda valid: False)
    monkeypatch.setattr(revival, "nothing", lambda flags: False)
    same(short, run(other))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {"of": VQ, "stages": 3},
        {"of": [VQ, {**VQ, "commitment": 1.0}], "dropout": 0.7, "estimator": "rotation"},
    ],
    ids=["straight", "rotation"],
)
@pytest.mark.parametrize("lanes", [1, 2])
def test_tables_in_one_node_are_the_stages_one_by_one(config, lanes, masked, monkeypatch):
    layer = make("residual", **config)
    other = copy.deepcopy(layer)
    mask = torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) < 0.7 if masked else None
    fused = run(layer, lanes, mask)
    assert float(sum(step[3]["revived_stage0"] for step in fused[0])) > 0
    monkeypatch.setattr(residual, "plain_tables", lambda parts: None)
    same(fused, run(other, lanes, mask))


def test_which_stages_go_into_one_node():
    plain = make("residual", of=VQ, stages=2)
    assert stack.plain_tables(plain.each()) == plain.each()
    for more in ({"dim": 9}, {"learn": "gradient"}, {"lookup": "angle"}):
        assert stack.plain_tables(make("residual", of={**VQ, **more}, stages=2).each()) is None
    mixed = make("residual", of=[VQ, {"kind": "fsq", "levels": [3] * 6}])
    assert stack.plain_tables(mixed.each()) is None


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "vq", "codebook": KMEANS, "learn": "gradient", "estimator": "rotation"},
        {"kind": "simvq", "codebook": "simvq(dim=6, entries=32)", "dim": 9},
        {"kind": "residual", "of": VQ, "stages": 3, "estimator": "rotation"},
    ],
    ids=lambda config: config["kind"],
)
def test_gradients_of_a_compiled_graph(config):
    torch._dynamo.reset()
    arguments = dict(config)
    plain = make(arguments.pop("kind"), **arguments)
    own, grads = copy.deepcopy(plain), []
    compiled = torch.compile(own, fullgraph=True, backend="aot_eager")
    for layer, call in ((plain, plain), (own, compiled)):
        x = randn(30, layer.dim).requires_grad_()
        found = call(x, torch.arange(30) % 4 > 0)
        (found.values.square().sum() + found.loss).backward()
        grads.append((x.grad, [p.grad for p in layer.parameters()]))
    torch.testing.assert_close(*grads)
