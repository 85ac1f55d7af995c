import pytest
import torch
from torch import nn

from vq.compressors.calibration.calibrate import Activations


class Part(nn.Module):
    def __init__(self, form=lambda y: y):
        super().__init__()
        self.layer, self.form, self.runs = nn.Linear(4, 4), form, 0

    def forward(self, x):
        self.runs += 1
        return self.form(self.layer(x))


class Block(nn.Module):
    def __init__(self, times=1, in_place=False, form=lambda y: y):
        super().__init__()
        self.part, self.rest = Part(form), nn.Linear(4, 4)
        self.times, self.in_place = times, in_place

    def forward(self, x):
        for _ in range(self.times):
            y = self.part(x)
            y = y[0] if isinstance(y, tuple) else y
            x = y.add_(x) if self.in_place else x + y
        return x + self.rest(x)


def setting(**how):
    torch.manual_seed(0)
    block = Block(**how)
    hidden = [torch.randn(1, 5, 4) for _ in range(3)]
    return block, Activations(hidden, [[((), {})] * 3])


def outputs(block, activations):
    return [activations.run(block, 0, window) for window in range(3)]


@pytest.mark.parametrize("times", [1, 2])
def test_a_settled_part_runs_once_a_window_and_nothing_changes(times):
    block, activations = setting(times=times)
    usual = outputs(block, activations)
    activations.settle(block.part)
    block.part.runs = 0
    for _ in range(3):
        found = outputs(block, activations)
        assert all(torch.equal(a, b) for a, b in zip(found, usual, strict=True))
    assert block.part.runs == 3 * times


def test_the_rest_of_the_block_may_change():
    block, activations = setting()
    activations.settle(block.part)
    outputs(block, activations)
    with torch.no_grad():
        block.rest.weight.mul_(2)
    found = outputs(block, activations)
    activations.forget()
    assert all(torch.equal(a, b) for a, b in zip(found, outputs(block, activations), strict=True))


def test_forgetting_runs_the_part_again():
    block, activations = setting()
    activations.settle(block.part)
    outputs(block, activations)
    activations.forget()
    with torch.no_grad():
        block.part.layer.weight.mul_(2)
    found = outputs(block, activations)
    assert "forward" not in vars(block.part)
    fresh = Block()
    fresh.load_state_dict(block.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(found, outputs(fresh, activations), strict=True))


def test_a_block_that_writes_into_what_a_part_gave_is_run_as_usual():
    block, activations = setting(in_place=True)
    usual = outputs(block, activations)
    activations.settle(block.part)
    for _ in range(3):
        found = outputs(block, activations)
        assert all(torch.equal(a, b) for a, b in zip(found, usual, strict=True))


@pytest.mark.parametrize(
    "form", [lambda y: (y, None), lambda y: (y, y.repeat(1, 1, 9)), lambda y: (y, [y])]
)
def test_tuples_are_kept_unless_they_are_large_or_hold_other_things(form):
    block, activations = setting(form=form)
    usual = outputs(block, activations)
    activations.settle(block.part)
    block.part.runs = 0
    for _ in range(2):
        found = outputs(block, activations)
        assert all(torch.equal(a, b) for a, b in zip(found, usual, strict=True))
    assert block.part.runs == (3 if form(torch.ones(1, 1, 1))[1] is None else 6)
