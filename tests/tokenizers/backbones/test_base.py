"""What every backbone promises."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers.backbones import BACKBONES, make_backbone, register_backbone
from vq.tokenizers.backbones.base import Backbone

SMALL = {
    "conv2d-2": ("conv2d", {"factor": 2, "dim": 4, "width": 8}),
    "conv2d-4": ("conv2d", {"factor": 4, "dim": 4, "width": 8, "decoder_blocks": 2}),
    "conv2d-8": ("conv2d", {"factor": 8, "dim": 4, "width": 4, "channels": 1}),
    "lapped": ("lapped", {"patch": 4, "dim": 4, "width": 8, "decoder_blocks": 1, "kernel": 5}),
    "lapped-grey": ("lapped", {"patch": 2, "dim": 3, "width": 8, "blocks": 1, "channels": 1}),
    "seanet": ("seanet", {"strides": [2, 3], "dim": 4, "width": 4}),
    "seanet-causal": ("seanet", {"strides": [3, 2], "dim": 4, "width": 4, "causal": True}),
    "seanet-snake": (
        "seanet",
        {"strides": [4], "dim": 3, "width": 4, "activation": "snake", "channels": 2},
    ),
    "vit": ("vit", {"patch": 2, "tile": 3, "dim": 4, "width": 8, "layers": 1, "heads": 2}),
    "vocos": ("vocos", {"hop": 6, "dim": 4, "width": 8, "blocks": 1, "decoder_blocks": 2}),
    "vocos-causal": ("vocos", {"hop": 4, "dim": 4, "width": 8, "overlap": 2, "causal": True}),
    "vocos-linear": (
        "vocos",
        {"hop": 4, "dim": 5, "width": 8, "blocks": 1, "channels": 2, "linear": True},
    ),
    "vocos-stereo": ("vocos", {"hop": 2, "dim": 3, "width": 8, "channels": 2, "overlap": 5}),
}
CASES = pytest.mark.parametrize("case", sorted(SMALL))


def build(case: str, seed: int = 0, double: bool = True) -> Backbone:
    name, config = SMALL[case]
    backbone = make_backbone(name, seed=seed, **config)
    return (backbone.double() if double else backbone).eval()


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_backbone_is_tried():
    assert {name for name, _ in SMALL.values()} == set(BACKBONES)


@CASES
def test_shapes_and_gradients(case):
    backbone = build(case)
    size = [2 * g for g in backbone.grain]
    x = noise(3, backbone.channels, *size)
    z = backbone.encode(x)
    assert z.shape == (3, backbone.dim, *backbone.positions(size))
    y = backbone(x)
    assert y.shape == x.shape
    assert_close(y, backbone.decode(z))
    y.square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert any(p is backbone.last_weight for p in backbone.decoder.parameters())


@CASES
def test_state_is_plain_and_still(case):
    """Parameters only (no statistics, no parametrised weights), and train mode gives what eval mode does."""
    backbone = build(case)
    state = backbone.state_dict()
    parameters = dict(backbone.named_parameters())
    buffers = {k for k in state if k not in parameters}
    assert not buffers and not any("parametrizations" in k or "weight_g" in k for k in state)
    x = noise(2, backbone.channels, *backbone.grain)
    before = {k: v.clone() for k, v in state.items()}
    in_eval = backbone(x)
    assert_close(backbone.train()(x), in_eval, rtol=0, atol=0)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


@CASES
def test_config_makes_an_equal_backbone(case):
    backbone = build(case)
    again = make_backbone(backbone.name, **json.loads(json.dumps(backbone.config()))).double()
    again.load_state_dict(backbone.state_dict())
    x = noise(1, backbone.channels, *backbone.grain)
    assert torch.equal(again(x), backbone(x))
    assert again.config() == backbone.config()
    assert (again.hop, again.tile, again.context) == (backbone.hop, backbone.tile, backbone.context)


@CASES
def test_seed_decides_the_weights(case):
    state = torch.random.get_rng_state()
    a, b, c = build(case), build(case), build(case, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    x = noise(1, a.channels, *a.grain)
    assert torch.equal(a(x), b(x)) and not torch.equal(a(x), c(x))


def changed_range(difference: torch.Tensor, axis: int) -> tuple[int, int]:
    """First and last index along an axis where anything differs."""
    others = [i for i in range(difference.ndim) if i != axis]
    where = difference.abs().amax(others).nonzero().flatten()
    return int(where[0]), int(where[-1])


@CASES
def test_context_is_the_receptive_field(case):
    """Disturb the samples of one tile: exactly the positions whose context holds it change."""
    backbone = build(case)
    for axis, (before, after) in enumerate(backbone.context):
        tile, grain = backbone.tile[axis], backbone.grain[axis]
        start = math.ceil(after / tile) + 2  # of the disturbed tile, in tiles
        tiles = start + math.ceil(before / tile) + 3
        size = [2 * g for g in backbone.grain]
        size[axis] = tiles * grain
        x = noise(1, backbone.channels, *size)
        y = x.clone()
        y.narrow(2 + axis, start * grain, grain).add_(1.0)
        difference = backbone.encode(y) - backbone.encode(x)
        first, last = changed_range(difference, 2 + axis)
        assert (first, last) == (start * tile - after, (start + 1) * tile - 1 + before)


@CASES
def test_decoder_context_is_its_receptive_field(case):
    backbone = build(case)
    for axis, (before, after) in enumerate(backbone.decoder_context):
        tile, hop = backbone.tile[axis], backbone.hop[axis]
        start = math.ceil(after / tile) + 2
        tiles = start + math.ceil(before / tile) + 3
        count = [2 * t for t in backbone.tile]
        count[axis] = tiles * tile
        z = noise(1, backbone.dim, *count)
        w = z.clone()
        w.narrow(2 + axis, start * tile, tile).add_(1.0)
        difference = backbone.decode(w) - backbone.decode(z)
        first, last = changed_range(difference, 2 + axis)
        found = (first // hop, last // hop)
        assert found == (start * tile - after, (start + 1) * tile - 1 + before)


@pytest.mark.parametrize("case", [c for c in sorted(SMALL) if "causal" in c])
def test_causal_backbones_do_not_look_ahead(case):
    backbone = build(case)
    assert all(after == 0 for _, after in backbone.context + backbone.decoder_context)
    hop = backbone.hop[0]
    x = noise(1, backbone.channels, 12 * hop)
    y = x.clone()
    y[..., 7 * hop :] = 0
    assert_close(backbone.encode(x)[..., :7], backbone.encode(y)[..., :7], rtol=0, atol=1e-14)
    assert_close(backbone(x)[..., : 7 * hop], backbone(y)[..., : 7 * hop], rtol=0, atol=1e-14)
    assert not torch.allclose(backbone.encode(x)[..., 7], backbone.encode(y)[..., 7])


@CASES
def test_wrong_shapes_are_named(case):
    backbone = build(case)
    size = [2 * g for g in backbone.grain]
    with pytest.raises(ValueError, match=r"expected signals \(B"):
        backbone.encode(noise(1, backbone.channels + 1, *size))
    with pytest.raises(ValueError, match="axes"):
        backbone.encode(noise(1, backbone.channels, *size, 4))
    with pytest.raises(ValueError, match=r"multiples of .*pad_to_grain"):
        backbone.encode(noise(1, backbone.channels, *(n + 1 for n in size)))
    with pytest.raises(ValueError, match="multiples"):
        backbone.encode(torch.zeros(1, backbone.channels, *(0 for _ in size)))
    with pytest.raises(ValueError, match=r"expected features \(B"):
        backbone.decode(noise(1, backbone.dim + 1, *backbone.tile))


@CASES
def test_weights_survive_a_file(case, tmp_path):
    from safetensors.torch import load_file, save_file

    backbone = build(case, double=False)
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    again = make_backbone(backbone.name, seed=5, **backbone.config())
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    x = noise(1, backbone.channels, *backbone.grain, dtype=torch.float32)
    assert torch.equal(again.encode(x), backbone.encode(x))


@CASES
def test_autocast_stays_near_single_precision(case):
    backbone = build(case, double=False)
    x = noise(1, backbone.channels, *(2 * g for g in backbone.grain), dtype=torch.float32)
    with torch.no_grad():
        exact = backbone(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = backbone(x)
    assert torch.isfinite(rough).all()
    assert (rough.float() - exact).abs().mean() < 0.05 * exact.abs().mean() + 0.01


@CASES
def test_an_item_is_encoded_as_if_alone(case):
    """Nothing is normalised over the batch."""
    backbone = build(case)
    x = noise(3, backbone.channels, *(2 * g for g in backbone.grain))
    for i in range(3):
        assert_close(backbone(x)[i : i + 1], backbone(x[i : i + 1]))


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="did you mean conv2d"):
        make_backbone("conv2")
    with pytest.raises(ValueError, match=r"no argument 'widht'; did you mean width"):
        make_backbone("conv2d", widht=3)
    with pytest.raises(ValueError, match="whole number from 1, got 0"):
        make_backbone("conv2d", dim=0)
    with pytest.raises(ValueError, match="whole number from 1, got True"):
        make_backbone("seanet", channels=True)
    with pytest.raises(ValueError, match="registered twice"):
        register_backbone("conv2d")(BACKBONES["conv2d"])
