import pytest
import torch

from vq.codebooks import build
from vq.codebooks.frozen import Frozen
from vq.codebooks.reparametrised import match_moments, solve_map
from vq.codebooks.simvq import SimVQ


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def frozen():
    made = Frozen("kmeans(dim=5, entries=32, iterations=3)", dim=3)
    made.features.fit(data(400, 5))
    return made


@pytest.fixture(params=["simvq", "frozen"])
def book(request):
    return SimVQ(dim=3, entries=32, seed=4) if request.param == "simvq" else frozen()


def test_the_table_is_the_mapped_basis(book):
    expected = book.basis_rows() @ book.map + book.offset
    torch.testing.assert_close(book.table, expected.detach())
    x = data(200, 3)
    best = torch.cdist(x, book.table).min(1).values
    torch.testing.assert_close((x - book(x)).norm(dim=1), best, rtol=1e-4, atol=1e-5)


def test_gathered_rows_have_the_bits_of_decode_and_the_gradient_of_autograd(book):
    codes = torch.tensor([[3, 3, 7], [0, 31, 7]], dtype=torch.int32)
    target = data(6, 3).reshape(2, 3, 3)
    rows = book.gathered(codes)
    assert torch.equal(rows, book.decode(codes)) and rows.requires_grad
    (rows - target).square().sum().backward()
    found = [book.map.grad.clone(), book.offset.grad.clone()]
    book.zero_grad()
    plain = book.basis_rows()[codes.long()] @ book.map + book.offset
    (plain - target).square().sum().backward()
    torch.testing.assert_close(found, [book.map.grad, book.offset.grad], rtol=1e-5, atol=1e-5)
    trained = [name for name, p in book.named_parameters() if p.requires_grad]
    assert trained == ["map", "offset"]


def test_decode_follows_training_steps(book):
    optimiser = torch.optim.SGD([book.map, book.offset], lr=0.05)
    x = data(300, 3) + 2
    before = float((book(x) - x).square().mean())
    for _ in range(20):
        values = book.gathered(book.encode(x))
        optimiser.zero_grad()
        (values - x).square().sum(1).mean().backward()
        optimiser.step()
        assert torch.equal(book.gathered(book.encode(x)), book.decode(book.encode(x)))
    assert float((book(x) - x).square().mean()) < 0.7 * before


@pytest.mark.parametrize("weighted", [False, True])
def test_the_map_by_a_dense_solver(weighted):
    x, basis = data(200, 3), data(16, 4, seed=1)
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(16, (200,), generator=generator)
    weight = torch.rand(200, 3, generator=generator) if weighted else None
    matrix, offset = solve_map(x, codes, basis, weight, torch.zeros(4, 3), torch.zeros(3))
    design = torch.cat([basis, torch.ones(16, 1)], dim=1)[codes]
    for d in range(3):
        root = torch.ones(200, 1) if weight is None else weight[:, d : d + 1].sqrt()
        expected = torch.linalg.lstsq(root * design, root * x[:, d : d + 1]).solution[:, 0]
        torch.testing.assert_close(matrix[:, d], expected[:4], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(offset[d], expected[4], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("basis_dim", [2, 3, 5])
def test_matched_moments(basis_dim):
    x = data(5000, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0.5], [0, 0, 0.2]]) + 3
    basis = data(400, basis_dim, seed=1) * 0.1 - 1
    matrix, offset = match_moments(x, basis)
    rows = basis @ matrix + offset
    torch.testing.assert_close(rows.mean(0), x.mean(0), rtol=1e-3, atol=1e-3)
    if basis_dim >= 3:
        torch.testing.assert_close(
            rows.T.cov(correction=0), x.T.cov(correction=0), rtol=1e-2, atol=1e-2
        )


def test_fit_finds_the_data(book):
    x = data(3000, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0.5], [0, 0, 0.2]]) + 5
    held_out = data(1000, 3, seed=5) @ torch.tensor([[2.0, 1, 0], [0, 1, 0.5], [0, 0, 0.2]]) + 5
    basis = book.basis_rows().clone()
    book.fit(x)
    assert torch.equal(book.basis_rows(), basis)
    variance = held_out.var(0).sum()
    assert float((book(held_out) - held_out).square().sum(1).mean() / variance) < 0.2
    weight = torch.rand(3000, 3) + 0.01
    errors = []
    for own in (None, weight):
        book.fit(x, own)
        errors.append(float((weight * (x - book.decode(book.encode(x, weight))).square()).sum()))
    assert errors[1] < 1.01 * errors[0]


def test_seeds_and_saved_rows():
    assert torch.equal(SimVQ(4, 8, seed=1).basis, SimVQ(4, 8, seed=1).basis)
    assert not torch.equal(SimVQ(4, 8, seed=1).basis, SimVQ(4, 8, seed=2).basis)
    assert float(SimVQ(16, 4096).basis.std()) == pytest.approx(0.25, rel=0.02)
    other = SimVQ(4, 8, seed=2)
    other.load_state_dict(SimVQ(4, 8, seed=1).state_dict())
    assert torch.equal(other.table, SimVQ(4, 8, seed=1).table)


def test_features_come_first():
    with pytest.raises(ValueError, match="no features yet"):
        Frozen("kmeans(dim=5, entries=8)", dim=3).fit(data(100, 3))
    assert Frozen("kmeans(dim=3, entries=8)").fit(data(100, 3)).fitted
    with pytest.raises(ValueError, match="cannot be listed"):
        build("frozen(of=trellis(bits=2))")
    with pytest.raises(ValueError, match="expected vectors"):
        SimVQ(3, 8).fit(torch.zeros(0, 3))
