import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vq.quantizers import make, soft_indices
from vq.quantizers.soft_indices import index_backprop, soft_entropies


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[(1 << 20, 4096), (40, 8)], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    """Both with everything in one tile and with tiles that do not divide the sizes."""
    monkeypatch.setattr(soft_indices, "_SCORES", request.param[0])
    monkeypatch.setattr(soft_indices, "_ENTRIES", request.param[1])


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return out


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_index_backprop_is_the_dense_formula(tiles, temperature):
    z = data(23, 5).double().requires_grad_()
    table = data(21, 5, seed=1).double().requires_grad_()
    codes = torch.randint(21, (23,), generator=torch.Generator().manual_seed(2))
    target = data(23, 5, seed=3).double()
    values = index_backprop(z, table, codes, temperature)
    assert torch.equal(values, table[codes])
    (values - target).square().sum().backward()
    found = [z.grad.clone(), table.grad.clone()]
    z.grad = table.grad = None
    share = torch.softmax(z @ table.t() / temperature, 1)
    onehot = torch.nn.functional.one_hot(codes, 21).double()
    dense = (onehot + share - share.detach()) @ table
    (dense - target).square().sum().backward()
    torch.testing.assert_close(found, [z.grad, table.grad])


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_entropies_are_the_dense_formula(tiles, temperature):
    z = data(23, 5).double().requires_grad_()
    table = data(21, 5, seed=1).double().requires_grad_()
    valid = torch.arange(23) % 3 > 0
    each, mean = soft_entropies(z, table, valid, temperature)
    (0.7 * each - 0.4 * mean).backward()
    found = [each.detach(), mean.detach(), z.grad.clone(), table.grad.clone()]
    z.grad = table.grad = None
    share = torch.softmax(z[valid] @ table.t() / temperature, 1)
    dense = -(share * share.log()).sum(1).mean()
    average = share.mean(0)
    of_mean = -(average * average.log()).sum()
    (0.7 * dense - 0.4 * of_mean).backward()
    expected = [dense.detach(), of_mean.detach(), z.grad, table.grad]
    torch.testing.assert_close(found, expected)


def test_cold_entropies_stay_finite():
    z, table = (30 * data(50, 4)).requires_grad_(), data(40, 4, seed=1).requires_grad_()
    each, mean = soft_entropies(z, table, torch.ones(50, dtype=torch.bool), 0.01)
    (each - mean).backward()
    for tensor in (each, mean, z.grad, table.grad):
        assert bool(torch.isfinite(tensor).all())


def test_no_array_of_vectors_times_entries():
    made = make("ibq", codebook="kmeans(dim=4, entries=8192)", entropy=0.1)
    x = data(1024, 4).requires_grad_()
    with Largest() as seen:
        made(x).loss.backward()
    assert seen.numel <= 1 << 20 < 1024 * 8192


def test_codes_are_the_largest_products():
    made = make("ibq", codebook="kmeans(dim=6, entries=64, iterations=5)").eval()
    x = data(200, 6)
    assert torch.equal(made.encode(x), (x @ made.table.t()).argmax(1))
    made.start(data(2000, 6, seed=1))
    assert torch.equal(made.encode(x), (x @ made.table.t()).argmax(1))
    assert float(made(data(2000, 6, seed=2)).stats["utilization"]) == 1
    torch.testing.assert_close(
        made.table.norm(dim=1).std().detach(), torch.zeros(()), atol=1e-5, rtol=0
    )


def test_every_entry_learns():
    made = make("ibq", codebook="kmeans(dim=6, entries=64)", entropy=0.05, entropy_temperature=1.0)
    x = data(20, 6).requires_grad_()
    found = made(x)
    found.values.square().sum().backward()
    assert bool((made.table.grad.norm(dim=1) > 0).all()) and len(found.codes.unique()) < 64
    assert set(found.losses) == {"quantization", "commitment", "codebook", "entropy"}
    q = made.table[found.codes].detach()
    for name in ("quantization", "commitment", "codebook"):
        torch.testing.assert_close(found.losses[name], (q - x).square().mean())
    assert (
        found.weights["entropy"] == 0.05 and "entropy" not in make("ibq").eval()(data(2, 8)).losses
    )


def test_it_learns():
    made = make("ibq", codebook="kmeans(dim=4, entries=64, iterations=5)")
    optimiser = torch.optim.Adam(made.parameters(), lr=0.02)
    errors = []
    for turn in range(150):
        x = data(256, 4, seed=turn)
        found = made(x)
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
        errors.append(float((found.values - x).detach().square().mean()))
    assert sum(errors[-10:]) < 0.7 * sum(errors[:10])


def test_long_vectors_use_the_table_too():
    made = make("ibq", codebook="kmeans(dim=256, entries=64, iterations=5)").eval()
    x = data(2000, 256) + 0.5
    made.start(x)
    assert float(made(data(2000, 256, seed=1) + 0.5).stats["utilization"]) > 0.9


def test_wrong_arguments_are_refused():
    for wrong, text in (
        ({"codebook": "simvq(dim=4, entries=8)"}, "kmeans"),
        ({"entropy": -1.0}, "weights"),
        ({"temperature": 0.0}, "temperatures"),
    ):
        with pytest.raises(ValueError, match=text):
            make("ibq", **wrong)
    with pytest.raises(ValueError, match="at least 1024"):
        make("ibq").start(data(10, 8))
