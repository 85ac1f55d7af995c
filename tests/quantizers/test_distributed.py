"""Two processes with half a batch each are one process with the whole batch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

WORK = """
import os, sys
import torch
import torch.distributed as dist
from vq.quantizers import make

torch.set_num_threads(1)
rank, ranks, folder, compiled = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4] == "True"
if ranks > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
CONFIGS = [
    {"codebook": "kmeans(dim=6, entries=64)", "every": 1, "decay": 0.8, "revival": 0.5},
    {"codebook": "kmeans(dim=6, entries=64)", "every": 2, "lookup": "cosine", "init": "uniform"},
    {"codebook": "kmeans(dim=6, entries=64)", "every": 2, "learn": "gradient", "init": "uniform", "revival": 0.5},
    {"codebook": "kmeans(dim=3, entries=16)", "dim": 6, "every": 3, "revival": 0.3},
]
results = []
for number, config in enumerate(CONFIGS):
    layer = make("vq", **config)
    if number == 3:
        layer.start(torch.randn(500, 6, generator=torch.Generator().manual_seed(0)))
    if compiled:
        layer = torch.compile(layer, fullgraph=True, backend="aot_eager")
    told = []
    for step in range(9):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(120, 6, generator=generator)
        mask = torch.rand(120, generator=generator) < torch.linspace(0.2, 1, 120)
        x[5] = torch.nan
        if step == 4:
            mask[:] = False
        if step == 6:
            mask[:60] = False
        share = slice(0, 120) if ranks == 1 else slice(60 * rank, 60 * rank + 60)
        found = layer(x[share], mask[share])
        told.append((found.codes, {k: v for k, v in found.stats.items() if k not in ("distance", "nonfinite")}))
    results.append((told, layer.state_dict()))
torch.save(results, f"{folder}/rank{rank}of{ranks}.pt")
if ranks > 1:
    dist.destroy_process_group()
    os._exit(0)  # threads of the group that something still holds may abort an interpreter that ends in order
"""


@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["plain", "compiled"],
)
def results(request, tmp_path_factory):
    """What one process, and each of two, came to."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(rank), str(ranks), str(folder), str(request.param)],
            env=environment,
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors[-3000:]
    return [torch.load(folder / f"rank{name}.pt") for name in ("0of1", "0of2", "1of2")]


pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch.distributed") is None
    or not torch.distributed.is_available()
    or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)


@pytest.mark.parametrize("number", range(4))
def test_two_ranks_are_one_process_with_the_whole_batch(results, number):
    (told, state), (left, left_state), (right, right_state) = (one[number] for one in results)
    revived = 0.0
    for whole, first, second in zip(told, left, right, strict=True):
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
        for key, value in whole[1].items():
            torch.testing.assert_close(first[1][key], value)
            torch.testing.assert_close(second[1][key], value)
        revived += float(whole[1]["revived"])
    assert revived > 0
    for key, value in state.items():
        assert torch.equal(left_state[key], right_state[key]), key
        torch.testing.assert_close(left_state[key], value, rtol=1e-5, atol=1e-6)
