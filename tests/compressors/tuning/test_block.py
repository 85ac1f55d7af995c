import pytest
import torch
from torch import nn

from vq.compressors.calibration.calibrate import Activations
from vq.compressors.tuning.block import BlockTuner
from vq.compressors.tuning.gains import Gains, free_parameters
from vq.compressors.tuning.options import TuneOptions


class Block(nn.Module):
    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.norm = nn.LayerNorm(8)
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)
        for layer in (self.first, self.last):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) / 3
            layer.requires_grad_(False)

    def forward(self, x):
        return x + self.last(torch.relu(self.first(self.norm(x))))


@pytest.fixture
def setup():
    generator = torch.Generator().manual_seed(5)
    original, block = Block(0), Block(0)
    hidden = [torch.randn(1, 40, 8, generator=generator) for _ in range(16)]
    inputs = Activations(hidden, [[((), {})] * 16])
    with torch.no_grad():
        wanted = [original(x) for x in hidden]
        rough = block.first.weight
        rough += 0.3 * torch.randn(rough.shape, generator=generator) * rough.abs().mean()
    return block, inputs, wanted


def tuner_of(setup, **options):
    block, inputs, wanted = setup
    values = {"block_epochs": 12, "block_rate": 0.02, "block_gain_rate": 0.02, **options}
    return BlockTuner(block, 0, inputs, wanted, TuneOptions(**values))


def test_what_is_free_makes_up_for_what_is_rounded(setup):
    block = setup[0]
    rounded, last = block.first.weight.clone(), block.last.weight.clone()
    tuner = tuner_of(setup)
    losses = tuner.tune({"first": block.first}, 1.0, seed=0)
    assert losses["after"] < 0.7 * losses["before"]
    assert float(tuner.held_out_loss()) == pytest.approx(losses["after"], rel=1e-5)
    assert torch.equal(block.first.weight, rounded) and not torch.equal(block.last.weight, last)
    assert tuner.held_out == [7, 15] and 7 not in tuner.train


def test_the_loss_is_relative_to_a_tokens_energy(setup):
    block, inputs, wanted = setup
    with torch.no_grad():
        output = block(inputs.hidden[3])
        error = (output - wanted[3]).square().sum(-1) / wanted[3].square().sum(-1)
    assert float(tuner_of(setup).loss(3).detach()) == pytest.approx(float(error.mean()), rel=1e-5)


def test_a_tuning_that_helps_not_is_undone(setup):
    block = setup[0]
    before = {n: p.clone() for n, p in block.named_parameters()}
    losses = tuner_of(setup, block_rate=0.9, block_gain_rate=0.9, block_epochs=1).tune(
        {"first": block.first}, 1.0, seed=0
    )
    assert losses["after"] == losses["before"]
    assert all(torch.equal(p, before[n]) for n, p in block.named_parameters())


def test_the_same_seed_gives_the_same_numbers(setup):
    import copy

    twin = (copy.deepcopy(setup[0]), *setup[1:])
    for each in (setup, twin):
        tuner_of(each).tune({"first": each[0].first}, 1.0, seed=3)
    for p, q in zip(setup[0].parameters(), twin[0].parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_gain_is_a_factor_of_a_row():
    layer = nn.Linear(4, 3)
    x = torch.randn(5, 4)
    gains = Gains()
    gains.attach({"layer": layer})
    gains.attach({"layer": layer})  # a second time changes nothing
    (gain,) = gains.values()
    gain.data = torch.tensor([0.5, 2.0, -1.0])
    wanted = nn.functional.linear(x, layer.weight * gain[:, None], layer.bias)
    assert torch.allclose(layer(x), wanted, atol=1e-6)
    assert torch.equal(gains.detach()["layer"], gain)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_free_parameters_leave_the_rounded_out():
    block = Block(0)
    matrices, others = free_parameters(block, [block.first])
    assert [id(p) for p in matrices] == [id(block.last.weight)]
    assert {id(p) for p in others} == {
        id(block.norm.weight), id(block.norm.bias), id(block.first.bias)
    }  # fmt: skip
    assert not block.first.weight.requires_grad
