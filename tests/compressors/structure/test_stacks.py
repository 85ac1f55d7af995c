import pytest
from torch import nn

from vq.compressors.structure.stacks import find_stacks
from vq.errors import VqError


def layers(width, count=2):
    return nn.ModuleList([nn.Sequential(nn.Linear(width, width)) for _ in range(count)])


def test_small_lists_and_lists_inside_blocks_are_no_stacks():
    model = nn.Module()
    model.heads = nn.ModuleList([nn.Linear(2, 2)])
    model.body = layers(40)
    model.body[0].add_module("experts", layers(40))
    assert find_stacks(model, "x") == ["body"]


def test_two_stacks_in_the_order_of_the_model():
    model = nn.Module()
    model.encoder = nn.Module()
    model.encoder.layers = layers(9)
    model.decoder = nn.Module()
    model.decoder.layers = layers(20)
    model.norms = nn.ModuleList([nn.LayerNorm(1000)])
    assert find_stacks(model, "x") == ["encoder.layers", "decoder.layers"]


def test_no_stack():
    with pytest.raises(VqError, match="x: found no list of blocks"):
        find_stacks(nn.Linear(2, 2), "x")
