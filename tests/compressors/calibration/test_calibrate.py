from functools import partial

import pytest
import torch
from torch import nn

from vq.compressors.calibration.calibrate import Hessian, capture, collect_hessians, group_by_input
from vq.compressors.files.source import open_source
from vq.compressors.structure.skeleton import build_skeleton
from vq.errors import VqError


def random_tokens(windows=3, context=16):
    return torch.randint(60, (windows, context), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hessian_is_the_mean_outer_product(dtype):
    parts = [torch.randn(2, 5, 12), torch.randn(1, 3, 12), torch.randn(4, 12)]
    hessian = Hessian(torch.zeros(12, 12, dtype=dtype))
    for part in parts:
        hessian.add(part)
    rows = torch.cat([part.reshape(-1, 12) for part in parts]).double()
    expected = sum(torch.outer(row, row) for row in rows) / len(rows)
    assert hessian.count == len(rows) == 17
    torch.testing.assert_close(hessian.mean().double(), expected, atol=1e-5, rtol=1e-5)


def test_not_finite_inputs_are_left_out_and_counted():
    x = torch.randn(6, 4)
    hessian = Hessian(torch.zeros(4, 4))
    spoiled = x.clone()
    spoiled[2, 1], spoiled[4, 0] = float("nan"), float("inf")
    hessian.add(spoiled)
    good = x[[0, 1, 3, 5]]
    torch.testing.assert_close(hessian.mean(), good.t() @ good / 4)
    assert (hessian.count, hessian.skipped) == (4, 2)


def test_dead_channels_and_no_inputs():
    hessian = Hessian(torch.zeros(3, 3))
    assert hessian.mean() is None and hessian.dead() == 0
    hessian.add(torch.tensor([[1.0, 0.0, 2.0]]))
    assert hessian.dead() == 1


class Shared(nn.Module):
    """Two layers on one tensor, one on a copy of it, one on another tensor, one never called."""

    def __init__(self):
        super().__init__()
        self.late = nn.Linear(4, 4)
        self.a, self.b, self.copy, self.never = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        y = self.a(x) + self.b(x) + self.copy(x.clone())
        return self.late(y)


def test_layers_are_grouped_by_the_tensor_they_see():
    block = Shared()
    layers = dict(block.named_children())
    groups = group_by_input(block, layers, lambda: block(torch.randn(2, 4)))
    assert groups == [["a", "b"], ["copy"], ["late"], ["never"]]
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def test_hooks_are_removed_when_a_run_fails():
    block = Shared()
    layers = dict(block.named_children())
    with pytest.raises(RuntimeError):
        collect_hessians([["a"]], layers, [lambda: block(torch.randn(2, 5))])
    assert not any(layer._forward_pre_hooks for layer in layers.values())


def full_model_inputs(folder, tokens):
    """Inputs of every block and linear layer, seen by hooks in the whole model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, list[torch.Tensor]] = {}

    def hook(name):
        return lambda _m, args, kwargs: seen.setdefault(name, []).append(
            args[0] if args else kwargs["hidden_states"]
        )

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) or name.split(".")[-1].isdigit():
            module.register_forward_pre_hook(hook(name), with_kwargs=True)
    with torch.no_grad():
        for row in tokens:
            model(row[None], use_cache=False)
    return seen


@pytest.mark.hf
@pytest.mark.parametrize("kind", ["llama", "biased", "gemma3"])
def test_block_by_block_equals_the_whole_model(kind, request, build_model, tmp_path):
    if kind == "gemma3":  # masks and positions that differ between layers
        extra = {
            "head_dim": 8,
            "sliding_window": 5,
            "layer_types": ["sliding_attention", "full_attention"],
        }
        folder = build_model(tmp_path / "g", "gemma3_text", layers=2, **extra)
    else:
        folder = request.getfixturevalue(kind)
    tokens = random_tokens()
    expected = full_model_inputs(folder, tokens)
    skeleton = build_skeleton(open_source(folder, tmp_path))
    activations = capture(skeleton, tokens)
    assert all(p.is_meta for p in skeleton.model.parameters())
    for index, block in enumerate(skeleton.blocks):
        name = skeleton.block_name(index)
        for window, hidden in enumerate(activations.hidden):
            assert torch.equal(hidden, expected[name][window])
        skeleton.fill(block, name)
        linears = skeleton.linears(index)
        runs = [partial(activations.run, block, index, w) for w in range(3)]
        groups = group_by_input(block, linears, runs[0])
        assert [[n.split(".")[-1] for n in g] for g in groups] == [
            ["q_proj", "k_proj", "v_proj"],
            ["o_proj"],
            ["gate_proj", "up_proj"],
            ["down_proj"],
        ]
        hessians = collect_hessians(groups, linears, runs, torch.float64)
        for group, hessian in zip(groups, hessians, strict=True):
            for member in group:
                x = torch.cat([t.reshape(-1, t.shape[-1]) for t in expected[member]]).double()
                torch.testing.assert_close(hessian.mean(), x.t() @ x / len(x))
        activations.advance(block, index, name)
        skeleton.empty(block)


@pytest.mark.hf
def test_masks_and_positions_are_kept_once(llama, tmp_path):
    activations = capture(build_skeleton(open_source(llama, tmp_path)), random_tokens(4))
    kinds = {id(call) for calls in activations.calls for call in calls}
    assert len(kinds) == 1


@pytest.mark.hf
def test_overflow_names_the_block_and_window(llama, tmp_path):
    skeleton = build_skeleton(open_source(llama, tmp_path))
    activations = capture(skeleton, random_tokens())
    skeleton.fill(skeleton.blocks[0], "model.layers.0")
    activations.hidden[1][0, 0, 0] = float("inf")
    with pytest.raises(VqError, match=r"model\.layers\.0.*window 1 is not finite"):
        activations.advance(skeleton.blocks[0], 0, "model.layers.0")
