import pytest
import torch

from vq.codebooks import build
from vq.codebooks.kmeans import KMeans


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_a_case_worked_by_hand():
    codebook = KMeans(dim=1, entries=2, iterations=5)
    x = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    codebook.fit(x)
    assert sorted(codebook.table[:, 0].tolist()) == [0.5, 10.5]


@pytest.mark.parametrize("weighted", [False, True])
def test_encode_by_brute_force(weighted):
    codebook = KMeans(dim=5, entries=37, iterations=3).fit(data(2000, 5))
    x = data(500, 5, seed=1)
    weight = torch.rand(500, 5, generator=torch.Generator().manual_seed(2)) if weighted else None
    cost = (x[:, None] - codebook.table).square()
    cost = (cost if weight is None else cost * weight[:, None]).sum(-1).double()
    chosen = cost.gather(1, codebook.encode(x, weight)[:, None].long())[:, 0]
    assert torch.allclose(chosen, cost.min(1).values, rtol=1e-5, atol=1e-6)


def test_fit_is_deterministic_and_seeded():
    x = data(3000, 3)
    tables = [
        KMeans(3, 16).fit(x, generator=torch.Generator().manual_seed(seed)).table
        for seed in (5, 5, 6)
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_threads_do_not_change_a_bit_of_the_table():
    x = data(50_000, 4)
    before = torch.get_num_threads()
    tables = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        tables.append(KMeans(4, 64, iterations=4).fit(x).table)
    torch.set_num_threads(before)
    assert torch.equal(tables[0], tables[1])


def test_weights_lower_the_weighted_error():
    x = data(20_000, 8)
    weight = torch.rand(20_000, 8, generator=torch.Generator().manual_seed(3)) ** 4
    plain = KMeans(8, 256).fit(x)
    weighted = KMeans(8, 256).fit(x, weight)

    def error(codebook):
        values = codebook.decode(codebook.encode(x, weight))
        return float((weight * (x - values).square()).sum())

    assert error(weighted) < 0.97 * error(plain)


def test_empty_cells_are_refilled():
    x = torch.cat([data(500, 2) * 0.01, data(500, 2) * 0.01 + 5, data(20, 2) * 0.01 - 5])
    codebook = KMeans(2, 64).fit(x)
    assert len(codebook.encode(x).unique()) >= 60
    assert codebook.fitted


def test_four_dimensions_reach_the_published_distortion():
    codebook = KMeans(4, 256).fit(data(200_000, 4))
    x = data(100_000, 4, seed=9)
    mse = float((codebook(x) - x).square().sum() / x.square().sum())
    assert (
        0.0965 < mse < 0.1000
    )  # measured .0997 in the literature; Zador's bound keeps it above .096


def test_bad_input():
    with pytest.raises(ValueError, match="no table yet"):
        build("kmeans(dim=2, entries=4)").encode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least 256 vectors"):
        build("kmeans(dim=2, entries=256)").fit(data(10, 2))
    codebook = KMeans(2, 4).fit(data(100, 2))
    with pytest.raises(ValueError, match="not negative"):
        codebook.encode(data(3, 2), torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match="broadcastable"):
        codebook.encode(data(3, 2), torch.ones(3, 3))
