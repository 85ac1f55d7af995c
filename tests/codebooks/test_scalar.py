import math

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.scalar import lloyd_max

# J. Max (1960), table I; more digits from the literature on Lloyd-Max quantizers
PUBLISHED = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}


@pytest.mark.parametrize("bits", PUBLISHED)
def test_distortion_of_the_published_table(bits):
    assert build(f"scalar(bits={bits})").distortion == pytest.approx(PUBLISHED[bits], rel=1e-3)


def test_one_bit_has_a_closed_form():
    levels, mse = lloyd_max(2)
    assert levels == pytest.approx((-math.sqrt(2 / math.pi), math.sqrt(2 / math.pi)), abs=1e-12)
    assert mse == pytest.approx(1 - 2 / math.pi, abs=1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_both_lloyd_max_conditions_by_numerical_integration(bits):
    levels, mse = lloyd_max(2**bits)
    table = torch.tensor(levels, dtype=torch.float64)
    x = torch.linspace(-9, 9, 2_000_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    cells = torch.bucketize(x, (table[1:] + table[:-1]) / 2)
    mass = torch.zeros_like(table).index_add_(0, cells, density)
    means = torch.zeros_like(table).index_add_(0, cells, density * x) / mass
    assert torch.allclose(means, table, atol=2e-4)
    error = (density * (x - table[cells]).square()).sum() / density.sum()
    assert float(error) == pytest.approx(mse, rel=1e-4)


def test_nearest_level_by_brute_force():
    codebook = build("scalar(bits=4)")
    x = torch.randn(10_000, 1, generator=torch.Generator().manual_seed(0))
    distance = (x - codebook.levels).abs()
    assert torch.equal(codebook(x)[:, 0], codebook.levels[distance.argmin(1)])


def test_nothing_to_fit():
    with pytest.raises(TypeError, match="nothing to fit"):
        build("scalar(bits=2)").fit(torch.randn(10, 1))


def test_odd_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="even number"):
        lloyd_max(3)
