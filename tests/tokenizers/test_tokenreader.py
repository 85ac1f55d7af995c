"""Reading tokens back, and folders that cannot be trusted."""

from __future__ import annotations

import json
import math

import pytest
import torch

from vq.errors import VqError
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.tokenreader import TokenReader
from vq.tokenizers.tokenwriter import TokenWriter

SPEC = CodeSpec(
    kind="image",
    entries=(1000, 1000),
    strides=(1, 1),
    hop=(8, 8),
    channels=3,
    sample_rate=None,
    normalisation="none",
    model_hash="m1",
)
SIZES = [(16, 24), (8, 8), (33, 17), (64, 40)]


def codes_of(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(1000, (2, *SPEC.positions(SIZES[number])), generator=generator)


@pytest.fixture(params=["auto", "packed"])
def folder(tmp_path, request):
    with TokenWriter(tmp_path, SPEC, request.param, shard_bytes=60) as writer:
        for number, size in enumerate(SIZES):
            writer.add(f"{number}.png", codes_of(number), size)
    return tmp_path


def test_random_access_and_iteration(folder):
    reader = TokenReader(folder, model_hash="m1")
    assert len(reader) == 4 and reader.keys() == [f"{n}.png" for n in range(4)]
    for number in (2, 0, 3, 1):
        assert torch.equal(reader.codes(number), codes_of(number))
        assert torch.equal(reader.codes(f"{number}.png"), codes_of(number))
        assert reader.item(number).size == SIZES[number]
    assert torch.equal(reader.codes(-1), codes_of(3))
    for number, (item, codes) in enumerate(reader):
        assert item.key == f"{number}.png" and torch.equal(codes, codes_of(number))
    assert "0.png" in reader and "9.png" not in reader
    with pytest.raises(KeyError, match="no tokens of '9.png'"):
        reader.codes("9.png")
    with pytest.raises(IndexError):
        reader.codes(4)


def test_sizes_are_those_of_the_files(folder):
    size = TokenReader(folder).size()
    files = sum(path.stat().st_size for path in folder.iterdir())
    positions = sum(math.prod(SPEC.positions(s)) for s in SIZES)
    assert size.file_bits == 8 * files and size.items == 4 and size.positions == positions
    assert size.units == sum(math.prod(s) for s in SIZES)
    assert size.nominal_bits == pytest.approx(positions * 2 * math.log2(1000))
    assert size.nominal_bits <= size.payload_bits < size.file_bits
    if TokenReader(folder).index.storage == "packed":
        assert size.payload_bits <= positions * 20 + 7 * 4  # the last byte of an item
    assert size.rate == size.file_bits / size.units


def test_tokens_of_another_model(folder):
    with pytest.raises(VqError, match=r"tokens of another model \(hash m1, this one is m2\)"):
        TokenReader(folder, model_hash="m2")
    assert len(TokenReader(folder, model_hash="m2", force=True)) == 4


def test_truncated_and_missing_shards_are_named(folder):
    path = folder / "tokens-00001.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-3])
    with pytest.raises(
        VqError, match=r"tokens-00001.safetensors: expected \d+ bytes, got \d+: cut"
    ):
        TokenReader(folder)
    path.unlink()
    with pytest.raises(VqError, match=r"tokens-00001.safetensors: shard is missing"):
        TokenReader(folder)


def test_changed_bytes_are_seen_by_the_hash(folder):
    path = folder / "tokens-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    reader = TokenReader(folder)
    with pytest.raises(VqError, match=r"tokens-00000.safetensors: its SHA-256"):
        reader.codes(0)
    assert torch.equal(reader.codes(3), codes_of(3))
    changed = TokenReader(folder, verify=False).codes(0)
    assert changed.shape == codes_of(0).shape


def test_codes_out_of_range_are_seen_without_the_hash(folder):
    for path in folder.glob("*.safetensors"):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        path.write_bytes(data[:start] + b"\xff" * (len(data) - start))
    with pytest.raises(VqError, match=r"safetensors: 0.png: codes\[0\]: expected values in"):
        TokenReader(folder, verify=False).codes(0)


def test_damaged_header_of_a_shard(folder):
    path = folder / "tokens-00000.safetensors"
    data = path.read_bytes()
    path.write_bytes(b"\xff" * 4 + data[4:])
    with pytest.raises(VqError, match="header is damaged"):
        TokenReader(folder, verify=False).codes(0)


def change(folder, **changes) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "zip"}, "not an index of tokens"),
        ({"version": 2}, "upgrade vq-toolkit"),
        ({"storage": "zip"}, "damaged"),
        ({"spec": {"kind": "image"}}, "missing keys"),
        ({"shards": []}, "is not where its shard continues"),
        ({"items": [{"key": "a"}]}, "damaged"),
        ({"items": 5}, "damaged"),
    ],
)
def test_damaged_index(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(VqError, match=message):
        TokenReader(folder)


def test_index_that_lies_about_an_item(folder):
    items = json.loads((folder / "index.json").read_text())["items"]
    items[0]["shape"] = [9, 9]
    change(folder, items=items)
    with pytest.raises(VqError, match="item '0.png' has"):
        TokenReader(folder)


def test_folders_without_tokens(tmp_path):
    with pytest.raises(VqError, match=r"no index.json here"):
        TokenReader(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(VqError, match="damaged"):
        TokenReader(tmp_path)
    writer = TokenWriter(tmp_path / "a", SPEC)
    writer.journal.close()
    with pytest.raises(VqError, match="was interrupted; repeat the command"):
        TokenReader(tmp_path / "a")
