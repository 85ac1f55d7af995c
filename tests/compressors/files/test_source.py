import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vq.compressors.files.source import INDEX, SINGLE, open_source
from vq.errors import VqError

pytestmark = pytest.mark.hf


def split(folder):
    """Cut the single weight file of a folder in two, with an index."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    halves = {"m-1.safetensors": names[::2], "m-2.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({n: tensors[n] for n in part}, folder / file)
    where = {n: file for file, part in halves.items() for n in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / SINGLE).unlink()
    return tensors


def test_sharded_and_single_folders_read_alike(llama, copy, tmp_path):
    single = open_source(llama, tmp_path)
    sharded_folder = copy(llama)
    tensors = split(sharded_folder)
    sharded = open_source(sharded_folder, tmp_path)
    assert single.entries.keys() == sharded.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(single.read(name), tensor) and torch.equal(sharded.read(name), tensor)


def test_identity_changes_with_weights_and_config_only(llama, copy, tmp_path):
    first = open_source(llama, tmp_path).identity()
    other = copy(llama)
    shutil.copy(llama / "config.json", other / "config.json")
    assert open_source(other, tmp_path).identity() == first
    (other / "README.md").write_text("hello")
    assert open_source(other, tmp_path).identity() == first
    data = bytearray((other / SINGLE).read_bytes())
    data[-1] ^= 1
    (other / SINGLE).write_bytes(data)
    assert open_source(other, tmp_path).identity() != first


def test_not_finite_weight_is_named_with_its_index(llama, copy, tmp_path):
    folder = copy(llama)
    tensors = load_file(folder / SINGLE)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5] = float("nan")
    save_file(tensors, folder / SINGLE)
    source = open_source(folder, tmp_path)
    with pytest.raises(
        VqError, match=r"layers\.1\.mlp\.up_proj\.weight\[3, 5\] is nan \(1 of 1536"
    ):
        source.read(name)


def test_unknown_tensor_gives_the_nearest(llama, tmp_path):
    with pytest.raises(VqError, match=r"did you mean.*model\.norm\.weight"):
        open_source(llama, tmp_path).read("model.norms.weight")


def test_cut_weight_file(llama, copy, tmp_path):
    folder = copy(llama)
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[: len(data) // 2])
    with pytest.raises(VqError, match=r"model\.safetensors: cut short: expected \d+ bytes"):
        open_source(folder, tmp_path)


def test_index_with_a_lost_file_or_tensor(llama, copy, tmp_path):
    folder = copy(llama)
    split(folder)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["ghost"] = "m-1.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(VqError, match="tensor ghost is missing"):
        open_source(folder, tmp_path)
    (folder / "m-2.safetensors").unlink()
    with pytest.raises(VqError, match=r"m-2\.safetensors: no such file|ghost"):
        open_source(folder, tmp_path)


def test_pickles_are_refused(llama, copy, tmp_path):
    folder = copy(llama)
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(VqError, match=r"pytorch_model\.bin; pickled.*save_pretrained"):
        open_source(folder, tmp_path)
    with pytest.raises(VqError, match="pickled"):
        open_source(folder / "pytorch_model.bin", tmp_path)


def test_a_weight_file_alone_asks_for_its_folder(llama, tmp_path):
    with pytest.raises(VqError, match="pass the folder"):
        open_source(llama / SINGLE, tmp_path)


def test_folder_without_weights_or_config(llama, copy, tmp_path):
    folder = copy(llama)
    (folder / SINGLE).unlink()
    with pytest.raises(VqError, match=r"no model\.safetensors"):
        open_source(folder, tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(VqError, match="not valid JSON"):
        open_source(folder, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(VqError, match=r"no config\.json"):
        open_source(folder, tmp_path)


def test_missing_path_and_hub_id_offline(tmp_path):
    with pytest.raises(VqError, match="no such file or folder"):
        open_source("./nothing/here/at/all", tmp_path)
    with pytest.raises(
        VqError, match="somebody/some-model: no such folder, and the hub did not give it"
    ):
        open_source("somebody/some-model", tmp_path)


def test_quantized_models_are_refused(llama, copy, tmp_path):
    folder = copy(llama, quantization_config={"quant_method": "gptq"})
    with pytest.raises(VqError, match=r"already quantized.*gptq"):
        open_source(folder, tmp_path)


@pytest.mark.parametrize("data", [b"", b"junk", b"GGUF", b"GGUF\3\0\0\0"])
def test_damaged_gguf(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(VqError, match=r"model\.gguf: (expected a GGUF|transformers cannot read)"):
        open_source(path, tmp_path / "work")
    assert not (tmp_path / "work").exists()
