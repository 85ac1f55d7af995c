import itertools

import numpy as np
import pytest
import torch

from vq.codebooks import kmeans1d
from vq.kernels.kmeans1d import _reference, optimal_levels


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute_force(values, weights, levels):
    """Least weighted squared error over all ways to cut the sorted numbers."""
    order = np.argsort(values)
    v, w = values[order], weights[order]
    best = np.inf
    for cuts in itertools.combinations(range(1, len(v)), levels - 1):
        ends, error = (0, *cuts, len(v)), 0.0
        for low, high in itertools.pairwise(ends):
            mean = np.average(v[low:high], weights=w[low:high])
            error += (w[low:high] * (v[low:high] - mean) ** 2).sum()
        best = min(best, error)
    return best


@pytest.fixture(params=["native", "reference"])
def backend(request, monkeypatch):
    if request.param == "reference":
        monkeypatch.setenv("VQ_BACKEND", "reference")


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_against_brute_force(backend, levels):
    x = data(30, 11, seed=levels)
    weight = torch.rand(30, 11, generator=torch.Generator().manual_seed(9)) + 0.01
    for own in (None, weight):
        found = kmeans1d.fit(x, levels, own)
        for row in range(30):
            w = np.ones(11) if own is None else own[row].double().numpy()
            want = brute_force(x[row].double().numpy(), w, levels)
            assert float(found.error[row]) == pytest.approx(want, rel=1e-5, abs=1e-9)


def test_error_is_that_of_the_levels(backend):
    x, weight = data(3, 3000), data(3, 3000, seed=1).square()
    found = kmeans1d.fit(x, 9, weight)
    assert bool((found.table.diff(dim=1) > 0).all())
    values = found.table.gather(1, kmeans1d.assign(x, found.table))
    error = (weight * (x - values).square()).double().sum(1)
    assert torch.allclose(error, found.error, rtol=1e-5)


@pytest.mark.parametrize("kind", ["normal", "heavy", "lumps"])
@pytest.mark.parametrize("bins", [400, 1024])
def test_bins_cost_next_to_nothing(kind, bins):
    x = data(12, 4096)
    x = {"normal": x, "heavy": x**5, "lumps": x + 30 * (data(12, 4096, seed=3) * 2).round()}[kind]
    weight = data(12, 4096, seed=1).square()
    exact = kmeans1d.fit(x, 16, weight, bins=4096).error
    binned = kmeans1d.fit(x, 16, weight, bins=bins).error
    assert bool((binned >= exact * (1 - 1e-9)).all())
    assert float((binned / exact).max()) < (1.001 if bins == 1024 else 1.02)


def test_no_worse_than_lloyd():
    from vq.codebooks import lloyd

    x = data(2000)
    ours = float(kmeans1d.fit(x, 8).error[0])
    for seed in range(4):
        start = torch.Generator().manual_seed(seed)
        other = lloyd.fit(x[:, None], 8, sample=None, iterations=100, generator=start)
        assert ours <= 2000 * float(other.history[-1]) * (1 + 1e-6)


def test_lloyd_max_levels_of_many_normal_numbers():
    from vq.codebooks.scalar import lloyd_max

    levels, distortion = lloyd_max(8)
    x = data(400_000)
    found = kmeans1d.fit(x, 8)
    assert torch.allclose(found.table[0], torch.tensor(levels), atol=0.03)
    assert float(found.error[0]) / 400_000 == pytest.approx(distortion, rel=0.01)


def test_few_distinct_numbers(backend):
    x = torch.tensor([[1.0, 1.0, 2.0, 5.0, 5.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    found = kmeans1d.fit(x, 4)
    assert found.table.tolist() == [[1, 2, 5, 5], [3, 3, 3, 3]]
    assert found.error.tolist() == pytest.approx([0, 0], abs=1e-9)
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0])
    assert kmeans1d.fit(x, 2, weight).table.tolist() == [[1, 5], [3, 3]]
    assert kmeans1d.fit(x, 2, torch.zeros(5)).table.tolist() == [[0, 0], [0, 0]]
    signed = torch.tensor([-0.0, 0.0, -2.0, -3.0, 7.0])
    assert kmeans1d.fit(signed, 4).table[0].tolist() == pytest.approx([-3, -2, 0, 7])


def test_far_from_zero():
    x = data(2000) + 1000
    exact = kmeans1d.fit((x - 1000), 8)
    found = kmeans1d.fit(x, 8)
    assert torch.allclose(found.table - 1000, exact.table, atol=1e-3)
    assert float(found.error[0]) == pytest.approx(float(exact.error[0]), rel=1e-4)


def test_threads_and_the_reference_agree():
    x, weight = data(40, 1500), data(40, 1500, seed=2).square()
    torch.set_num_threads(1)
    one = kmeans1d.fit(x, 5, weight)
    torch.set_num_threads(3)
    three = kmeans1d.fit(x, 5, weight)
    assert torch.equal(one.table, three.table) and torch.equal(one.error, three.error)
    table, error = _reference(x[:3], weight[:3], 5, 200)
    native = optimal_levels(x[:3], 5, weight[:3], 200)
    assert torch.allclose(error, native[1], rtol=1e-6)
    assert torch.allclose(table, native[0], atol=1e-5)


def test_a_tie_goes_to_the_lower_level():
    table = torch.tensor([[0.0, 1.0, 4.0]])
    assert kmeans1d.assign(torch.tensor([[0.5, 0.6, 2.5, 9.0]]), table).tolist() == [[0, 1, 1, 2]]


def test_op_is_well_formed():
    for weight in (None, torch.rand(2, 9)):
        torch.library.opcheck(torch.ops.vq.kmeans1d.default, (data(2, 9), weight, 3, 1024))


def test_bad_input():
    with pytest.raises(ValueError, match="expected floats"):
        kmeans1d.fit(torch.zeros(2, 3, 4), 2)
    with pytest.raises(ValueError, match="levels from 1"):
        kmeans1d.fit(torch.zeros(4), 0)
    with pytest.raises(ValueError, match="not finite"):
        kmeans1d.fit(torch.tensor([1.0, float("nan")]), 1)
    with pytest.raises(ValueError, match="not negative"):
        kmeans1d.fit(torch.zeros(4), 1, -torch.ones(4))
