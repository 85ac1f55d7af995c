import pytest
import torch

from vq.codebooks import Spec, build
from vq.codebooks.kmeans import KMeans
from vq.codebooks.product import Product


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def fitted(shared=False):
    spec = f"product(groups=3, of=kmeans(dim=2, entries=8, iterations=4), shared={str(shared).lower()})"
    return build(spec).fit(data(600, 6) * torch.tensor([1.0, 1, 3, 3, 9, 9]))


def test_parts_are_what_separate_codebooks_would_be():
    x = data(600, 6) * torch.tensor([1.0, 1, 3, 3, 9, 9])
    book = fitted()
    for group in range(3):
        piece = x[:, 2 * group : 2 * group + 2].contiguous()
        alone = KMeans(2, 8, iterations=4).fit(piece)
        assert torch.equal(alone.encode(piece), book.encode(x)[:, group])
        assert torch.equal(alone(piece), book(x)[:, 2 * group : 2 * group + 2])


@pytest.mark.parametrize("weighted", [False, True])
def test_nearest_of_all_combinations(weighted):
    book = fitted()
    x = data(40, 6, seed=1)
    weight = torch.rand(40, 6, generator=torch.Generator().manual_seed(2)) if weighted else None
    grid = torch.cartesian_prod(*[torch.arange(8)] * 3)
    square = (x[:, None] - book.decode(grid)).square()
    square = square if weight is None else square * weight[:, None]
    got = (x - book.decode(book.encode(x, weight))).square()
    got = (got if weight is None else got * weight).sum(1)
    torch.testing.assert_close(got, square.sum(-1).min(1).values, rtol=1e-5, atol=1e-6)


def test_a_shared_table_is_fitted_on_all_groups():
    x = data(600, 6) * torch.tensor([1.0, 1, 3, 3, 9, 9])
    book = fitted(shared=True)
    alone = KMeans(2, 8, iterations=4).fit(x.reshape(-1, 2))
    assert torch.equal(book.part.table, alone.table)
    assert len(book.state_dict()) == 1
    assert torch.equal(book(x), alone(x.reshape(-1, 2)).reshape(-1, 6))


def test_parts_of_fixed_families():
    book = build("product(groups=4, of=scalar(bits=2))")
    assert book.rate == 2 and book.distortion == build("scalar(bits=2)").distortion
    x = data(30, 4)
    assert torch.equal(book(x), build("scalar(bits=2)")(x[..., None])[..., 0])
    with pytest.raises(TypeError, match="nothing to fit"):
        book.fit(x)


def test_parts_that_pack_in_their_own_way():
    book = build("product(groups=2, of=trellis(bits=2, memory=8, code=lut))")
    assert book.dim == 512 and book.rate == 2
    codes = book.encode(data(3, 512))
    packed = book.pack(codes)
    assert packed.payload.numel() * 8 == 3 * 512 * 2
    assert torch.equal(book.unpack(packed), codes)
    other = build("product(groups=2, of=trellis(bits=2, memory=10, code=lut))")
    with pytest.raises(ValueError, match="cannot be read by"):
        other.unpack(packed)


def test_deep_nesting():
    book = build(
        "product(groups=2, of=residual(stages=2, of=kmeans(dim=2, entries=4, iterations=3)))"
    )
    assert not book.fitted
    x = data(200, 4)
    book.fit(x)
    codes = book.encode(x)
    assert codes.shape == (200, 2, 2) and book.rate == 2
    again = build(Spec.parse(str(book.spec)))
    again.load_state_dict(book.state_dict())
    assert torch.equal(again(x), book(x))


def test_bad_arguments():
    with pytest.raises(ValueError, match="groups must be a whole number"):
        Product(groups=0)
    with pytest.raises(ValueError, match="shared must be"):
        build("product(groups=2, shared=3)")
    with pytest.raises(ValueError, match="unknown codebook family"):
        build("product(groups=2, of=kmens(dim=2))")
    with pytest.raises(ValueError, match="no table yet"):
        build("product(groups=2, of=kmeans(dim=3, entries=5))").encode(data(2, 6))
    with pytest.raises(ValueError, match="expected codes of shape"):
        fitted().decode(torch.zeros(4, 2, dtype=torch.long))
