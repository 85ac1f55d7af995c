import pytest
import torch

from vq.codebooks import build
from vq.codebooks.lattice import nearest_point
from vq.codebooks.lattice_e8p import patterns, small_triples


@pytest.fixture(scope="module")
def book():
    return build("e8p()")


def test_227_and_29_patterns():
    table = patterns().double() + 0.5
    norms = table.square().sum(1)
    assert int((norms <= 10).sum()) == 227 and int((norms == 12).sum()) == 29
    assert len(table.unique(dim=0)) == 256
    outer = table[norms == 12]
    assert bool(((outer == 1.5).sum(1) == 5).all()) and bool(((outer == 0.5).sum(1) == 3).all())
    small = torch.tensor(small_triples())
    assert int((small.sum(1) % 2).sum()) == 28 and small[-1].tolist() == [0, 1, 3]


def test_all_codes_are_distinct_and_come_back(book):
    every = torch.arange(1 << 16)
    values = book.decode(every)
    assert len(values.unique(dim=0)) == 1 << 16
    assert torch.equal(book.encode(values).long(), every)
    assert book.rate == 2 and book.code_bits == 16
    assert torch.equal(book.unpack(book.pack(every)), every)
    assert book.pack(every).payload.numel() == 2 << 16


def test_points_lie_in_two_cosets_of_e8(book):
    points = book.decode(torch.arange(0, 1 << 16, 7)) / book.step
    move = torch.where(torch.arange(0, 1 << 16, 7) >> 15 == 1, 0.25, -0.25)[:, None]
    halves = points - move
    assert torch.allclose(halves.remainder(1), torch.full_like(halves, 0.5), atol=1e-5)
    assert torch.allclose(halves.sum(1).remainder(2).sub(1).abs(), torch.ones(1), atol=1e-4)
    assert torch.allclose(nearest_point("e8", halves), halves, atol=1e-5)


def test_layout_of_the_bits(book):
    values = book.decode(torch.tensor([0, 1 << 8, 1 << 15, 1 << 15 | 1 << 14])) / book.step
    assert values[0].tolist() == pytest.approx([0.25] * 8)
    assert values[1].tolist() == pytest.approx([-0.75, *[0.25] * 6, -0.75])
    assert values[2].tolist() == pytest.approx([0.75] * 8)
    assert values[3].tolist() == pytest.approx([*[0.75] * 6, -0.25, -0.25])


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_search_is_exact(book, scale):
    x = scale * torch.randn(150, 8, generator=torch.Generator().manual_seed(6))
    table = book.decode(torch.arange(1 << 16)).double()
    best = torch.stack([(table - v).square().sum(1).min() for v in x.double()])
    found = (book(x).double() - x).square().sum(1)
    assert torch.allclose(found, best, atol=1e-5)


def test_every_pattern_is_used(book):
    codes = book.encode(torch.randn(40_000, 8, generator=torch.Generator().manual_seed(8)))
    assert len((codes & 255).unique()) == 256
    assert 0.45 < float((codes >> 15).float().mean()) < 0.55
