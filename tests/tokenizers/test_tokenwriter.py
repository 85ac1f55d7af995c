"""Writing tokens: what is written, and runs that are killed at every possible moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from vq.errors import VqError
from vq.tokenizers import tokenwriter
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.journal import Journal
from vq.tokenizers.tokenreader import TokenReader
from vq.tokenizers.tokenwriter import TokenWriter

SPEC = CodeSpec(
    kind="audio",
    entries=(1024, 1024, 300),
    strides=(2, 1, 1),
    hop=(320,),
    channels=1,
    sample_rate=16000,
    normalisation="loudness",
    model_hash="m1",
)
ITEMS = 8
CAP = 70  # bytes: a few items a shard


def codes_of(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(number)
    length = 3 + number % 5
    rows = [
        torch.randint(e, (length,), generator=generator).repeat_interleave(s)[:length]
        for e, s in zip(SPEC.entries, SPEC.strides, strict=True)
    ]
    return torch.stack(rows)


def add_all(writer: TokenWriter) -> None:
    for number in range(ITEMS):
        key = f"ordner/ä{number}.wav"
        if key not in writer:
            codes = codes_of(number)
            writer.add(key, codes, (codes.shape[1] * 320 - 7,), 1 + number / 7)


def write(folder: Path, storage: str = "auto", cap: int = CAP) -> None:
    with TokenWriter(folder, SPEC, storage, cap) as writer:
        add_all(writer)


@pytest.fixture(scope="module", params=["auto", "packed"])
def whole(request, tmp_path_factory, contents):
    """Storage, and the files of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, request.param)
    return request.param, contents(folder)


def test_shards_are_plain_safetensors(tmp_path):
    write(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == "index.json" and names[1] == "tokens-00000.safetensors" and len(names) > 3
    for name in names[1:]:
        loaded = load_file(tmp_path / name)
        assert list(loaded) == ["codes"] and loaded["codes"].dtype == "uint16"
        assert loaded["codes"].nbytes <= CAP
    index = json.loads((tmp_path / "index.json").read_text())
    assert CodeSpec.from_dict(index["spec"]) == SPEC and index["storage"] == "uint16"
    assert index["items"][1]["key"] == "ordner/ä1.wav"


def test_equal_input_makes_equal_files(tmp_path, whole, contents):
    storage, want = whole
    write(tmp_path, storage)
    assert contents(tmp_path) == want


class Killed(Exception):
    """Stands for a kill."""


def kill_at(monkeypatch, moment: int) -> list[str]:
    """Raise at the given step of all steps that touch the disk; before or after it is done."""
    seen: list[str] = []

    def wrap(owner, name):
        real = getattr(owner, name)

        def step(*args, **kwargs):
            seen.append(f"before {name}")
            if len(seen) - 1 == moment:
                raise Killed
            result = real(*args, **kwargs)
            seen.append(f"after {name}")
            if len(seen) - 1 == moment:
                raise Killed
            return result

        monkeypatch.setattr(owner, name, step)

    wrap(Journal, "_note")
    wrap(Journal, "add_shard")
    wrap(tokenwriter, "write_shard")
    wrap(tokenwriter.TokenIndex, "write")
    return seen


def test_a_run_killed_anywhere_ends_byte_identical(tmp_path, monkeypatch, whole, contents):
    storage, want = whole
    moment, finished = 0, False
    while not finished:
        folder = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            seen = kill_at(patch, moment)
            try:
                write(folder, storage)
                finished = True
            except Killed:
                pass
        if not finished and seen[-1] != "after write":  # there the index is complete
            write(folder, storage)
            assert contents(folder) == want, seen[-1]
        moment += 1
    assert moment > 2 * ITEMS + 10


@pytest.mark.parametrize("name", ["records.jsonl", "open.bin"])
def test_a_run_with_lost_writes_ends_byte_identical(tmp_path, whole, contents, name):
    storage, want = whole
    for lost in (1, 7, 60, 10_000):
        folder = tmp_path / str(lost)
        with pytest.raises(Killed), TokenWriter(folder, SPEC, storage, CAP) as writer:
            add_all(writer)
            raise Killed
        path = folder / "unfinished" / name
        path.write_bytes(path.read_bytes()[:-lost] if lost < path.stat().st_size else b"")
        write(folder, storage)
        assert contents(folder) == want


def test_damaged_open_bytes_are_written_again(tmp_path, whole, contents):
    storage, want = whole
    with pytest.raises(Killed), TokenWriter(tmp_path, SPEC, storage, CAP) as writer:
        add_all(writer)
        raise Killed
    path = tmp_path / "unfinished" / "open.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    write(tmp_path, storage)
    assert contents(tmp_path) == want


def test_a_run_killed_again_while_it_makes_up_for_lost_bytes(tmp_path, contents):
    write(tmp_path / "a", cap=10_000)
    writer = TokenWriter(tmp_path / "b", SPEC, shard_bytes=10_000)
    add_all(writer)
    writer.journal.close()
    path = tmp_path / "b" / "unfinished" / "open.bin"
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    writer = TokenWriter(tmp_path / "b", SPEC, shard_bytes=10_000)
    assert len(writer) == 0
    codes = codes_of(0)
    writer.add("ordner/ä0.wav", codes, (codes.shape[1] * 320 - 7,), 1.0)
    writer.journal.close()
    assert len(path.read_bytes()) == writer.items[0].bytes
    assert len((path.parent / "records.jsonl").read_bytes().splitlines()) == 1
    write(tmp_path / "b", cap=10_000)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_resuming_keeps_what_is_done(tmp_path):
    with pytest.raises(Killed), TokenWriter(tmp_path, SPEC, shard_bytes=CAP) as writer:
        for number in range(5):
            writer.add(str(number), codes_of(number), (1000,))
        raise Killed
    writer = TokenWriter(tmp_path, SPEC, shard_bytes=CAP)
    assert len(writer) == 5 and "4" in writer and "5" not in writer
    writer.close()
    assert len(TokenReader(tmp_path)) == 5


@pytest.mark.slow
def test_a_process_that_dies_can_be_resumed(tmp_path, contents):
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import test_tokenwriter as t\n"
        "w = t.TokenWriter(sys.argv[2], t.SPEC, shard_bytes=t.CAP)\n"
        "[w.add(f'ordner/ä{n}.wav', t.codes_of(n), (t.codes_of(n).shape[1] * 320 - 7,), 1 + n / 7)"
        " for n in range(6)]\n"
        "os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "a")]
    assert subprocess.run(command, check=False).returncode == 9
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_one_writer_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    writer = TokenWriter(tmp_path, SPEC)
    with pytest.raises(VqError, match="another process is writing tokens here"):
        TokenWriter(tmp_path, SPEC)
    writer.journal.close()
    TokenWriter(tmp_path, SPEC).journal.close()


def test_other_settings_are_refused_until_restart(tmp_path, contents):
    with pytest.raises(Killed), TokenWriter(tmp_path / "a", SPEC, shard_bytes=CAP) as writer:
        add_all(writer)
        raise Killed
    with pytest.raises(VqError, match="another storage and shard_bytes; repeat its command"):
        TokenWriter(tmp_path / "a", SPEC, "packed")
    with TokenWriter(tmp_path / "a", SPEC, "packed", restart=True) as writer:
        assert len(writer) == 0
        add_all(writer)
    with TokenWriter(tmp_path / "b", SPEC, "packed") as writer:
        add_all(writer)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_finished_tokens_are_not_overwritten(tmp_path, contents):
    write(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(VqError, match="holds finished tokens already"):
        TokenWriter(tmp_path, SPEC)
    assert contents(tmp_path) == before
    with TokenWriter(tmp_path, SPEC, restart=True) as writer:
        writer.add("one", codes_of(0), (5,))
    assert TokenReader(tmp_path).keys() == ["one"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_shard_that_changed_while_the_run_stood_still(tmp_path):
    with pytest.raises(Killed), TokenWriter(tmp_path, SPEC, shard_bytes=CAP) as writer:
        add_all(writer)
        raise Killed
    shard = tmp_path / "tokens-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(VqError, match=r"tokens-00000.safetensors: changed since it was written"):
        write(tmp_path)
    shard.unlink()
    with pytest.raises(VqError, match=r"tokens-00000.safetensors: shard is missing"):
        write(tmp_path)


def test_what_add_refuses(tmp_path):
    with TokenWriter(tmp_path, SPEC) as writer:
        writer.add("a", codes_of(0), (5,))
        for key in ("", "a"):
            with pytest.raises(ValueError, match="key"):
                writer.add(key, codes_of(0), (5,))
        with pytest.raises(ValueError, match="size"):
            writer.add("b", codes_of(0), (5, 5))
        for gain in (0.0, float("nan")):
            with pytest.raises(ValueError, match="gain"):
                writer.add("b", codes_of(0), (5,), gain)
        with pytest.raises(ValueError, match=r"codes\["):
            writer.add("b", codes_of(0) + 900, (5,))
    assert TokenReader(tmp_path).keys() == ["a"]
    with pytest.raises(ValueError, match="shard_bytes"):
        TokenWriter(tmp_path / "x", SPEC, shard_bytes=0)


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(VqError, match="no tokens were written"), TokenWriter(tmp_path, SPEC):
        pass


def test_an_item_larger_than_the_cap_has_a_shard_of_its_own(tmp_path):
    write(tmp_path, cap=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == ITEMS
