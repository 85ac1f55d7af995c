"""The record of an unfinished run: what survives which damage."""

from __future__ import annotations

import json

import pytest

from vq.errors import VqError
from vq.tokenizers.journal import Journal

DATA = [b"first", b"second", b"the third"]


def item(number: int) -> dict:
    return {"key": str(number), "bytes": len(DATA[number])}


@pytest.fixture
def run(tmp_path):
    """A run with three items in the open shard."""
    journal = Journal(tmp_path / "run")
    assert journal.read() == []
    for number, data in enumerate(DATA):
        journal.add_item(item(number), data)
    journal.close()
    return tmp_path / "run"


def kept(folder) -> list[str]:
    """Keys that a new journal finds; its files must agree with them."""
    journal = Journal(folder)
    keys = [record["item"]["key"] for record in journal.read() if "item" in record]
    with journal.payload() as payload:
        assert payload.read() == b"".join(DATA[int(key)] for key in keys)
    lines = (folder / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"]["key"] for line in lines] == keys
    journal.close()
    return keys


def test_everything_is_found_again(run):
    assert kept(run) == ["0", "1", "2"] == kept(run)


def test_cut_records_and_payload(run):
    path = run / "records.jsonl"
    whole, ends = path.read_bytes(), []
    for line in whole.splitlines(keepends=True):
        ends.append((ends or [0])[-1] + len(line))
    payload = (run / "open.bin").read_bytes()
    for size in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:size])
        (run / "open.bin").write_bytes(payload)
        assert kept(run) == [str(n) for n, end in enumerate(ends) if end <= size]
    for size, count in ((0, 0), (4, 0), (5, 1), (10, 1), (11, 2), (19, 2), (20, 3)):
        path.write_bytes(whole)
        (run / "open.bin").write_bytes(payload[:size])
        assert len(kept(run)) == count


@pytest.mark.parametrize("line", [b"\x00\x00\n", b"5\n", b"{\n", b'{"item": '])
def test_lines_that_are_no_records(run, line):
    with (run / "records.jsonl").open("ab") as file:
        file.write(line)
    assert kept(run) == ["0", "1", "2"]


def test_a_finished_shard_empties_the_payload(run):
    journal = Journal(run)
    journal.read()
    journal.add_shard({"name": "x"})
    with journal.payload() as payload:
        assert payload.read() == b""
    journal.add_item(item(0), DATA[0])
    journal.close()
    journal = Journal(run)
    assert [next(iter(record)) for record in journal.read()] == ["item"] * 3 + ["shard", "item"]
    with journal.payload() as payload:
        assert payload.read() == DATA[0]
    journal.close()


def test_killed_before_the_payload_was_emptied(run):
    with (run / "records.jsonl").open("ab") as file:
        file.write(b'{"shard": {"name": "x"}}\n')
    journal = Journal(run)
    assert len(journal.read()) == 4
    with journal.payload() as payload:
        assert payload.read() == b""
    journal.close()


def test_lock_clear_and_remove(run):
    pytest.importorskip("fcntl")
    journal = Journal(run)
    with pytest.raises(VqError, match="another process is writing tokens here"):
        Journal(run)
    journal.clear()
    assert journal.read() == []
    journal.remove()
    assert not run.exists()
