"""Every kind of model: compress, load both ways, and the logits of the dense model with the same weights."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import vq
from vq.compressors.calibration.calibrate import Activations
from vq.compressors.layers.embedding import QuantizedEmbedding
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.structure.experts import UnfusedExperts
from vq.compressors.tuning.closed import Inputs
from vq.errors import VqError

pytestmark = pytest.mark.hf
FAST = CompressOptions(codebook="scalar(bits=2)", windows=3, context=16)
TRELLIS = CompressOptions(
    codebook="trellis(bits=2, memory=6, code=lut)", windows=3, context=16, layers={"*.1.*": "keep"}
)
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEQ = {
    "vocab_size": 64,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
KINDS = {
    "llama": ("llama", "LlamaForCausalLM", SMALL),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", SMALL),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", SMALL),
    "mistral": ("mistral", "MistralForCausalLM", SMALL),
    "gemma2": ("gemma2", "Gemma2ForCausalLM", SMALL),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM", {**SMALL, "sliding_window": 5}),
    "phi3": ("phi3", "Phi3ForCausalLM", SMALL),
    "phi": ("phi", "PhiForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "gpt2": (
        "gpt2",
        "GPT2LMHeadModel",
        {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    ),
    "opt": ("opt", "OPTForCausalLM", {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}),
    "mixtral": ("mixtral", "MixtralForCausalLM", {**SMALL, "num_local_experts": 4}),
    "qwen2_moe": (
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        {**SMALL, **MOE, "shared_expert_intermediate_size": 20},
    ),
    "qwen3_moe": ("qwen3_moe", "Qwen3MoeForCausalLM", {**SMALL, **MOE}),
    "gpt_oss": ("gpt_oss", "GptOssForCausalLM", {**SMALL, "num_local_experts": 4}),
    "bert": ("bert", "BertForMaskedLM", SMALL),
    "t5": (
        "t5",
        "T5ForConditionalGeneration",
        {
            "vocab_size": 64,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 24,
            "num_layers": 2,
            "num_heads": 2,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": ("bart", "BartForConditionalGeneration", SEQ),
    "whisper": (
        "whisper",
        "WhisperForConditionalGeneration",
        {**SEQ, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 40},
    ),
}
SEQ2SEQ = ("t5", "bart", "whisper")


def build(name, folder, save_tokenizer, **changes):
    """A random model of an architecture; everything that is 1 or 0 by default is not."""
    import transformers

    kind, cls, sizes = KINDS[name]
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, cls)(config).to(torch.float16)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def arguments(name, seed=3):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (1, 12), generator=generator)
    if name == "whisper":
        features = torch.randn(1, 8, 40, generator=generator)
        return {"input_features": features, "decoder_input_ids": ids}
    return (
        {"input_ids": ids, "decoder_input_ids": ids.flip(1)}
        if name in SEQ2SEQ
        else {"input_ids": ids}
    )


def logits(model, name):
    with torch.no_grad():
        return model(**arguments(name)).logits


def dense_copy(model, original):
    """The original with the weights that the packed layers of a loaded model stand for."""
    for name, layer in model.named_modules():
        if not isinstance(layer, QuantizedLinear):
            continue
        weight = layer.dequantize()
        head, mark, tail = name.partition(".unfused.")
        if mark:
            index, part = tail.split(".")
            experts = original.get_submodule(head)
            stored = experts.gate_up_proj if part == "gate_up" else experts.down_proj
            stored.data[int(index)] = weight.t() if experts.is_transposed else weight
        else:
            linear = original.get_submodule(name)
            as_stored = isinstance(linear, (nn.Linear, nn.Embedding))
            linear.weight.data = weight if as_stored else weight.t().contiguous()
    return original


@pytest.fixture
def squeeze(build_tokenizer_files, text, tmp_path):
    def run(name, options=FAST, out="out", **changes):
        folder = tmp_path / "model"
        if not folder.exists():
            build(name, folder, build_tokenizer_files, **changes)
        data = [arguments(name, seed) for seed in range(4, 8)] if name == "whisper" else text
        if name == "qwen2":  # its tokenizer class wants files of its own
            data = torch.randint(3, 60, (3, 16), generator=torch.Generator().manual_seed(1))
        return folder, compress(folder, tmp_path / out, options=options, calibration=data)

    return run


@pytest.mark.parametrize("name", list(KINDS))
def test_round_trip(name, squeeze):
    import transformers

    folder, result = squeeze(name)
    model = vq.load(result.output, dtype=torch.float32, mode="float")
    count = sum(isinstance(m, QuantizedLinear) for m in model.modules())
    assert count == len(result.report["layers"]) > 0
    assert result.report["coverage"] > 0.9, result.report["left_alone"]
    original = vq.load(folder, dtype=torch.float32)
    before = logits(original, name)
    expected = logits(dense_copy(model, original), name)
    found = logits(model, name)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, before, atol=1e-3, rtol=1e-3)
    kind = getattr(transformers, KINDS[name][1])
    again = kind.from_pretrained(result.output, dtype=torch.float32)
    for layer in again.modules():
        if isinstance(layer, QuantizedLinear):
            layer.mode = "float"
    assert torch.equal(logits(again, name), found)
    again.save_pretrained(result.output.parent / "again")
    third = vq.load(result.output.parent / "again", dtype=torch.float32, mode="float")
    assert torch.equal(logits(third, name), found)


@pytest.mark.parametrize("name", list(KINDS))
def test_embeddings_are_packed_where_nothing_else_shares_them(name, squeeze):
    folder, result = squeeze(name, replace(FAST, embeddings="?uniform(bits=8)"))
    model = vq.load(result.output, dtype=torch.float32, mode="float")
    table = model.get_input_embeddings()
    told = [warning for warning in result.warnings if "shared with" in warning]
    assert isinstance(table, QuantizedEmbedding) == (name not in ("t5", "bart")) == (not told)
    expected = logits(dense_copy(model, vq.load(folder, dtype=torch.float32)), name)
    torch.testing.assert_close(logits(model, name), expected, atol=1e-4, rtol=1e-4)


def test_embeddings_that_cannot_be_packed_are_an_error_if_they_must_be(squeeze):
    with pytest.raises(VqError, match="embeddings: shared is shared with encoder.embed_tokens"):
        squeeze("t5", replace(FAST, embeddings="uniform(bits=8)"))


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "gpt_oss", "bart"])
def test_trellis_with_some_layers_kept(name, squeeze):
    folder, result = squeeze(name, TRELLIS)
    names = list(result.report["layers"])
    assert names and not any(".1." in name for name in names)
    model = vq.load(result.output, dtype=torch.float32, mode="float")
    expected = logits(dense_copy(model, vq.load(folder, dtype=torch.float32)), name)
    torch.testing.assert_close(logits(model, name), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", list(KINDS))
def test_compensation_may_keep_what_earlier_runs_gave(name, squeeze, contents, monkeypatch):
    options = replace(FAST, tuning={"compensate": True})
    _, quick = squeeze(name, options)
    monkeypatch.setattr(Activations, "settle", lambda self, part: None)
    monkeypatch.setattr(Inputs, "take", lambda self, name: None)
    _, slow = squeeze(name, options, "slow")
    assert contents(quick.output) == contents(slow.output)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "t5", "whisper"])
def test_generate(name, squeeze):
    _, result = squeeze(name)
    model = vq.load(result.output, dtype=torch.float32)
    start = {k: v for k, v in arguments(name).items() if not k.startswith("decoder")}
    made = model.generate(**start, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert made.shape[-1] >= 4


def experts_modules(model):
    return [m for m in model.modules() if isinstance(m, UnfusedExperts)]


def test_experts_are_reported_and_unseen_ones_rounded_without_a_hessian(squeeze, monkeypatch):
    from vq.compressors.structure import experts as surgery

    usual = surgery.UnfusedExperts.forward

    def never_the_last(self, hidden_states, top_k_index, top_k_weights):
        last = self.num_experts - 1
        return usual(
            self, hidden_states, top_k_index.masked_fill(top_k_index == last, 0), top_k_weights
        )

    monkeypatch.setattr(surgery.UnfusedExperts, "forward", never_the_last)
    _, result = squeeze("qwen3_moe")
    experts = result.report["experts"]["model.layers.0.mlp.experts"]
    assert experts["unseen"] == [3] and experts["tokens"][3] == 0
    assert sum(experts["tokens"]) <= 2 * 48 and min(experts["tokens"][:3]) > 0
    layer = result.report["layers"]["model.layers.0.mlp.experts.unfused.3.down"]
    assert layer["fallback"].startswith("no Hessian")
    assert any("unfused.3" in line and "without a Hessian" in line for line in result.warnings)
    assert len(experts_modules(vq.load(result.output))) == 2


def test_a_kept_expert_stands_beside_packed_ones(squeeze):
    options = CompressOptions(
        codebook="scalar(bits=2)", windows=2, context=16, layers={"*.unfused.2.*": "keep"}
    )
    folder, result = squeeze("mixtral", options)
    model = vq.load(result.output, dtype=torch.float32, mode="float")
    kept = model.model.layers[0].mlp.experts.unfused[2].down
    assert type(kept) is nn.Linear
    original = vq.load(folder, dtype=torch.float32)
    assert torch.equal(kept.weight, original.model.layers[0].mlp.experts.down_proj[2])
    expected = logits(dense_copy(model, original), "mixtral")
    torch.testing.assert_close(logits(model, "mixtral"), expected, atol=1e-4, rtol=1e-4)


def test_fused_experts_stay_fused_where_all_are_kept(squeeze):
    options = CompressOptions(
        codebook="scalar(bits=2)", windows=2, context=16, layers={"*.experts.*": "keep"}
    )
    _, result = squeeze("mixtral", options)
    config = json.loads((result.output / "config.json").read_text())["quantization_config"]
    assert "unfused_experts" not in config
    assert not experts_modules(vq.load(result.output))
    assert any("of the block weights were left alone" in line for line in result.warnings)


class Stop(Exception):
    pass


@pytest.mark.parametrize("done", [1, 2, 3])
def test_an_interrupted_run_of_two_stacks_ends_with_the_same_bytes(done, squeeze, contents):
    folder, whole = squeeze("whisper")
    data = [arguments("whisper", seed) for seed in range(4, 8)]

    def stop(event):
        if event.stage == "block" and event.done == done:
            raise Stop

    output = whole.output.parent / "again"
    with pytest.raises(Stop):
        compress(folder, output, options=FAST, calibration=data, progress=stop)
    resumed = compress(folder, output, options=FAST, calibration=data)
    assert resumed.resumed == done
    assert contents(output) == contents(whole.output)


def test_the_decoder_sees_the_quantized_encoder(squeeze, monkeypatch):
    """What the decoder is given in calibration equals what the finished encoder gives."""
    from vq.compressors.rounding.block import BlockQuantizer

    seen = []
    usual = BlockQuantizer.quantize

    def watch(self, index, activations):
        if index == 2:
            seen.append(activations.calls[0][0])
        return usual(self, index, activations)

    monkeypatch.setattr(BlockQuantizer, "quantize", watch)
    folder, result = squeeze("whisper")
    args, kwargs = seen[0]
    states = [x for x in [*args, *kwargs.values()] if isinstance(x, torch.Tensor) and x.ndim == 3]
    features = arguments("whisper", 4)["input_features"]

    def encode(path):
        model = vq.load(path, dtype=torch.float32, mode="float")
        with torch.no_grad():
            return model.model.encoder(features).last_hidden_state

    assert len(states) == 1
    torch.testing.assert_close(states[0], encode(result.output), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(states[0], encode(folder), atol=1e-2)


def skipping(self, input_ids, **_):
    """A forward of Llama in which the embedding comes back after every block."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    start = hidden = self.embed_tokens(input_ids)
    places = torch.arange(input_ids.shape[1])[None]
    for layer in self.layers:
        rotary = self.rotary_emb(hidden, places)
        hidden = layer(hidden, position_ids=places, position_embeddings=rotary) + start
    return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden))


def test_blocks_that_are_no_chain_are_run_in_the_whole_model(
    llama, text, tmp_path, monkeypatch, contents
):
    from transformers.models.llama import modeling_llama

    from vq.compressors.rounding.block import BlockQuantizer

    monkeypatch.setattr(modeling_llama.LlamaModel, "forward", skipping)
    seen = []
    usual = BlockQuantizer.quantize

    def watch(self, index, activations):
        block = self.skeleton.blocks[index]
        handle = block.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        activations.runs(block, index)[0]()
        handle.remove()
        return usual(self, index, activations)

    monkeypatch.setattr(BlockQuantizer, "quantize", watch)
    tokens = torch.randint(60, (3, 16), generator=torch.Generator().manual_seed(5))
    whole = compress(llama, tmp_path / "whole", options=FAST, calibration=tokens)
    assert any("something happens between the blocks" in line for line in whole.warnings)
    model, inputs = vq.load(whole.output, dtype=torch.float32, mode="float"), []
    model.model.layers[2].register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    with torch.no_grad():
        for row in tokens:
            model(row[None])
    assert any(torch.allclose(seen[2], x, atol=1e-4) for x in inputs)

    def stop(event):
        if event.stage == "block" and event.done == 2:
            raise Stop

    with pytest.raises(Stop):
        compress(llama, tmp_path / "o", options=FAST, calibration=tokens, progress=stop)
    resumed = compress(llama, tmp_path / "o", options=FAST, calibration=tokens)
    assert resumed.resumed == 2 and contents(resumed.output) == contents(whole.output)
