import numpy as np
import pytest
import torch

from vq.codebooks import lloyd
from vq.codebooks.lloyd_start import spread_rows
from vq.kernels.lloyd import cell_sums, lower_distances
from vq.kernels.search import nearest


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gamma(*shape, seed=0):
    """Gamma(1/2, 1/2): mean 1, heavy near zero."""
    return data(*shape, seed=seed).square()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def plain_lloyd(x, table, iterations, weight=None):
    """Lloyd's algorithm in numpy float64, by definition; no empty cells expected."""
    x, table = x.double().numpy(), table.double().numpy().copy()
    weight = np.ones_like(x) if weight is None else weight.double().numpy() * np.ones_like(x)
    history = []
    for step in range(iterations + 1):
        cost = (weight[:, None] * (x[:, None] - table) ** 2).sum(-1)
        codes = cost.argmin(1)
        history.append(cost.min(1).sum() / weight.sum())
        if step == iterations:
            return table, history
        for k in range(len(table)):
            own = weight[codes == k]
            mass = own.sum(0)
            total = (own * x[codes == k]).sum(0)
            table[k] = np.where(mass > 0, total / np.where(mass > 0, mass, 1), table[k])


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("weighted", ["none", "points", "coordinates"])
@pytest.mark.parametrize("dim", [1, 3, 8, 40])
def test_iterations_by_definition(monkeypatch, weighted, dim, reference):
    if reference:
        monkeypatch.setenv("VQ_BACKEND", "reference")
    x = data(700, dim)
    weight = {"none": None, "points": gamma(700, 1), "coordinates": gamma(700, dim)}[weighted]
    start = x[:12]
    found = lloyd.fit(x, 12, weight, init=start, iterations=4)
    table, history = plain_lloyd(x, start, 4, weight)
    assert np.allclose(found.history.numpy(), history, rtol=1e-5)
    assert np.allclose(found.table.numpy(), table, rtol=1e-3, atol=1e-4)
    assert int(found.members.sum()) == 700


def test_weights_of_points_equal_repeated_points():
    x = data(200, 3)
    times = torch.arange(200) % 3 + 1
    repeated = x.repeat_interleave(times, 0)
    a = lloyd.fit(x, 7, times.float(), init=x[:7], iterations=6)
    b = lloyd.fit(repeated, 7, init=x[:7], iterations=6)
    assert torch.allclose(a.table, b.table, atol=1e-6)
    assert torch.allclose(a.history, b.history)
    zero = torch.cat([times.float(), torch.zeros(50)])  # points of weight 0 count for nothing
    c = lloyd.fit(torch.cat([x, data(50, 3, seed=5) * 9]), 7, zero, init=x[:7], iterations=6)
    assert torch.allclose(a.table, c.table, atol=1e-6)


def test_problems_are_independent():
    x, weight = data(5, 900, 4), gamma(5, 900, 4)
    together = lloyd.fit(x, 16, weight, init=x[:, :16], iterations=5)
    for p in range(5):
        alone = lloyd.fit(x[p], 16, weight[p], init=x[p, :16], iterations=5)
        assert torch.equal(alone.table, together.table[p])
        assert torch.equal(alone.history, together.history[:, p])
        assert torch.equal(alone.members, together.members[p])


@pytest.mark.parametrize("init", ["random", "kmeans++"])
@pytest.mark.parametrize("problems", [1, 3])
def test_threads_do_not_change_a_bit(init, problems):
    x = data(problems, 70_000 // problems, 5)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(lloyd.fit(x, 40, init=init, iterations=3, generator=seeded(3)))
    for other in found[1:]:
        assert torch.equal(found[0].table, other.table)
        assert torch.equal(found[0].history, other.history)


def test_seeds():
    x = data(3000, 2)
    a, b, c = (lloyd.fit(x, 9, iterations=2, generator=seeded(s)).table for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("entries", [20, 1100])
def test_spread_start_finds_the_clusters(entries):
    """As many tight clusters as entries: k-means++ hits nearly all, random rows about 1 - 1/e."""
    centres = data(entries, 4) * 100
    x = (centres[:, None] + 0.01 * data(entries, 12, 4)).reshape(-1, 4)
    for weight in (None, torch.rand(len(x), 1), torch.rand(len(x), 4)):
        start = spread_rows(x, weight, entries, seeded(1))
        assert start.shape == (entries, 4)
        hit = len(nearest(start, centres).unique()) / entries
        assert hit > (0.95 if entries <= 1024 else 0.85)
    random = lloyd.fit(x, entries, iterations=0, sample=None)
    assert len(nearest(random.table, centres).unique()) / entries < 0.8


def test_spread_start_draws_by_squared_distance():
    """Second row of k-means++ from 0, 1 and 3: after 0 it is 3 in nine draws of ten."""
    x = torch.tensor([[0.0], [1.0], [3.0]])
    after = [spread_rows(x, None, 2, seeded(seed))[:, 0].tolist() for seed in range(900)]
    second = [pair[1] for pair in after if pair[0] == 0.0]
    assert len(second) > 200 and np.mean([s == 3.0 for s in second]) == pytest.approx(0.9, abs=0.05)


def test_lower_distances():
    x, weight = data(9000, 3), gamma(9000, 3)
    for own in (None, weight, weight[:, :1]):
        before = torch.full((9000,), 2.0)
        found, sums = lower_distances(x, own, x[5], before)
        want = ((x - x[5]).square() * (1 if own is None else own)).sum(1).clamp_max(2.0)
        assert torch.allclose(found, want, rtol=1e-5) and bool((before == 2).all())
        assert sums.shape == (3,) and float(sums.sum()) == pytest.approx(float(want.double().sum()))


def test_empty_cells_take_badly_served_points():
    x = torch.cat([data(2000, 2), torch.tensor([[50.0, 50.0], [-60.0, 0.0]])])
    start = torch.cat([torch.zeros(1, 2), torch.full((3, 2), 1e4)])
    found = lloyd.fit(x, 4, init=start, iterations=8)
    assert int(found.members.min()) > 0
    assert {(50.0, 50.0), (-60.0, 0.0)} <= {tuple(row) for row in found.table.tolist()}
    few = lloyd.fit(torch.ones(50, 2).cumsum(0).clamp_max(3), 8, iterations=5)
    assert bool(torch.isfinite(few.table).all()) and float(few.history[-1]) == 0


def test_a_sample_ends_with_all_points():
    x = data(60_000, 2)
    found = lloyd.fit(x, 16, sample="auto", iterations=12)
    full = lloyd.fit(x, 16, sample=None, iterations=12)
    assert int(found.members.sum()) == 60_000
    assert float(found.history[-1]) < 1.04 * float(full.history[-1])  # two local optima
    values = found.table[nearest(x, found.table).long()]
    assert float(found.history[-1]) == pytest.approx(float((x - values).square().mean()), rel=1e-5)


def test_objective_falls():
    x, weight = data(5000, 4), gamma(5000, 4)
    for own in (None, weight):
        history = lloyd.fit(x, 64, own, sample=None, iterations=15).history
        assert bool((history.diff() <= 1e-9).all())


def test_tolerance_stops():
    found = lloyd.fit(data(5000, 2), 4, sample=None, iterations=500, tolerance=1e-3)
    assert 3 < len(found.history) < 60


def test_entropy_constraint_trades_rate_for_error():
    """At 1.5 to 3 bits ECVQ of scalars lies below a fixed-rate quantizer of its entropy."""
    x = data(60_000, 1)
    plain = lloyd.fit(x, 32, sample=None, iterations=30)
    rates = []
    for weight in (0.02, 0.1, 0.3):
        found = lloyd.fit(x, 32, sample=None, iterations=60, rate_weight=weight)
        rates.append(float(found.entropy))
        codes = nearest(x, found.table, penalty=found.penalty).long()
        mse = float((x - found.table[codes]).square().mean())
        gap = 10 * np.log10(mse * 4 ** rates[-1])
        assert 0 < gap < 1.8  # entropy-coded scalar quantizers are within 1.53 dB at high rate
        assert torch.equal(torch.bincount(codes, minlength=32), found.members)
    assert float(plain.entropy) > rates[0] > rates[1] > rates[2]


def test_balance_evens_the_cells():
    x = data(20_000, 2).sign() * data(20_000, 2).square()
    plain, some, more = (
        lloyd.fit(x, 32, sample=None, iterations=40, balance=balance) for balance in (0.0, 0.2, 0.5)
    )
    assert float(plain.entropy) + 0.1 < float(some.entropy) < float(more.entropy) - 0.05
    assert float(more.history[-1]) < 1.1 * float(plain.history[-1])


def test_weights_of_coordinates_beat_weights_of_points():
    """Gamma(1/2) weights, 8 dimensions, 256 entries, 20 000 vectors; assignment by the true weights."""
    x, weight = data(20_000, 8), gamma(20_000, 8, seed=1)
    scalar = lloyd.fit(x, 256, weight.mean(1), sample=None, iterations=20).table
    own = lloyd.fit(x, 256, weight, sample=None, iterations=20).table

    def error(table):
        values = table[nearest(x, table, weight).long()]
        return float((weight * (x - values).square()).sum())

    assert error(own) < 0.92 * error(scalar)


def test_faiss_agrees():
    pytest.importorskip("faiss")
    x = data(20_000, 8)
    weight = torch.rand(20_000, 1)
    for own in (None, weight):
        ours = lloyd.fit(x, 64, own, sample=None, iterations=10)
        theirs = lloyd.fit(x, 64, own, sample=None, iterations=10, backend="faiss")
        assert float(ours.history[-1]) == pytest.approx(float(theirs.history[-1]), rel=2e-3)
    with pytest.raises(ValueError, match="weights of points only"):
        lloyd.fit(x, 64, weight.expand(x.shape), backend="faiss")


def test_sums_of_cells_op():
    x, table, weight = data(2, 50, 3), data(2, 6, 3, seed=1), gamma(2, 50, 3)
    torch.library.opcheck(torch.ops.vq.cell_sums.default, (x, table, weight, torch.rand(2, 6)))
    torch.library.opcheck(
        torch.ops.vq.lower_distances.default, (x[0], None, x[0, 0], torch.ones(50))
    )


def test_reference_sums_are_the_native_ones(monkeypatch):
    x, table = data(2, 70_000, 3), data(2, 6, 3, seed=1)
    for weight in (None, gamma(2, 70_000, 1), gamma(2, 70_000, 3)):
        native = cell_sums(x, table, weight)
        monkeypatch.setenv("VQ_BACKEND", "reference")
        plain = cell_sums(x, table, weight)
        monkeypatch.delenv("VQ_BACKEND")
        assert torch.equal(native.members, plain.members)
        assert torch.equal(native.farthest, plain.farthest)
        for name in ("total", "mass", "error", "reach"):
            assert torch.allclose(getattr(native, name), getattr(plain, name), rtol=1e-9)


def test_bad_input():
    x = data(10, 2)
    with pytest.raises(ValueError, match="entries from 1 to the number of points 10, got 11"):
        lloyd.fit(x, 11)
    with pytest.raises(ValueError, match=r"x\[\(3, 1\)\] is nan"):
        lloyd.fit(x.index_put((torch.tensor([3]), torch.tensor([1])), torch.tensor(torch.nan)), 2)
    with pytest.raises(ValueError, match="expected weight"):
        lloyd.fit(x, 2, torch.ones(3))
    with pytest.raises(ValueError, match="not negative"):
        lloyd.fit(x, 2, -torch.ones(10))
    with pytest.raises(ValueError, match="init random"):
        lloyd.fit(x, 2, init="best")
    with pytest.raises(ValueError, match="a table"):
        lloyd.fit(x, 2, init=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="not both"):
        lloyd.fit(x, 2, balance=0.5, rate_weight=1.0)
    with pytest.raises(ValueError, match="sample of 1 points"):
        lloyd.fit(x, 2, sample=1)
    with pytest.raises(ValueError, match="backend native or faiss"):
        lloyd.fit(x, 2, backend="gpu")
    with pytest.raises(ValueError, match="cell_sums: expected x"):
        cell_sums(x, x)
