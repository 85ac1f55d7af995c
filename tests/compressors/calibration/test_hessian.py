import pytest
import torch
from torch import nn

from vq.compressors.calibration.calibrate import capture
from vq.compressors.calibration.hessian import Hessian, attention_weights, collect_hessians
from vq.compressors.files.source import open_source
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.rounding.round import block_ldl
from vq.compressors.structure.experts import UnfusedExperts
from vq.compressors.structure.skeleton import build_skeleton
from vq.errors import VqError


def test_weights_make_a_weighted_mean():
    x, weight = torch.randn(9, 5), torch.rand(9)
    hessian = Hessian(torch.zeros(5, 5))
    hessian.add(x[:4], weight[:4])
    hessian.add(x[4:], weight[4:])
    expected = (
        sum(w * torch.outer(row, row) for w, row in zip(weight, x, strict=True)) / weight.sum()
    )
    torch.testing.assert_close(hessian.mean(), expected)
    assert hessian.count == 9


def test_weights_that_are_all_one_change_nothing():
    x = torch.randn(6, 4)
    plain, weighted = Hessian(torch.zeros(4, 4)), Hessian(torch.zeros(4, 4))
    plain.add(x)
    weighted.add(x, torch.ones(6))
    assert torch.equal(plain.mean(), weighted.mean())


def test_broken_vectors_name_their_channels():
    x = torch.ones(4, 6)
    x[1, 2], x[3, 5] = float("nan"), float("inf")
    hessian = Hessian(torch.zeros(6, 6))
    hessian.add(x, torch.ones(4))
    assert (hessian.count, hessian.skipped, hessian.broken) == (2, 2, [2, 5])


def test_a_sum_that_overflows_leaves_the_other_channels():
    x = torch.randn(50, 4)
    x[:, 1] = 1e30
    hessian = Hessian(torch.zeros(4, 4))
    hessian.add(x)
    mean = hessian.mean()
    good = [0, 2, 3]
    assert bool(torch.isfinite(mean).all()) and hessian.broken == [1]
    assert float(mean[1].abs().sum() + mean[:, 1].abs().sum()) == 0
    torch.testing.assert_close(mean[good][:, good], x[:, good].t() @ x[:, good] / 50)


def test_damping_grows_until_an_indefinite_matrix_decomposes():
    metric = torch.diag(torch.tensor([4.0, 3.0, 2.0, -0.5]))
    feedback, damping = block_ldl(metric, 1, 0.01)
    assert damping > 0.2 and bool(torch.isfinite(feedback).all())
    _, usual = block_ldl(metric.abs(), 1, 0.01)
    assert usual == 0.01
    with pytest.raises(ValueError, match="even damping 1000"):
        block_ldl(torch.full((4, 4), float("nan")), 1, 0.01)


class Attention(nn.Module):
    """Gives probabilities as its second result, like the eager attention of transformers."""

    def __init__(self, probabilities):
        super().__init__()
        self.probabilities = probabilities

    def forward(self, x):
        return x, self.probabilities


def test_tokens_that_receive_attention_count_more():
    scores = torch.randn(1, 3, 7, 7).softmax(-1)
    block = nn.Sequential(Attention(scores))
    found = attention_weights(block, lambda: block(torch.zeros(1)), least=0.1)
    received = [
        sum(float(scores[0, head, query, key]) for head in range(3) for query in range(7))
        for key in range(7)
    ]
    low, high = min(received), max(received)
    expected = [(0.1 + 0.9 * (r - low) / (high - low)) ** 2 for r in received]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert float(found.min()) == pytest.approx(0.01) and float(found.max()) == pytest.approx(1)


def test_blocks_without_probabilities():
    plain = nn.Sequential(nn.Linear(2, 2))
    assert attention_weights(plain, lambda: plain(torch.zeros(1, 2))) is None
    silent = nn.Sequential(Attention(None))
    with pytest.raises(VqError, match="Attention gives no attention probabilities"):
        attention_weights(silent, lambda: silent(torch.zeros(1)))


def test_experts_get_the_weights_of_their_tokens():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.has_gate, self.has_bias, self.is_transposed = True, False, False
            self.num_experts = 2
            self.gate_up_proj = nn.Parameter(torch.randn(2, 6, 4))
            self.down_proj = nn.Parameter(torch.randn(2, 4, 3))

        def _apply_gate(self, x):
            gate, up = x.chunk(2, -1)
            return gate * up

    experts = UnfusedExperts(Fused(), device="cpu")
    x, weight = torch.randn(5, 4), torch.rand(5)
    index = torch.tensor([[0], [1], [0], [1], [1]])
    layer = experts.unfused[1].gate_up
    run = lambda: experts(x, index, torch.ones(5, 1))  # noqa: E731
    (hessian,) = collect_hessians([["a"]], {"a": layer}, [run], torch.float32, [weight])
    chosen, w = x[[1, 3, 4]], weight[[1, 3, 4]]
    torch.testing.assert_close(hessian.mean(), (chosen * w[:, None]).t() @ chosen / w.sum())


@pytest.mark.hf
def test_attention_weights_in_a_model(llama, text, tmp_path):
    options = {"codebook": "scalar(bits=2)", "windows": 3, "context": 16}
    results = {
        kind: compress(
            llama,
            tmp_path / kind,
            options=CompressOptions(**options, token_weights=kind),
            calibration=text,
        ).report["layers"]
        for kind in ("none", "attention")
    }
    name = "model.layers.0.self_attn.q_proj"
    assert results["none"][name]["tokens"] == results["attention"][name]["tokens"] == 48
    assert results["none"][name]["proxy_error"] != results["attention"][name]["proxy_error"]


@pytest.mark.hf
def test_attention_weights_are_those_of_the_model(llama, tmp_path):
    """The skeleton's weights against probabilities that the whole model gives."""
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(60, (1, 12), generator=torch.Generator().manual_seed(5))
    skeleton = build_skeleton(open_source(llama, tmp_path), attention="eager")
    activations = capture(skeleton, tokens)
    block = skeleton.blocks[0]
    skeleton.fill(block, "model.layers.0")
    found = attention_weights(block, activations.runs(block, 0)[0])
    model = AutoModelForCausalLM.from_pretrained(
        llama, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        maps = model(tokens, output_attentions=True).attentions[0]
    received = maps[0].sum((0, 1))
    scale = (received - received.min()) / (received.max() - received.min())
    torch.testing.assert_close(found, (0.01 + 0.99 * scale) ** 2)


@pytest.mark.hf
def test_original_inputs(llama, text, tmp_path, monkeypatch):
    """With calibrate_on original, the last block sees what it sees in the original model."""
    import vq
    from vq.compressors.rounding.block import BlockQuantizer

    seen = []
    usual = BlockQuantizer.quantize

    def watch(self, index, activations):
        seen.append(activations.hidden[0].clone())
        return usual(self, index, activations)

    monkeypatch.setattr(BlockQuantizer, "quantize", watch)
    options = {"codebook": "scalar(bits=2)", "windows": 2, "context": 16}
    tokens = torch.randint(60, (2, 16), generator=torch.Generator().manual_seed(5))
    chosen = CompressOptions(**options, calibrate_on="original")
    compress(llama, tmp_path / "a", options=chosen, calibration=tokens)
    original = seen[2]
    seen.clear()
    compress(llama, tmp_path / "b", options=CompressOptions(**options), calibration=tokens)
    assert not torch.allclose(original, seen[2], atol=1e-2)
    model, inputs = vq.load(llama, dtype=torch.float32), []
    model.model.layers[2].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    with torch.no_grad():
        for window in tokens:
            model(window[None])
    assert any(torch.allclose(original, x, atol=1e-5) for x in inputs)


@pytest.mark.hf
def test_too_few_tokens_are_told_with_numbers(llama, text, tmp_path):
    options = CompressOptions(codebook="scalar(bits=2)", windows=2, context=16)
    result = compress(llama, tmp_path / "o", options=options, calibration=text)
    (line,) = result.warnings
    assert "3 of 21 layers saw fewer" in line and "down_proj only 32 for 48" in line
