import json
import zlib

import pytest
import torch
from safetensors.torch import load_file, safe_open

import vq
from vq.compressors.checkpoint.folder import publish
from vq.compressors.checkpoint.shards import natural
from vq.compressors.checkpoint.size import measure_size
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress

pytestmark = pytest.mark.hf


def options(**changes):
    return CompressOptions(**{"codebook": "scalar(bits=2)", "windows": 2, "context": 16, **changes})


@pytest.fixture(scope="module")
def done(llama, text, tmp_path_factory):
    return compress(
        llama, tmp_path_factory.mktemp("o") / "out", options=options(), calibration=text
    )


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_the_folder_is_complete(done, llama):
    names = {p.name for p in done.output.iterdir()}
    assert names == {p.name for p in llama.iterdir()} | {"compression.json"}
    assert (done.output / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()


def test_the_config_describes_every_layer(done, llama):
    config = config_of(done.output)
    quantization = config.pop("quantization_config")
    assert config == config_of(llama)
    assert quantization == {
        "quant_method": "vq",
        "format_version": 1,
        "library_version": vq.__version__,
        "codebooks": {"c0": {"spec": "scalar(bits=2)", "version": 1}},
        "default_codebook": "c0",
        "layers": {},
        "modules_to_not_convert": ["lm_head"],
        "rotation": "input",
        "rounding": "ldlq",
    }


def test_untouched_tensors_are_the_original_ones(done, llama):
    old, new = load_file(llama / "model.safetensors"), load_file(done.output / "model.safetensors")
    kept = old.keys() & new.keys() - {n for n, t in new.items() if t.dtype == torch.uint8}
    assert len(kept) == 2 + 3 * 2  # embedding, last norm, two norms a block
    for name in kept:
        assert new[name].dtype == old[name].dtype and torch.equal(new[name], old[name])
    assert "lm_head.weight" not in new


def test_biases_stay(biased, text, tmp_path):
    output = compress(biased, tmp_path / "out", options=options(), calibration=text).output
    old, new = load_file(biased / "model.safetensors"), load_file(output / "model.safetensors")
    biases = [name for name in old if name.endswith(".bias")]
    assert len(biases) == 3 * 7
    assert all(torch.equal(old[name], new[name]) for name in biases)


def test_metadata_name_the_format(done):
    with safe_open(done.output / "model.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "vq_format": "vq-checkpoint",
            "vq_format_version": "1",
        }


def test_bits_are_counted_from_the_file(done):
    totals, tensors = done.report["totals"], load_file(done.output / "model.safetensors")
    stored = 0
    for name, tensor in tensors.items():
        layer = name.rpartition(".")[0]
        if layer in done.report["layers"] or name.startswith("vq_codebooks."):
            stored += tensor.numel() * tensor.element_size()
    assert totals["quantized_bytes"] == stored
    kept = sum(t.numel() * t.element_size() for t in tensors.values()) - stored
    assert totals["other_bytes"] == kept
    assert totals["quantized_weights"] == 3 * (32 * (32 + 16 + 16 + 32) + 3 * 32 * 48)
    assert totals["bits_per_weight"] == pytest.approx(
        8 * stored / totals["quantized_weights"], abs=1e-6
    )
    assert totals["bits_per_weight"] == pytest.approx(
        measure_size(done.output).bits_per_weight, abs=1e-5
    )


def test_the_report_lists_the_files(done):
    assert json.loads((done.output / "compression.json").read_text()) == done.report
    for name, entry in done.report["files"].items():
        data = (done.output / name).read_bytes()
        assert entry == {"bytes": len(data), "crc32": zlib.crc32(data)}
    layer = done.report["layers"]["model.layers.0.mlp.down_proj"]
    assert layer["shape"] == [32, 48] and layer["tokens"] == 2 * 16
    assert 0 < layer["proxy_error"] < 0.3 and 2 < layer["bits_per_weight"] < 4
    assert done.report["coverage"] == 1.0


def test_shards(llama, text, tmp_path, done):
    result = compress(
        llama, tmp_path / "out", options=options(), calibration=text, max_shard_bytes=4000
    )
    index = json.loads((result.output / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in result.output.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    whole = load_file(done.output / "model.safetensors")
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in whole.values())
    for file in files:
        part = load_file(result.output / file)
        assert all(index["weight_map"][name] == file for name in part)
        assert all(torch.equal(part[name], whole[name]) for name in part)
        assert len(part) == 1 or sum(t.numel() * t.itemsize for t in part.values()) <= 4000
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(vq.load(result.output)(ids).logits, vq.load(done.output)(ids).logits)


def test_order_of_names_counts_numbers():
    assert sorted(["l.10", "l.9"], key=natural) == ["l.9", "l.10"]


def test_publish_replaces_as_a_whole(tmp_path):
    for name in ("new", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    publish(tmp_path / "new", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]
