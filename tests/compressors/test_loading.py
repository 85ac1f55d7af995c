import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import vq
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.errors import VqError

pytestmark = pytest.mark.hf
WEIGHT = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def small(llama, text, tmp_path_factory):
    options = CompressOptions(codebook="scalar(bits=2)", windows=2, context=16)
    return compress(
        llama, tmp_path_factory.mktemp("o") / "out", options=options, calibration=text
    ).output


@pytest.fixture
def damaged(small, tmp_path):
    return shutil.copytree(small, tmp_path / "damaged")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def flip(folder, name):
    """Flip one bit in the middle of a tensor's bytes."""
    from vq.compressors.files.tensorfile import read_header

    path = folder / "model.safetensors"
    entry = read_header(path)[0][name]
    data = bytearray(path.read_bytes())
    data[(entry.start + entry.stop) // 2] ^= 4
    path.write_bytes(data)


def test_a_loaded_model_is_the_dense_model_of_its_weights(small, llama):
    model = vq.load(small, dtype=torch.float32, mode="float")
    dense = vq.load(llama, dtype=torch.float32)
    count = 0
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            dense.get_submodule(name).weight.data = layer.dequantize()
            count += 1
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, dense(ids).logits, atol=1e-4, rtol=1e-4)
    assert count == 21 and not model.training


def test_tied_heads_stay_tied(small):
    model = vq.load(small)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_dtype_is_of_what_is_not_quantized(small):
    assert vq.load(small).model.norm.weight.dtype == torch.float16
    model = vq.load(small, dtype=torch.bfloat16)
    assert model.model.norm.weight.dtype == torch.bfloat16
    assert model.get_submodule(WEIGHT[:-7]).scales.dtype == torch.float16
    assert model.vq_codebooks.c0.levels.dtype == torch.float32
    expected = load_file(small / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if "scales" in name or "vq_codebooks" in name:
            assert torch.equal(tensor, expected[name])


def test_mode(small):
    modes = {
        m.mode for m in vq.load(small, mode="int8").modules() if isinstance(m, QuantizedLinear)
    }
    assert modes == {"int8"}
    with pytest.raises(VqError, match=r"expected one of .*got 'int3'"):
        vq.load(small, mode="int3")


def test_tokenizer(small):
    assert vq.load_tokenizer(small)("w3 w4")["input_ids"] == [4, 5]


def test_plain_folders_load_too(llama):
    model = vq.load(llama)
    assert not any(isinstance(m, QuantizedLinear) for m in model.modules())


def test_another_format_version(damaged):
    edit_config(damaged, format_version=2, library_version="9.9")
    with pytest.raises(VqError, match=r"format version 2 \(written by vq 9\.9\).*reads version 1"):
        vq.load(damaged)


def test_flipped_bits_name_the_tensor_or_the_file(damaged):
    flip(damaged, WEIGHT)
    with pytest.raises(VqError, match=rf"model\.safetensors: tensor {WEIGHT} is damaged.*CRC"):
        vq.load(damaged)
    flip(damaged, WEIGHT)
    assert vq.load(damaged) is not None
    flip(damaged, "model.embed_tokens.weight")
    with pytest.raises(VqError, match=r"model\.safetensors: its checksum"):
        vq.load(damaged)


def test_cut_file(damaged):
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(VqError, match=r"model\.safetensors: cut short"):
        vq.load(damaged)


def test_appended_bytes(damaged):
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(VqError, match=r"model\.safetensors: expected \d+ bytes"):
        vq.load(damaged)


@pytest.mark.parametrize("lost", [WEIGHT, "vq_codebooks.c0.levels", "model.norm.weight"])
def test_missing_tensors_are_refused(damaged, lost):
    tensors = load_file(damaged / "model.safetensors")
    del tensors[lost]
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VqError, match=f"1 missing keys, first {lost}|tensor {lost} is missing"):
        vq.load(damaged)


def test_unexpected_tensors_are_refused(damaged):
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.layers.0.extra.weight"] = torch.zeros(2)
    save_file(tensors, damaged / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VqError, match="unexpected keys, first"):
        vq.load(damaged)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"codebooks": {"c0": {"spec": "scalar(bits=3)", "version": 1}}},
            "could not load|mismatch|another format",
        ),
        ({"codebooks": {"c0": {"spec": "scalar(bits=2)", "version": 7}}}, "has version 7"),
        (
            {"codebooks": {"c0": {"spec": "scaler(bits=2)", "version": 1}}},
            "unknown codebook family",
        ),
        ({"codebooks": {}}, r"\['c0'\] are used but not described"),
        ({"rotation": "sideways"}, "rotation 'sideways'"),
        ({"colour": "blue"}, "unknown keys colour"),
    ],
)
def test_configs_that_do_not_fit(damaged, changes, message):
    edit_config(damaged, **changes)
    with pytest.raises(VqError, match=message):
        vq.load(damaged)


def test_missing_models(tmp_path):
    with pytest.raises(VqError, match=r"no config\.json"):
        vq.load(tmp_path)
    with pytest.raises(VqError, match="the hub did not give it"):
        vq.load("somebody/some-model")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(VqError, match="pickled"):
        vq.load(tmp_path / "x.bin")
