"""Geometry of tables against brute force and known point sets."""

from __future__ import annotations

import pytest
import torch

from vq.analysis.measures.geometry import geometry_section, two_neighbours
from vq.analysis.subject import Table


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_neighbours_against_brute_force():
    values = randn(500, 6)
    distance = torch.cdist(values.double(), values.double())
    distance.fill_diagonal_(torch.inf)
    want = distance.sort(1).values
    picks = torch.randperm(500, generator=torch.Generator().manual_seed(1))[:200]
    first, second = two_neighbours(values, picks)
    assert torch.allclose(first, want[picks, 0], atol=1e-6)
    assert torch.allclose(second, want[picks, 1], atol=1e-6)


def test_duplicates_and_near_duplicates():
    values = randn(1000, 8)
    values[900:] = values[:100]
    values[800:850] = values[100:150] + 1e-4
    values[999] = values[0]  # three alike
    found = geometry_section(Table("", values), cells=False)
    assert found.number("duplicates") == pytest.approx(100 / 1000)
    assert found.number("near_duplicates") == pytest.approx(300 / 1000, abs=0.002)


def test_healthy_gaussian_table():
    found = geometry_section(Table("", randn(2048, 6)), cells=False)
    assert found.number("duplicates") == 0
    assert found.number("effective_rank") == pytest.approx(6, rel=0.02)
    assert found.number("participation") == pytest.approx(6, rel=0.03)
    assert abs(found.number("anisotropy")) < 0.01
    assert found.number("neighbour_ratio") == pytest.approx(1, abs=0.05)


def test_ranks_exactly():
    scales = torch.tensor([3.0, 1.0, 0.0])
    square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    values = torch.cat([square * scales[:2], torch.zeros(4, 1)], 1)
    found = geometry_section(Table("", values), cells=False)
    p = torch.tensor([0.75, 0.25])
    assert found.number("effective_rank") == pytest.approx(float((-(p * p.log()).sum()).exp()))
    assert found.number("participation") == pytest.approx(10**2 / (81 + 1))


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_intrinsic_dimension_of_a_sheet_in_more_dimensions(dim):
    basis = torch.linalg.qr(randn(10, 10, seed=3))[0][:dim]
    points = torch.rand(4000, dim, generator=torch.Generator().manual_seed(2)) @ basis
    found = geometry_section(Table("", points), cells=False).get("intrinsic_dim")
    assert found.value == pytest.approx(dim, rel=0.08)
    assert found.low < found.value < found.high


def test_second_moment_of_random_entries_is_between_ball_and_far_above():
    found = geometry_section(Table("", randn(2000, 4)))
    assert found.number("second_moment") > found.number("second_moment_ball")
    assert found.number("second_moment") < 0.12
    assert (
        "cube 0.0833" in found.get("second_moment").note and "D4" in found.get("second_moment").note
    )
    assert 0 < found.number("unbounded_cells") < 1


def test_cosine_tables_are_measured_at_length_one():
    values = randn(300, 4) * torch.rand(300, 1, generator=torch.Generator().manual_seed(1))
    found = geometry_section(Table("", values, cosine=True), cells=False)
    assert found.number("norm") == pytest.approx(1) and found.number("norm_spread") < 1e-6


def test_rows_that_are_not_finite_are_left_out_and_told():
    values = randn(100, 4)
    values[3, 1] = torch.nan
    found = geometry_section(Table("", values))
    assert found.number("entries") == 100 and "1 of 100 rows are not finite" in found.notes[0]


@pytest.mark.parametrize(
    "values", [torch.zeros(50, 4), torch.ones(1, 4), torch.full((3, 2), torch.nan), randn(7, 1)]
)
def test_degenerate_tables(values):
    found = geometry_section(Table("x", values))
    assert found.number("entries") == len(values) and found.part == "x"
    if len(values) == 50:
        assert found.number("duplicates") == 0.98 and found.number("effective_rank") == 0


def test_map_has_the_use_of_its_entries():
    values = randn(5000, 3)
    counts = torch.arange(5000)
    (plot, norms) = geometry_section(Table("", values), counts=counts, cells=False).series
    assert plot.columns["entry"] == plot.columns["count"] and len(plot.columns["x"]) == 2000
    assert sum(norms.columns["entries"]) == 5000
