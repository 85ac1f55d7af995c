"""Second moments of cells against those of known lattices and of a ball."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from vq.analysis.measures.cells import LATTICES, ball_moment, measure_cells


def integers(dim: int, reach: int) -> torch.Tensor:
    axes = [range(-reach, reach + 1)] * dim
    return torch.tensor(list(itertools.product(*axes)), dtype=torch.float32)


def lattice(name: str) -> torch.Tensor:
    """Points around the origin, enough that its own cell is complete."""
    if name == "Z":
        return integers(1, 3)
    if name == "A2":
        return integers(2, 3) @ torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2]])
    if name == "D4":
        x = integers(4, 2)
        return x[x.sum(1) % 2 == 0]
    x = integers(8, 1)
    even = x[x.sum(1) % 2 == 0]
    half = torch.tensor(list(itertools.product([-0.5, 0.5], repeat=8)))
    return torch.cat([even, half[half.sum(1) % 2 == 0]])


@pytest.mark.parametrize("name", ["Z", "A2", "D4", "E8"])
def test_lattices(name):
    points = lattice(name)
    order = points.square().sum(1).argsort()
    generator = torch.Generator().manual_seed(0)
    from vq.analysis.measures import cells

    rows = points[order]
    walls = cells._walls(rows, rows.square().sum(1), 0, 20_000, generator)
    dim, want = LATTICES[name]
    log_t = walls.double().log()
    surface = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    volume = surface / dim * float((dim * log_t).exp().mean())
    moment = surface / (dim + 2) * float(((dim + 2) * log_t).exp().mean())
    assert moment / volume ** (1 + 2 / dim) / dim == pytest.approx(want, rel=0.01)


def test_cubes_of_a_grid_all_alike():
    found = measure_cells(integers(3, 5) * 7, torch.Generator().manual_seed(1), cells=200)
    assert found.second_moment == pytest.approx(1 / 12, rel=0.01)
    assert found.low < found.second_moment < found.high
    assert 0 < found.bounded < found.sampled == 200  # those at the border are open
    assert found.spread < 0.1


def test_rays_against_points_thrown():
    """Cell of one entry among random ones: share of a box's points that it takes, and their mean square."""
    generator = torch.Generator().manual_seed(2)
    table = torch.randn(400, 3, generator=generator)
    table[0] = 0
    from vq.analysis.measures import cells

    walls = cells._walls(table, table.square().sum(1), 0, 40_000, generator)
    volume = 4 * math.pi / 3 * float(walls.double().pow(3).mean())
    moment = 4 * math.pi / 5 * float(walls.double().pow(5).mean())
    side = 2 * float(walls.max()) * 1.01
    points = (torch.rand(100_000, 3, generator=generator) - 0.5) * side
    mine = points[torch.cdist(points, table).argmin(1) == 0]
    share = len(mine) / len(points)
    assert volume == pytest.approx(share * side**3, rel=0.05)
    assert moment / volume == pytest.approx(float(mine.square().sum(1).mean()), rel=0.05)


def test_few_entries_have_open_cells():
    found = measure_cells(torch.randn(5, 4), torch.Generator().manual_seed(0))
    assert found.bounded == 0 and found.second_moment is None


def test_ball_is_below_every_lattice():
    assert ball_moment(1) == pytest.approx(1 / 12)
    assert ball_moment(10_000) == pytest.approx(1 / (2 * math.pi * math.e), rel=1e-3)
    for dim, moment in LATTICES.values():
        assert moment >= ball_moment(dim) * 0.9999


@pytest.mark.parametrize(("entries", "dim"), [(6000, 8), (3000, 3)])
def test_cells_are_those_of_a_search_through_all_entries(entries, dim, monkeypatch):
    """Shortcuts (near entries first, cells given up early) change nothing."""
    from vq.analysis.measures import cells

    monkeypatch.setattr(cells, "_NEAR", 24)
    monkeypatch.setattr(cells, "_NEAR_WIDE", 200)
    table = torch.randn(entries, dim, generator=torch.Generator().manual_seed(3))
    lengths = table.square().sum(1)
    kept = 0
    for pick in range(12):
        found = cells._walls(table, lengths, pick, 256, torch.Generator().manual_seed(pick))
        direction = torch.randn(128, dim, generator=torch.Generator().manual_seed(pick))
        direction /= direction.norm(dim=1, keepdim=True)
        direction = torch.cat([direction, -direction])
        others = torch.cat([table[:pick], table[pick + 1 :]]).double() - table[pick].double()
        cuts = (direction.double() @ (2 * others / others.square().sum(1, keepdim=True)).T).amax(1)
        walls = 1 / cuts
        far = walls.max() > cells._reach(dim) * walls.median()
        if not bool((cuts > 0).all()) or bool(far):
            assert found is None
        else:
            kept += 1
            torch.testing.assert_close(found.double(), walls, rtol=1e-4, atol=1e-5)
    assert 0 < kept
