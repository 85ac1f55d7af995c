"""Parquet export, read back by pyarrow alone."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from vq.errors import VqError
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.orders import TokenOrder
from vq.tokenizers.parquet import export_parquet
from vq.tokenizers.tokenreader import TokenReader
from vq.tokenizers.tokenwriter import TokenWriter

parquet = pytest.importorskip("pyarrow.parquet")
SPEC = CodeSpec("audio", (64, 300), (1, 1), (10,), 1, 8000, "none", "m")


@pytest.fixture
def reader(tmp_path) -> TokenReader:
    with TokenWriter(tmp_path / "tokens", SPEC) as writer:
        for n in range(1, 8):
            writer.add(f"{n}.wav", torch.full((2, n), n), (10 * n - 3,), 1 + n / 8)
    return TokenReader(tmp_path / "tokens")


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_codes_can_be_made_again(reader, tmp_path, batch):
    order = TokenOrder(SPEC, "delay", ("pad", "begin"))
    assert export_parquet(reader, tmp_path / "a.parquet", order, batch) == 7
    table = parquet.read_table(tmp_path / "a.parquet")
    described = json.loads(table.schema.metadata[b"vq-tokens"])
    again = TokenOrder(
        CodeSpec.from_dict(described["spec"]), described["order"], described["special"]
    )
    assert again.offsets == tuple(described["offsets"]) and described["vocabulary"] == 366
    for row, (item, codes) in zip(table.to_pylist(), reader, strict=True):
        assert row["key"] == item.key and tuple(row["size"]) == item.size
        assert row["gain"] == item.gain
        tokens = torch.tensor(row["tokens"])
        assert torch.equal(again.from_sequence(tokens, row["shape"]), codes)
    assert str(table.schema.field("tokens").type.value_type) == "int32"


def test_equal_tokens_make_equal_files(reader, tmp_path):
    for name in ("a", "b"):
        export_parquet(reader, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_large_vocabularies_are_wide(tmp_path):
    spec = CodeSpec("audio", (2**33,), (1,), (10,), 1, 8000, "none", "m")
    with TokenWriter(tmp_path / "t", spec) as writer:
        writer.add("a", torch.tensor([[2**32 + 7]]), (10,))
    export_parquet(TokenReader(tmp_path / "t"), tmp_path / "a.parquet")
    rows = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert rows[0]["tokens"] == [2**32 + 7]


def test_refusals(reader, tmp_path, monkeypatch):
    other = CodeSpec("audio", (64, 301), (1, 1), (10,), 1, 8000, "none", "m")
    with pytest.raises(ValueError, match=r"made for other codes: entries \(64, 301\)"):
        export_parquet(reader, tmp_path / "a", TokenOrder(other))
    with pytest.raises(ValueError, match="batch"):
        export_parquet(reader, tmp_path / "a", batch=0)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(VqError, match="Parquet needs pyarrow"):
        export_parquet(reader, tmp_path / "a")
    assert not (tmp_path / "a").exists()
