import itertools

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.factorized import Factorized


def data(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def mixed():
    return build(
        "factorized(of=[scalar(bits=1), kmeans(dim=2, entries=5), kmeans(dim=1, entries=3)])"
    ).fit(data(300, 4))


def test_one_index_counts_all_combinations_once():
    book = mixed()
    assert book.entries == 30 and book.code_bits == 5 and book.codes_shape == ()
    codes = torch.arange(30)
    digits = book.split(codes)
    assert torch.equal(book.join(digits), codes)
    assert [tuple(d) for d in digits.tolist()] == [
        (a, b, c) for c, b, a in itertools.product(range(3), range(5), range(2))
    ]
    assert len(book.decode(codes).unique(dim=0)) == 30


def test_nearest_of_all_combinations():
    book = mixed()
    x = data(200, 4, seed=1)
    weight = torch.rand(200, 4, generator=torch.Generator().manual_seed(2))
    table = book.decode(torch.arange(30))
    for own in (None, weight):
        square = (x[:, None] - table).square()
        square = (square if own is None else square * own[:, None]).sum(-1)
        got = square.gather(1, book.encode(x, own)[:, None])[:, 0]
        torch.testing.assert_close(got, square.min(1).values)


def test_factors_are_the_parts_of_a_product():
    x = data(400, 6)
    one = build("factorized(of=kmeans(dim=2, entries=7), factors=3)").fit(x)
    many = build("product(groups=3, of=kmeans(dim=2, entries=7))").fit(x)
    assert torch.equal(one.split(one.encode(x)), many.encode(x).long())
    assert torch.equal(one(x), many(x))
    assert one.rate == 9 / 6 and many.rate == 9 / 6
    five = Factorized(of="kmeans(dim=2, entries=5)", factors=3)
    assert five.code_bits == 7  # not 3 * 3


def test_spec_with_a_list_parses_back():
    book = mixed()
    assert str(build(str(book.spec)).spec) == str(book.spec)
    assert "[scalar(bits=1)" in str(book.spec)
    assert str(Factorized().spec) == "factorized(of=kmeans(dim=4, entries=256), factors=2)"


def test_bad_arguments():
    with pytest.raises(ValueError, match="use product"):
        build("factorized(of=trellis(bits=2))")
    with pytest.raises(ValueError, match="fit one index"):
        build("factorized(of=kmeans(dim=2, entries=256), factors=5)")
    with pytest.raises(ValueError, match="lists 1 codebooks"):
        build("factorized(of=[scalar(bits=1)], factors=2)")
    with pytest.raises(ValueError, match="at least one"):
        Factorized(of=[])
    with pytest.raises(TypeError, match="nothing to fit"):
        build("factorized(of=scalar(bits=1), factors=2)").fit(data(10, 2))
