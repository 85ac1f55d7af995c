import struct

import pytest
import torch
from safetensors.torch import save_file

from vq.compressors.checkpoint.size import measure_size
from vq.errors import VqError


def packed(rows, columns, payload):
    header = bytearray(64)
    header[:4] = b"VQPK"
    struct.pack_into("<II", header, 8, rows, columns)
    return torch.frombuffer(header + bytearray(payload), dtype=torch.uint8)


@pytest.fixture
def folder(tmp_path):
    layer = {
        "a.weight": packed(10, 16, 40),
        "a.scales": torch.ones(10, dtype=torch.float16),
        "a.signs_in": torch.zeros(2, dtype=torch.uint8),
        "a.bias": torch.zeros(10),
        "norm.weight": torch.ones(16, dtype=torch.float16),
    }
    save_file(layer, tmp_path / "model-00001-of-00002.safetensors")
    save_file(
        {"vq_codebooks.t.table": torch.zeros(8)}, tmp_path / "model-00002-of-00002.safetensors"
    )
    return tmp_path


def test_every_byte_of_a_quantized_layer_counts(folder):
    size = measure_size(folder)
    assert size.quantized_weights == 160
    assert size.bits_per_weight == 8 * ((64 + 40) + 20 + 2 + 32) / 160
    assert size.total_weights == 160 + 16
    everything = (64 + 40) + 20 + 2 + 40 + 32 + 32
    assert size.total_bits_per_weight == 8 * everything / 176
    assert size.file_bytes == sum(f.stat().st_size for f in folder.iterdir())


def test_a_plain_model_has_its_own_bits(tmp_path):
    save_file({"w.weight": torch.zeros(4, 4, dtype=torch.float16)}, tmp_path / "model.safetensors")
    size = measure_size(tmp_path)
    assert size.bits_per_weight == 16 and size.quantized_weights == 0


def test_damaged_files_are_named(folder, tmp_path):
    file = folder / "model-00001-of-00002.safetensors"
    whole = file.read_bytes()
    for cut in (0, 4, 30, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(VqError, match="model-00001-of-00002"):
            measure_size(folder)
    file.write_bytes(whole[:8] + b"?" + whole[9:])
    with pytest.raises(VqError, match="damaged safetensors header"):
        measure_size(folder)
    with pytest.raises(VqError, match="expected \\*.safetensors files"):
        measure_size(tmp_path / "nothing")
