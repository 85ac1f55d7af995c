"""The benchmark of packed layers: its rows are right, complete, and about the layer they name."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from vq.analysis.bench import matmul as bench
from vq.cli.bench_matmul import random_codes, random_layer
from vq.cli.main import main
from vq.codebooks import build
from vq.kernels.dispatch import native

KEYS = [
    "format", "out", "in", "batch", "threads", "ms", "gbps", "ratio_fp32", "ratio_bf16", "rel_error", "kernel",
]  # fmt: skip
SPECS = (*bench.FORMATS, "residual(stages=2, of=kmeans(dim=4, entries=16))", "pvq(dim=8, pulses=3)")
SMALL = ["--shape", "40x24", "--repeats", "1"]


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch):
    monkeypatch.setattr(bench, "_READ_BYTES", 1 << 20)
    monkeypatch.setattr(bench, "_STREAM_BYTES", 1 << 14)


def run(capsys, *arguments):
    assert main(["bench", "matmul", *SMALL, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_rows_of_every_kind_of_format(capsys):
    data = run(capsys, "--batch", "1", "3")
    rows = data["rows"]
    assert all(list(row) == KEYS for row in rows)
    assert [(r["format"], r["batch"]) for r in rows] == [
        (f"{build(spec).spec} {mode}", batch)
        for spec in bench.FORMATS
        for batch in (1, 3)
        for mode in bench.MODES
    ]
    for row in rows:
        assert (row["out"], row["in"], row["threads"]) == (40, 24, 1)
        assert min(row["ms"], row["gbps"], row["ratio_fp32"], row["ratio_bf16"]) > 0
        assert 0 < row["rel_error"] < (1e-3 if "int15" in row["format"] else 5e-2)
    assert data["streaming"] is True and data["read_gbps"] > 0 and data["seed"] == 0
    assert data["versions"]["torch"] == torch.__version__


def test_error_is_that_of_the_integers_of_the_mode(capsys):
    rows = run(capsys, "trellis", "--batch", "2", "--modes", "int8", "int15", "float")["rows"]
    errors = [row["rel_error"] for row in rows]
    assert 1e-3 < errors[0] < 3e-2 and 1e-6 < errors[1] < 1e-3 and errors[2] < 1e-6


def test_bytes_are_those_that_are_stored(capsys):
    rows = run(capsys, "scalar(bits=4)", "--batch", "1", "--modes", "float")["rows"]
    stored = 64 + 40 * 24 * 4 // 8
    assert rows[0]["gbps"] * rows[0]["ms"] * 1e6 == pytest.approx(stored, rel=1e-9)


def test_threads_shapes_and_table(capsys):
    command = ["bench", "matmul", "e8p", "--shape", "8x16", "9X17", "--repeats", "1", "--hot"]
    assert main([*command, "--threads", "1", "2", "--batch", "2", "--modes", "float"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "in cache" in lines[0] and all(name in lines[1] for name in bench.COLUMNS)
    assert [line.split()[2:5] for line in lines[3:]] == [
        ["8x16", "2", "1"], ["8x16", "2", "2"], ["9x17", "2", "1"], ["9x17", "2", "2"],
    ]  # fmt: skip
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(70, 21), (3, 64)])
def test_random_layers_hold_valid_codes(spec, shape):
    layer = random_layer(build(spec), *shape, seed=1)
    dense = layer.dequantize()
    assert dense.shape == shape and bool(torch.isfinite(dense).all())
    assert torch.equal(random_layer(build(spec), *shape, seed=1).weight, layer.weight)
    assert not torch.equal(random_layer(build(spec), *shape, seed=2).weight, layer.weight)


def test_codes_use_the_whole_table_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    for spec, last in (("kmeans(dim=2, entries=16)", 15), ("scalar(bits=3)", 7), ("e8p", 65535)):
        codes = random_codes(build(spec), 1 << 20, generator)
        assert int(codes.min()) == 0 and int(codes.max()) == last
    book = build("kmeans(dim=2, entries=20)")  # 20 is no power of two
    assert int(random_codes(book, 1000, generator).max()) == 19
    book = build("residual(stages=2, of=pvq(dim=8, pulses=3))")
    codes = random_codes(book, 50, generator)
    assert book.decode(codes).shape == (50, 8)  # a number that is no code raises


def test_copies_leave_the_cache_and_stay_few(monkeypatch):
    monkeypatch.setattr(bench, "_STREAM_BYTES", 400 << 20)
    assert bench.copies_of(64 << 20, hot=False) == 7
    assert bench.copies_of(1 << 10, hot=False) == 128 and bench.copies_of(1 << 33, hot=False) == 2
    assert bench.copies_of(1 << 10, hot=True) == 1


def test_usual_batches_depend_on_the_shape():
    plan = bench.Plan()
    assert plan.cases(7) == 7 * (7 + 3 * 4) and plan.batches_of((5, 5)) == (1, 4, 16, 64)
    assert {1, 8, 32, 256} <= set(plan.batches_of((4096, 4096)))
    assert bench.Plan(shapes=((4096, 4096),), batches=(2,), threads=(1, 2)).cases(3) == 6


def test_each_round_reads_the_next_copy_and_the_order_turns():
    log = []
    calls = {name: lambda i, name=name: log.append((name, i)) for name in "ab"}
    times = bench.timed(calls, rounds=3)
    assert log == [(n, i) for i in range(5) for n in ("ab", "ba")[i % 2]]
    assert all(len(own) == 3 for own in times.values())


def test_ratios_are_medians_of_the_rounds_ratios():
    assert bench._ratio([4.0, 9.0, 10.0], [2.0, 3.0, 1.0]) == 3.0


def test_columns_share_scales(capsys):
    data = run(capsys, "scalar(bits=4)", "e8p", "--batch", "1", "--group", "32", "--shape", "40x80")
    assert data["group"] == 32
    assert all("a scale for every 32 columns" in row["kernel"] for row in data["rows"])
    assert all(row["rel_error"] < 5e-2 for row in data["rows"])
    assert random_layer(build("scalar(bits=4)"), 40, 80, 0, 32).scales.shape == (40, 3)
    for wrong in (
        ["e8p", "--group", "20"],
        ["trellis(bits=2, memory=8, code=hash)", "--group", "32"],
    ):
        assert main(["bench", "matmul", *wrong, *SMALL]) == 2
        assert "scales of groups of columns: expected" in capsys.readouterr().err


@pytest.mark.skipif(native() is None, reason="no compiled kernels")
def test_instruction_set_is_forced_and_given_back(capsys):
    before = native().isa()
    rows = run(capsys, "trellis", "--batch", "1", "--isa", "portable")["rows"]
    assert all(row["kernel"].startswith("portable") for row in rows) and native().isa() == before
    assert main(["bench", "matmul", *SMALL, "--isa", "mmx"]) == 2
    assert "mmx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--batch", "0"], ["--threads", "0"], ["--repeats", "0"], ["no-such-codebook"]]
)
def test_wrong_options_are_refused_with_the_cause(capsys, wrong):
    assert main(["bench", "matmul", *wrong, "--shape", "8x8"]) == 2
    assert "expected" in capsys.readouterr().err or "no-such" in wrong[0]


@pytest.mark.parametrize("wrong", ["8", "8x", "0x8", "axb"])
def test_wrong_shapes_are_refused(capsys, wrong):
    with pytest.raises(SystemExit):
        main(["bench", "matmul", "--shape", wrong])
    assert "expected" in capsys.readouterr().err


def test_script_is_the_command(monkeypatch, capsys):
    path = Path(__file__).parents[2] / "benchmarks" / "matmul.py"
    monkeypatch.setattr(
        sys, "argv", [str(path), "scalar", *SMALL, "--batch", "1", "--modes", "float"]
    )
    spec = importlib.util.spec_from_file_location("matmul_script", path)
    with pytest.raises(SystemExit) as done:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert done.value.code == 0 and "scalar(bits=2)" in capsys.readouterr().out
