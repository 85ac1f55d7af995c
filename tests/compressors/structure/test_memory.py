"""Memory over the blocks of a model: what one block took is given back before the next."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vq.compressors.calibration import calibrate
from vq.compressors.files.source import open_source
from vq.compressors.structure.memory import release
from vq.compressors.structure.skeleton import build_skeleton

MIB = 2**20
LINUX = Path("/proc/self/status").is_file() and platform.libc_ver()[0] == "glibc"
RUN = """
import gc, json, sys, torch, vq
torch.set_num_threads(1)

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

def alive():
    held = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and not x.is_meta]
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in held}.values())

def tell(progress):
    if progress.stage in ("read", "block"):
        seen.append((anonymous(), alive()))

seen = []
tokens = torch.randint(64, (128,), generator=torch.Generator().manual_seed(0))
options = vq.CompressOptions(codebook="scalar(bits=2)", windows=2, context=64)
vq.compress(sys.argv[1], sys.argv[2], options=options, calibration=tokens, progress=tell)
print(json.dumps(seen))
"""


def resident():
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if "RssAnon" in line) * 1024


@pytest.mark.skipif(not LINUX, reason="counts pages as Linux does, of the heap of glibc")
def test_pages_between_what_is_still_held_are_given_back():
    held = [b"\1" * 60_000 for _ in range(2000)]  # small enough to come from the heap
    held = held[::20]  # the heap cannot shrink, for its last part is in use
    before = resident()
    release()
    assert before - resident() > 80 * MIB
    assert all(part == b"\1" * 60_000 for part in held)


def test_without_glibc_nothing_happens(monkeypatch):
    from vq.compressors.structure import memory

    monkeypatch.setattr(memory, "_trim", lambda: None)
    release()


@pytest.mark.hf
@pytest.mark.slow  # a process of its own, for the heap of this one is full of holes
@pytest.mark.skipif(not LINUX, reason="counts pages as Linux does, of the heap of glibc")
def test_nothing_is_kept_from_block_to_block(build_model, tmp_path):
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}
    model = build_model(tmp_path / "model", layers=6, **sizes)
    run = [sys.executable, "-c", RUN, str(model), str(tmp_path / "out")]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    (start, _), *blocks = json.loads(done.stdout.splitlines()[-1])
    assert len(blocks) == 6
    pages, tensors = zip(*blocks, strict=True)
    assert len(set(tensors[1:-1])) == 1  # bytes of tensors; the last block hands nothing on
    assert max(pages) - start < 16  # MiB; a block has 4 MiB, and its rounding takes 40
    assert pages[-1] - pages[1] < 4


@pytest.mark.hf
@pytest.mark.parametrize("layers", [2, 9])
def test_hidden_states_are_held_once_however_many_blocks(
    layers, build_model, tmp_path, monkeypatch
):
    held = []
    usual = calibrate._check_chain

    def check(first, second):
        held.extend({id(call[0]) for call in calls} for calls in (first, second))
        usual(first, second)

    monkeypatch.setattr(calibrate, "_check_chain", check)
    model = build_model(tmp_path / "model", layers=layers)
    skeleton = build_skeleton(open_source(model, tmp_path))
    calibrate.capture(skeleton, torch.arange(8)[None])
    assert [len(ids) for ids in held] == [1, 1]
