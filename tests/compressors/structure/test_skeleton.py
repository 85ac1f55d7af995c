import json

import pytest
import torch

from vq.compressors.files.source import open_source
from vq.compressors.structure.skeleton import build_skeleton
from vq.errors import VqError

pytestmark = pytest.mark.hf


def skeleton_of(folder, tmp_path):
    return build_skeleton(open_source(folder, tmp_path))


def real(module):
    return {name for name, p in module.named_parameters() if not p.is_meta}


def test_only_what_is_filled_is_real(llama, tmp_path):
    skeleton = skeleton_of(llama, tmp_path)
    assert skeleton.blocks_name == "model.layers" and len(skeleton.blocks) == 3
    assert real(skeleton.model) == set()
    skeleton.fill(skeleton.blocks[1], skeleton.block_name(1))
    names = {f"model.layers.1.{n}" for n, _ in skeleton.blocks[1].named_parameters()}
    assert real(skeleton.model) == names and len(names) == 9
    skeleton.empty(skeleton.blocks[1])
    assert real(skeleton.model) == set()


def test_filled_model_is_the_model(biased, tmp_path):
    from transformers import AutoModelForCausalLM

    skeleton = skeleton_of(biased, tmp_path)
    skeleton.fill(skeleton.model, "")
    original = AutoModelForCausalLM.from_pretrained(biased, dtype=torch.float32)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(skeleton.model(ids).logits, original(ids).logits)


def test_linears_have_qualified_names(llama, tmp_path):
    names = list(skeleton_of(llama, tmp_path).linears(2))
    assert len(names) == 7 and names[0] == "model.layers.2.self_attn.q_proj"


def test_unknown_architecture_gives_the_nearest(llama, copy, tmp_path):
    with pytest.raises(VqError, match=r"unknown architecture.*'lama'; did you mean.*llama"):
        skeleton_of(copy(llama, model_type="lama"), tmp_path)


def test_a_class_that_transformers_lacks(llama, copy, tmp_path):
    with pytest.raises(
        VqError, match=r"\['LamaForCausalLM'\], which transformers .* does not have"
    ):
        skeleton_of(copy(llama, architectures=["LamaForCausalLM"]), tmp_path)


def test_without_a_class_it_is_a_language_model(llama, copy, tmp_path):
    model = skeleton_of(copy(llama, architectures=None), tmp_path).model
    assert type(model).__name__ == "LlamaForCausalLM"


def test_wrong_shape_is_named(llama, copy, tmp_path):
    skeleton = skeleton_of(copy(llama, intermediate_size=64), tmp_path)
    with pytest.raises(
        VqError, match=r"gate_proj\.weight is \[48, 32\], config\.json asks for \[64, 32\]"
    ):
        skeleton.fill(skeleton.blocks[0], "model.layers.0")


def test_experts_are_linear_layers(build_model, tmp_path):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    folder = build_model(tmp_path / "moe", "qwen3_moe", layers=1, head_dim=8, **sizes)
    skeleton = skeleton_of(folder, tmp_path)
    linears = skeleton.linears(0)
    experts = [m for name, m in linears.items() if ".experts." in name]
    assert sum(m.weight.numel() for m in experts) == 4 * 3 * 16 * 32
    router = skeleton.blocks[0].mlp.gate.weight.numel()
    total = sum(p.numel() for p in skeleton.blocks[0].parameters() if p.ndim >= 2)
    assert skeleton.coverage(set(linears)) == pytest.approx(1 - router / total)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3_moe"
