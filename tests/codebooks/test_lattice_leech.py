import pytest
import torch

from vq.codebooks import build
from vq.codebooks.leech_classes import ball_size, classes, shells_for
from vq.codebooks.leech_index import leech_index
from vq.kernels.lattice import nearest_leech

# theta series: Conway and Sloane, "Sphere Packings, Lattices and Groups", table 4.14
THETA = [1, 0, 196560, 16773120, 398034000, 4629381120, 34417656000, 187489935360, 814879774800]
THETA += [2975551488000, 9486551299680, 27052945920000, 70486236999360, 169931095326720]


def sigma11(n):
    return sum(d**11 for d in range(1, n + 1) if n % d == 0)


def tau(count):
    """Ramanujan's tau(1..count) from the product q (1 - q^n)^24."""
    series = [1] + [0] * (count - 1)
    for n in range(1, count):
        for _ in range(24):
            for i in range(count - 1, n - 1, -1):
                series[i] -= series[i - n]
    return series


def test_shells_have_the_sizes_of_the_theta_series():
    sizes = [0] * 14
    for c in classes(13):
        sizes[c.shell] += c.size
    assert sizes == THETA
    modular = [65520 * (sigma11(n) - t) // 691 for n, t in enumerate(tau(13), 1)]
    assert sizes[1:] == modular
    assert ball_size(13) == 280974212784721 and shells_for(48) == 13 and shells_for(24) == 2


@pytest.mark.parametrize("shells", [2, 6, 13])
def test_numbers_come_back(shells):
    index = leech_index(shells)
    generator = torch.Generator().manual_seed(shells)
    numbers = torch.randint(0, index.size, (3000,), generator=generator)
    edges = torch.cat([index.first, index.first[1:] - 1, torch.tensor([0, index.size - 1])])
    numbers = torch.cat([numbers, edges])
    points = index.unrank(numbers)
    assert torch.equal(index.rank(points), numbers)
    assert int(points.square().sum(1).max()) == 16 * shells
    assert torch.equal(nearest_leech(points.float()).long(), points)


def test_the_first_shells_are_numbered_without_gaps():
    index = leech_index(2)
    points = index.unrank(torch.arange(index.size))
    assert len(points.unique(dim=0)) == 1 + 196560
    assert torch.equal(points.square().sum(1).unique(), torch.tensor([0, 32]))


def test_points_found_are_numbered():
    book = build("leech(bits=2)")
    x = torch.randn(500, 24, generator=torch.Generator().manual_seed(3))
    codes = book.encode(x)
    assert codes.dtype == torch.int32 and codes.shape == (500, 3)
    points = book.points(x / book.step)
    assert torch.equal(book.decode(codes), points * book.step)
    assert float(points.square().sum(1).max()) <= 208
    near = nearest_leech(x / book.step)
    inside = near.square().sum(1) <= 208
    assert 0.4 < float(inside.float().mean()) < 0.8
    assert torch.equal(points[inside], near[inside])


def test_points_outside_of_the_ball_are_near_the_best():
    """A shell small enough to list: the nearest of all 196,561 points of two shells."""
    book = build("leech(bits=0.75)")
    assert book.shells == 2
    table = book.decode(torch.stack([torch.arange(196561) >> s & 63 for s in (0, 6, 12)], 1))
    x = torch.randn(400, 24, generator=torch.Generator().manual_seed(4))
    half = 0.5 * table.square().sum(1)
    best = torch.stack([(half - table @ v).min() for v in x])
    best = 2 * best + x.square().sum(1)
    found = (book(x) - x).square().sum(1)
    assert bool((found >= best - 1e-4).all())
    assert float(found.sum() / best.sum()) < 1.02


def test_refusals():
    book = build("leech(bits=2)")
    with pytest.raises(ValueError, match="weight is not supported"):
        book.encode(torch.zeros(1, 24), torch.ones(24))
    with pytest.raises(ValueError, match="fields of numbers"):
        book.decode(torch.full((1, 3), 65535))
    with pytest.raises(ValueError, match="expected codes of shape"):
        book.decode(torch.zeros(2, dtype=torch.int32))
