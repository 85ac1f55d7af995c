"""Mean and scale of channels; two processes with half a batch each are one with the whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vq.quantizers.affine import Affine

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import os, sys
import torch
import torch.distributed as dist
from vq.quantizers import make

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
layer = make("fsq", levels=[5, 4], normalise=True, decay=0.5)
for step in range(4):
    x = 3 * torch.randn(40, 2, generator=torch.Generator().manual_seed(step)) + step
    mask = torch.arange(40) % 3 > 0
    share = slice(25 * rank, 25 + 15 * rank)
    layer(x[share], mask[share])
torch.save(layer.state_dict(), f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
os._exit(0)  # threads of the group that something still holds may abort an interpreter that ends in order
"""


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ranks_add_up(tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORK]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in (0, 1)
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    from vq.quantizers import make

    layer = make("fsq", levels=[5, 4], normalise=True, decay=0.5)
    for step in range(4):
        layer(3 * randn(40, 2, seed=step) + step, torch.arange(40) % 3 > 0)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"rank{rank}.pt")
        for key, value in layer.state_dict().items():
            torch.testing.assert_close(state[key], value)


@pytest.mark.parametrize("mode", ["running", "learned", "fixed"])
def test_a_start_brings_features_to_mean_0_and_variance_1(mode):
    affine = Affine(3, mode)
    h = randn(500, 3) * torch.tensor([0.1, 1, 50]) + 7
    affine.start(h)
    z = affine.into(h)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), rtol=1e-4, atol=0)
    torch.testing.assert_close(affine.out(z), h)
    assert torch.equal(affine.out(z), affine.out_held(z))


def test_only_learned_ones_have_gradients_and_only_out():
    affine = Affine(3, "learned")
    h = randn(10, 3).requires_grad_()
    affine.into(h).sum().backward()
    assert affine.center.grad is None and affine.log_scale.grad is None
    affine.out(randn(10, 3)).sum().backward()
    torch.testing.assert_close(affine.center.grad, torch.full((3,), 10.0))
    assert not list(Affine(3, "running").parameters())


def test_a_channel_without_variance_stays_finite():
    affine = Affine(2, "running")
    for _ in range(3):
        affine.advance()
        affine.collect(torch.full((8, 2), 5.0), torch.ones(8, dtype=torch.bool))
    affine.advance()
    torch.testing.assert_close(affine.center, torch.full((2,), 5.0))
    assert bool(torch.isfinite(affine.into(randn(4, 2))).all()) and bool((affine.scale > 0).all())
