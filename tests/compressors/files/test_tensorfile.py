import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vq._files import atomic_file
from vq.compressors.files.tensorfile import (
    fingerprint,
    pending,
    read_header,
    write_json,
    write_tensors,
)
from vq.errors import VqError

TENSORS = {
    "a": torch.arange(5, dtype=torch.uint8),
    "b": torch.randn(3, 4, dtype=torch.float64),
    "c": torch.randn(7).to(torch.bfloat16),
    "d": torch.tensor(3.5),
    "empty": torch.zeros(0, 4, dtype=torch.float16),
    "flag": torch.tensor([True, False]),
}


def test_the_reference_library_reads_what_we_write(tmp_path):
    write_tensors(tmp_path / "x", {k: pending(v) for k, v in TENSORS.items()}, {"format": "pt"})
    loaded = load_file(tmp_path / "x")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_reference_library_writes(tmp_path):
    save_file(TENSORS, tmp_path / "x", metadata={"k": "v"})
    entries, metadata = read_header(tmp_path / "x")
    assert metadata == {"k": "v"}
    for name, tensor in TENSORS.items():
        assert torch.equal(entries[name].read(), tensor)


def test_bytes_do_not_depend_on_the_order(tmp_path):
    for name, order in (("x", list(TENSORS)), ("y", list(TENSORS)[::-1])):
        write_tensors(
            tmp_path / name, {k: pending(TENSORS[k]) for k in order}, {"b": "1", "a": "2"}
        )
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_checksum_is_that_of_the_file(tmp_path):
    import zlib

    crc = write_tensors(tmp_path / "x", {k: pending(v) for k, v in TENSORS.items()}, {})
    assert crc == zlib.crc32((tmp_path / "x").read_bytes())


@pytest.mark.parametrize("cut", [3, 40, -1])
def test_cut_file_is_named(tmp_path, cut):
    write_tensors(tmp_path / "x", {k: pending(v) for k, v in TENSORS.items()}, {})
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:cut])
    with pytest.raises(VqError, match=r"x: (not a complete|cut short)"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
    ],
)
def test_damaged_header_is_named(tmp_path, header):
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(VqError, match="x: "):
        read_header(tmp_path / "x")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(VqError, match="nowhere: no such file"):
        read_header(tmp_path / "nowhere")


def test_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    write_json(tmp_path / "x", {"b": 1, "a": "ä"})
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert json.loads((tmp_path / "x").read_text("utf-8")) == {"b": 1, "a": "ä"}
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_fingerprint_sees_a_change_at_either_end_and_the_size(tmp_path, size):
    path = tmp_path / "x"
    data = bytearray(size)
    path.write_bytes(data)
    seen = {fingerprint(path)}
    for change in (0, size - 1):
        data[change] ^= 1
        path.write_bytes(data)
        seen.add(fingerprint(path))
        data[change] ^= 1
    path.write_bytes(data + b"\0")
    seen.add(fingerprint(path))
    assert len(seen) == (3 if size == 1 else 4)
