"""The benchmark of the GPU kernels: what it measures is right, and it says where there is no GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreted_calls import benchmark_rows

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_kernels.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_kernels", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_says_that_there_is_no_gpu():
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "no CUDA GPU" in done.stderr and not done.stdout


def test_rows_compare_the_same_work(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "TILE_SCORES", 100)  # several tiles
    generator = torch.Generator().manual_seed(0)
    x, book = torch.randn(50, 3, generator=generator), torch.randn(9, 3, generator=generator)
    tiles = script.in_tiles(x, book, script.best_of_tile)
    assert torch.equal(tiles, torch.cdist(x.double(), book.double()).argmin(1))
    search = script.search_row((50, 3, 9), "cpu", 0, 1, script.best_of_tile)
    assert 0 <= search["largest_excess"] < 1e-5 and search["seconds_cdist"] > 0
    monkeypatch.setattr(script, "MOST_SCORES", 10)
    other = script.search_row((50, 3, 9), "cpu", 0, 1, script.best_of_tile)
    assert other["seconds_cdist"] is None and other["times_cdist"] is None
    trellis = script.trellis_row((2, 6, 1, 3), "cpu", 0, 1)
    assert trellis["equal"] and trellis["weights_per_s"] > 0
    script.show([search, other, trellis])
    assert "50 x 3 x 9" in capsys.readouterr().out


def test_rows_of_packed_layers(interpreted, script, capsys):
    rows = interpreted(benchmark_rows, str(SCRIPT))
    assert [row["op"] for row in rows] == ["packed_linear"] * 2 + ["hadamard"]
    formats = ["trellis(bits=2, memory=8, code=hash)", "scalar(bits=2)"]
    assert [row["format"] for row in rows[:2]] == formats
    assert all(row["rel_error"] < 2e-3 for row in rows)
    assert all(row["seconds"] > 0 and row["launch"].startswith("Shape(") for row in rows[:2])
    script.show(rows)
    assert "in a graph" in capsys.readouterr().out
