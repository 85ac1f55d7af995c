"""Several processes: the bytes of one, a clean end when one dies, and going on after it."""

import os
import subprocess
import sys

import pytest
import torch

from vq.compressors.calibration.hessian import (
    Hessian,
    collect_hessians,
    leaves,
    my_windows,
    sum_hessians,
)
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.ranks import Ranks, spread

RUN = """
import os, signal, sys, torch
torch.set_num_threads(1)
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
model, output, text, kill, windows = sys.argv[1:]
if kill == os.environ["RANK"]:
    from vq.compressors.rounding.block import BlockQuantizer
    usual = BlockQuantizer.quantize
    def dying(self, index, activations):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, index, activations)
    BlockQuantizer.quantize = dying
options = CompressOptions(codebook="scalar(bits=2)", windows=int(windows), context=16)
try:
    report = compress(model, output, options=options, calibration=text, timeout=60)
    print("resumed", report.resumed, len(report.report["layers"]))
    threads = [open(f"/proc/self/task/{t}/comm").read() for t in os.listdir("/proc/self/task")]
    print("left behind:", sum("gloo" in name for name in threads))
except ValueError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


def start(size, port, *arguments, script=RUN):
    """The processes of a job, as torchrun would start them."""
    jobs = []
    for rank in range(size):
        more = {
            "PYTHONFAULTHANDLER": 1,
            "RANK": rank,
            "WORLD_SIZE": size,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {**os.environ, **{k: str(v) for k, v in more.items()}}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        jobs.append(subprocess.Popen(command, env=environment, **pipes))
    return [(*job.communicate(timeout=300), job.returncode) for job in jobs]


@pytest.fixture
def port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.hf
def test_two_processes_give_the_bytes_of_one(llama, text, contents, tmp_path, port):
    options = CompressOptions(codebook="scalar(bits=2)", windows=5, context=16)
    alone = compress(llama, tmp_path / "alone", options=options, calibration=text)
    for out, err, code in start(2, port, llama, tmp_path / "both", text, "none", 5):
        assert code == 0 and out.startswith("resumed 0 21"), err
        assert (
            "left behind: 0" in out
        )  # a thread of the exchange that outlives it can abort the process at its end
    assert contents(tmp_path / "both") == contents(alone.output)


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("size", [3, 4])
def test_more_processes_than_windows(size, llama, text, contents, tmp_path, port):
    options = CompressOptions(codebook="scalar(bits=2)", windows=3, context=16)
    alone = compress(llama, tmp_path / "alone", options=options, calibration=text)
    for _, err, code in start(size, port, llama, tmp_path / "all", text, "none", 3):
        assert code == 0, err
    assert contents(tmp_path / "all") == contents(alone.output)


@pytest.mark.hf
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_process_ends_the_job_and_a_rerun_goes_on(
    victim, llama, text, contents, tmp_path, port
):
    results = start(2, port, llama, tmp_path / "out", text, victim, 4)
    out, _, code = results[1 - victim]
    assert code == 1 and "another process of the job ended" in out and "again" in out
    assert not (tmp_path / "out").exists()
    for out, err, code in start(2, port, llama, tmp_path / "out", text, "none", 4):
        assert code == 0 and out.startswith("resumed 1 "), err
    options = CompressOptions(codebook="scalar(bits=2)", windows=4, context=16)
    alone = compress(llama, tmp_path / "alone", options=options, calibration=text)
    assert contents(tmp_path / "out") == contents(alone.output)


PLAN = """
import sys, torch
torch.set_num_threads(1)
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
model, output, text, budget, epochs = sys.argv[1:]
tuning = {"block_epochs": int(epochs)} if int(epochs) else {}
options = CompressOptions(windows=4, context=16, budget=budget, tuning=tuning)
try:
    report = compress(model, output, options=options, calibration=text, timeout=200)
    print("done", len(set(layer["codebook"] for layer in report.report["layers"].values())))
except ValueError as error:
    print(type(error).__name__, error)
    sys.exit(1)
"""


@pytest.mark.hf
@pytest.mark.slow
def test_a_plan_in_two_processes_is_that_of_one(llama, text, contents, tmp_path, port):
    options = CompressOptions(windows=4, context=16, budget="90kB")
    alone = compress(llama, tmp_path / "alone", options=options, calibration=text)
    for out, err, code in start(2, port, llama, tmp_path / "b", text, "90kB", 0, script=PLAN):
        assert code == 0 and out.startswith("done"), out + err
    assert contents(tmp_path / "b") == contents(alone.output)


@pytest.mark.hf
@pytest.mark.slow
def test_what_is_wrong_with_a_plan_is_said_in_every_process(llama, text, tmp_path, port):
    for out, _, code in start(2, port, llama, tmp_path / "b", text, "0.1", 0, script=PLAN):
        assert code == 1 and "VqError" in out and "smallest possible" in out
    assert not (tmp_path / "b").exists()


@pytest.mark.hf
@pytest.mark.slow
def test_tuning_in_two_processes_is_refused_at_once(llama, text, tmp_path, port):
    for out, _, code in start(2, port, llama, tmp_path / "b", text, "90kB", 1, script=PLAN):
        assert code == 1 and "works in one process, got 2 of them; start without torchrun" in out
    assert not (tmp_path / "b.partial" / "plan.json").exists()


def test_parts_of_the_windows_cover_them_once():
    for windows in (1, 2, 7, 8, 9, 32, 100):
        assert [w for part in leaves(windows) for w in part] == list(range(windows))
        for size in (1, 2, 3, 5, 16):
            shares = [my_windows(windows, Ranks(rank, size)) for rank in range(size)]
            assert sorted(w for share in shares for w in share) == list(range(windows))


def test_the_sum_over_parts_is_the_sum():
    layer = torch.nn.Linear(6, 3)
    xs = [torch.randn(4, 6) for _ in range(11)]

    def collect(numbers):
        runs = [lambda i=i: layer(xs[i]) for i in numbers]
        return collect_hessians([["a"]], {"a": layer}, runs)

    (found,) = sum_hessians(collect, 11, [0], Ranks())
    whole = Hessian(torch.zeros(6, 6))
    whole.add(torch.cat(xs))
    assert found.count == whole.count == 44
    torch.testing.assert_close(found.mean(), whole.mean())


def test_work_is_spread_by_cost():
    assert spread([5, 3, 3, 1], 2) == [0, 1, 1, 0]
    assert spread([1, 1, 1], 1) == [0, 0, 0]
    assert spread([2, 9], 3) == [1, 0]


def test_exchanges_of_one_process_need_nothing():
    ranks = Ranks()
    tensors, notes = ranks.share_tensors({"a": torch.ones(2)}, {"b": 1}, 0)
    assert torch.equal(tensors["a"], torch.ones(2)) and notes == {"b": 1}
    assert ranks.agree([1, "x"]) == [1, "x"] and ranks.first
    ranks.wait()
