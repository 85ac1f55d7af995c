"""Killed at any moment, and started again: always the same bytes."""

import os
import random
import shutil
import signal
import time

import pytest

from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress

pytestmark = [pytest.mark.hf, pytest.mark.slow]
OPTIONS = CompressOptions(codebook="trellis(bits=2, memory=6, code=lut)", windows=4, context=16)


def killed(run, seconds):
    """Run in a process that is killed after some time; whether it was, and did not end before."""
    process = os.fork()
    if process == 0:
        try:
            run()
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_ten_random_moments(seed, llama, text, contents, tmp_path):
    def run(name="out"):
        return compress(llama, tmp_path / name, options=OPTIONS, calibration=text)

    run("first")  # imports and caches
    started = time.monotonic()
    wanted = contents(run("whole").output)
    length = time.monotonic() - started
    moments = random.Random(seed)
    hits = resumed = 0
    for _ in range(10):
        hits += killed(run, moments.uniform(0, length))
        if not (tmp_path / "out").exists():
            resumed += run().resumed > 0
        assert contents(tmp_path / "out") == wanted
        shutil.rmtree(tmp_path / "out")
        assert not (tmp_path / "out.partial").exists() or not any(
            (tmp_path / "out.partial" / "blocks").glob("*.safetensors")
        )
    assert hits >= 3 and resumed >= 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again(llama, text, contents, tmp_path):
    """One run that is killed ten times before it may end."""

    def run(name="out"):
        return compress(llama, tmp_path / name, options=OPTIONS, calibration=text)

    run("first")
    started = time.monotonic()
    wanted = contents(run("whole").output)
    length = time.monotonic() - started
    moments = random.Random(7)
    for _ in range(10):
        if (tmp_path / "out").exists():
            break
        killed(run, moments.uniform(0, 0.5 * length))
    if not (tmp_path / "out").exists():
        run()
    assert contents(tmp_path / "out") == wanted
