"""Shards and index as files."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from vq.errors import VqError
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.tokenfile import (
    Shard,
    TokenIndex,
    TokenItem,
    open_shard,
    sha256,
    shard_name,
    write_shard,
)

SPEC = CodeSpec("image", (300,), (1,), (8, 8), 3, None, "none", "m")


@pytest.mark.parametrize("storage, dtype", [("uint16", "uint16"), ("packed", "uint8")])
@pytest.mark.parametrize("size", [2, 4096, 3 << 20])
def test_a_shard_is_safetensors(tmp_path, storage, dtype, size):
    data = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8).tobytes()
    shard = write_shard(tmp_path, 3, storage, io.BytesIO(data + b"more"), size)
    path = tmp_path / "tokens-00003.safetensors"
    assert shard.name == path.name == shard_name(3)
    assert shard.bytes == path.stat().st_size
    assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == sha256(path)
    loaded = load_file(path)["codes"]
    assert loaded.dtype == dtype and loaded.tobytes() == data
    mapped = open_shard(tmp_path, shard)
    assert mapped.tobytes() == data and (path.stat().st_size - size) % 8 == 0


def index() -> TokenIndex:
    items = (
        TokenItem("a.png", (2, 3), (16, 20), 1.0, 0, 0, 12),
        TokenItem("b \udcff.png", (1, 1), (3, 3), 0.1 + 0.2, 0, 12, 2),  # a name that is not UTF-8
        TokenItem("c.png", (1, 2), (8, 16), 1.0, 1, 0, 4),
    )
    shards = (Shard(shard_name(0), 100, "00"), Shard(shard_name(1), 90, "11"))
    return TokenIndex(SPEC, "uint16", shards, items)


def test_index_round_trip(tmp_path):
    index().write(tmp_path)
    assert TokenIndex.read(tmp_path) == index()
    text = (tmp_path / "index.json").read_text()
    values = json.loads(text)
    assert values["positions"] == 6 + 1 + 2 and values["format"] == "vq-tokens"
    assert len([line for line in text.splitlines() if '"key"' in line]) == 3  # a line per item
    TokenIndex(SPEC, "uint16", (), ()).write(tmp_path)
    assert TokenIndex.read(tmp_path).items == ()


@pytest.mark.parametrize("field, value", [("offset", 2), ("shard", 2), ("shard", -1), ("bytes", 5)])
def test_an_index_that_contradicts_itself(tmp_path, field, value):
    index().write(tmp_path)
    path = tmp_path / "index.json"
    values = json.loads(path.read_text())
    values["items"][0][field] = value
    path.write_text(json.dumps(values))
    with pytest.raises(VqError, match=r"index.json: damaged \(item 'a.png'"):
        TokenIndex.read(tmp_path)


def test_a_shard_that_is_not_the_one(tmp_path):
    shard = write_shard(tmp_path, 0, "packed", io.BytesIO(b"abcd"), 4)
    other = Shard(shard.name, shard.bytes, "0" * 64)
    with pytest.raises(VqError, match=r"tokens-00000.safetensors: its SHA-256"):
        open_shard(tmp_path, other)
    assert open_shard(tmp_path, other, verify=False).tobytes() == b"abcd"
    with pytest.raises(VqError, match=r"tokens-00000.safetensors: expected 1 bytes"):
        open_shard(tmp_path, Shard(shard.name, 1, shard.sha256))
    with pytest.raises(VqError, match=r"tokens-00009.safetensors: shard is missing"):
        open_shard(tmp_path, Shard(shard_name(9), 1, ""))
