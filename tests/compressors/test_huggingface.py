import os
import shutil
import subprocess
import sys

import pytest
import torch

import vq
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.errors import VqError

pytestmark = pytest.mark.hf
IDS = torch.arange(24)[None]


@pytest.fixture(scope="module", params=["scalar(bits=2)", "kmeans(dim=4, entries=32)"])
def small(request, biased, text, tmp_path_factory):
    options = CompressOptions(
        codebook=request.param, layers={"*.v_proj": "scalar(bits=3)"}, windows=2, context=16
    )
    output = tmp_path_factory.mktemp("o") / "out"
    return compress(biased, output, options=options, calibration=text).output


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def load(folder, **arguments):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, **arguments)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_from_pretrained_equals_load(small, dtype):
    ours, theirs = vq.load(small, dtype=dtype), load(small, dtype=dtype)
    assert torch.equal(logits(ours), logits(theirs))
    assert theirs.dtype == (dtype or torch.float16)


@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_device_map(small, device_map):
    model = load(small, device_map=device_map, dtype=torch.float32)
    assert torch.equal(logits(model), logits(vq.load(small, dtype=torch.float32)))


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_saving_and_loading_again_changes_no_bit(small, tmp_path, dtype):
    model = load(small, dtype=dtype)
    expected = logits(model)
    model.save_pretrained(tmp_path / "again", max_shard_size="6KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    again = vq.load(tmp_path / "again")
    assert torch.equal(logits(again), expected)
    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    again.save_pretrained(tmp_path / "third")
    assert torch.equal(logits(load(tmp_path / "third")), expected)


def test_generate(small):
    model = load(small, dtype=torch.float32)
    start = IDS[:, 1:5]
    mask = torch.ones_like(start)
    out = model.generate(
        start,
        attention_mask=mask,
        max_new_tokens=5,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert out.shape == (1, 9)
    step = start
    for _ in range(5):
        with torch.no_grad():
            step = torch.cat([step, model(step).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, step)


def test_headless_model_loads(small):
    from transformers import AutoModel

    body = AutoModel.from_pretrained(small, dtype=torch.float32)
    whole = vq.load(small, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(body(IDS).last_hidden_state, whole.model(IDS).last_hidden_state)


@pytest.mark.parametrize("part", ["scales", "signs_in", "weight"])
def test_from_pretrained_refuses_missing_parts(small, tmp_path, part):
    """transformers alone would warn and go on with whatever lay in memory."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(small, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    name = f"model.layers.2.self_attn.o_proj.{part}"
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VqError, match=f"tensor {name} is missing"):
        load(folder)


def test_from_pretrained_refuses_flipped_bits(small, tmp_path):
    from vq.compressors.files.tensorfile import read_header

    folder = shutil.copytree(small, tmp_path / "copy")
    path = folder / "model.safetensors"
    entry = read_header(path)[0]["model.layers.2.self_attn.o_proj.weight"]
    data = bytearray(path.read_bytes())
    data[entry.stop - 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        VqError, match=r"tensor model\.layers\.2\.self_attn\.o_proj\.weight is damaged"
    ):
        load(folder)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_tables_are_float32_whatever_the_defaults_are(device):
    from torch import nn

    from vq.compressors.huggingface import VqConfig, install

    config = VqConfig(codebooks={"c0": {"spec": "kmeans(dim=4, entries=16)", "version": 1}})
    model = nn.Sequential(nn.Linear(8, 8))
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            install(model, config)
    finally:
        torch.set_default_dtype(torch.float32)
    table = model.vq_codebooks.c0.table
    assert table.dtype == torch.float32 and table.device.type == "cpu"
    assert model[0].weight.is_meta and model[0].scales.dtype == torch.float16


def test_it_is_not_for_quantizing_while_loading(biased):
    from vq.compressors.huggingface import VqConfig

    config = VqConfig(codebooks={"c0": {"spec": "scalar(bits=2)", "version": 1}})
    with pytest.raises(ValueError, match="pre-quantized"):
        load(biased, quantization_config=config)


def test_the_config_survives_a_dictionary():
    from vq.compressors.huggingface import VqConfig

    config = VqConfig(codebooks={"c0": {"spec": "scalar(bits=2)", "version": 1}}, rotation="both")
    assert VqConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    with pytest.raises(VqError, match="format version 3"):
        VqConfig.from_dict({**config.to_dict(), "format_version": 3})


def test_derived_tables_are_computed_after_loading(small, monkeypatch):
    """transformers leaves buffers that are not stored without a value (or with garbage)."""
    from vq.codebooks.scalar import Scalar

    usual = Scalar.__init__

    def with_derived(self, bits=2):
        usual(self, bits)
        self.register_buffer("doubled", self.levels * 2, persistent=False)

    monkeypatch.setattr(Scalar, "__init__", with_derived)
    book = load(small, dtype=torch.bfloat16).vq_codebooks.c1
    assert torch.equal(book.doubled, book.levels * 2) and book.doubled.dtype == torch.float32


def python(code, *arguments, cwd=None):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=cwd,
    )


LOAD = "from transformers import AutoModelForCausalLM as A; A.from_pretrained(sys.argv[1]); print('loaded')"


def once(small):
    """Skip all but one of the models, where one is enough."""
    if "kmeans" in (small / "config.json").read_text():
        pytest.skip("one codebook is enough for this")


def test_without_vq_transformers_refuses(small):
    once(small)
    found = python(f"import sys; {LOAD}", small)
    assert found.returncode != 0 and "loaded" not in found.stdout
    assert "MISMATCH" in found.stderr.upper()


def test_with_vq_transformers_loads_it(small):
    once(small)
    found = python(f"import sys, vq; {LOAD}", small)
    assert found.returncode == 0 and "loaded" in found.stdout, found.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import transformers.quantizers.auto, vq",
        "import vq.compressors.huggingface",
        "import importlib, vq; importlib.reload(vq); import transformers.quantizers.auto",
        "import importlib, vq, transformers.quantizers.auto; importlib.reload(vq)",
    ],
)
def test_any_order_of_imports_registers_us_once(first):
    check = "from transformers.quantizers import auto as a; import sys, vq._hf_hook as h"
    result = (
        "print(a.AUTO_QUANTIZER_MAPPING['vq'].__name__, a.AUTO_QUANTIZATION_CONFIG_MAPPING['vq'].__name__, "
        "sum(type(f).__name__ == '_Finder' and f.__module__ == 'vq._hf_hook' for f in sys.meta_path))"
    )
    found = python(f"{first}; {check}; {result}")
    assert found.stdout.split() == ["VqHfQuantizer", "VqConfig", "0"], found.stderr
