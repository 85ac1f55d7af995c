from functools import partial

import pytest
import torch
from torch import nn

from vq.compressors.calibration.hessian import Hessian
from vq.compressors.tuning.closed import Drift, Inputs, compensate, input_of, measure_drift


class Ends(nn.Module):
    """A block whose last layer's output is added to its input's."""

    def __init__(self, generator):
        super().__init__()
        self.up = nn.Linear(6, 10, bias=False)
        self.down = nn.Linear(10, 6, bias=False)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


@pytest.fixture
def blocks():
    generator = torch.Generator().manual_seed(0)
    original, block = Ends(generator), Ends(generator)
    block.load_state_dict(original.state_dict())
    seen = [torch.randn(1, 50, 6, generator=generator) for _ in range(3)]
    bent = [x + 0.2 * torch.randn(x.shape, generator=generator) @ torch.ones(6, 6) for x in seen]
    return original, block, seen, bent


def drift_of(blocks, name, ends, weights=None):
    original, block, seen, bent = blocks
    runs = [lambda x=x: block(x) for x in bent]
    original_runs = [lambda x=x: original(x) for x in seen]
    wanted = [run() for run in original_runs]
    layer = getattr(original, name)
    inputs = [partial(input_of, layer, run) for run in original_runs]
    with torch.no_grad():
        return measure_drift(
            getattr(block, name), inputs, runs, wanted if ends else None, weights,
        )  # fmt: skip


def test_the_minimum_is_that_of_least_squares(blocks):
    original, block, seen, bent = blocks
    drift = drift_of(blocks, "up", ends=False)
    compensate({"up": block.up}, drift, 1e-6)
    x, y = torch.cat(bent, 1)[0], original.up(torch.cat(seen, 1))[0]
    wanted = torch.linalg.lstsq(x, y.detach()).solution.t()
    assert torch.allclose(block.up.weight, wanted, atol=1e-3)
    assert drift.hessian.count == 150


def test_the_last_layer_brings_the_blocks_output_back(blocks):
    original, block, seen, bent = blocks
    tokens = [x.square().mean(-1) + 0.5 for x in seen]
    drift = drift_of(blocks, "down", ends=True, weights=tokens)
    compensate({"down": block.down}, drift, 1e-6)
    x, y = torch.cat(bent, 1)[0], original(torch.cat(seen, 1))[0]
    root = torch.cat(tokens, 1)[0].sqrt()[:, None]
    inner = torch.tanh(block.up(x))
    wanted = torch.linalg.lstsq(root * inner, root * (y - x).detach()).solution.t()
    assert torch.allclose(block.down.weight, wanted, atol=2e-3)


def test_a_large_ridge_leaves_the_weights(blocks):
    _, block, _, _ = blocks
    before = block.up.weight.clone()
    compensate({"up": block.up}, drift_of(blocks, "up", ends=False), 1e8)
    assert torch.allclose(block.up.weight, before, atol=1e-5)


def test_what_cannot_be_solved_changes_nothing():
    layer = nn.Linear(4, 3, bias=False)
    before = layer.weight.clone()
    bad = Hessian(-torch.eye(4), 1, mass=1.0)
    compensate({"x": layer}, Drift(bad, torch.eye(4), None), 0.01)
    assert torch.equal(layer.weight, before)


def test_inputs_are_those_of_every_run(blocks):
    original, _, seen, _ = blocks
    kept = Inputs(original, {"up": original.up, "down": original.down})
    for x in seen:
        original(x)
    kept.close()
    original(seen[0])  # not watched any more
    found = kept.take("down")
    assert len(found) == len(seen)
    for x, y in zip(seen, found, strict=True):
        assert torch.equal(y, torch.tanh(original.up(x)))
    assert kept.take("down") is None, "given away"


def test_inputs_of_a_layer_that_is_not_called_once_in_a_run_are_not_kept(blocks):
    _, block, seen, _ = blocks

    class Often(nn.Module):
        def forward(self, x):
            return block.up(x) + block.up(x) + block.down(block.up(x)).mean()

    often = Often()
    kept = Inputs(often, {"up": block.up, "down": block.down})
    for x in seen:
        often(x)
    kept.close()
    assert kept.take("up") is None
    assert len(kept.take("down")) == len(seen)
