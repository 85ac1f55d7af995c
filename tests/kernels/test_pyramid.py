import itertools

import pytest
import torch

from vq.kernels import dispatch
from vq.kernels.pyramid import _reference, pyramid_search

needs_native = pytest.mark.skipif(dispatch.native() is None, reason="needs the compiled kernels")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(9))


def cosine(x, points, weight=None):
    x, points = x.double(), points.double()
    weight = torch.ones_like(x) if weight is None else weight.double()
    dot = (weight * x * points).sum(-1)
    return dot.square() / (weight * points * points).sum(-1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dim", "pulses"), [(2, 5), (3, 4), (4, 7), (5, 6), (6, 3)])
def test_against_brute_force(dim, pulses, weighted):
    numbers = range(pulses + 1)
    every = [y for y in itertools.product(numbers, repeat=dim) if sum(y) == pulses]
    table = torch.tensor(every)
    x = normal(1500, dim)
    weight = uniform(1500, dim) + 0.05 if weighted else None
    spread = None if weight is None else weight[:, None].expand(-1, len(table), -1)
    scores = cosine(x.abs()[:, None].expand(-1, len(table), -1), table.expand(1500, -1, -1), spread)
    best = scores.max(1).values
    found = pyramid_search(x, pulses, weight)
    assert bool((found.abs().sum(1) == pulses).all())
    mine = cosine(x, found, weight)
    assert float((mine >= best * (1 - 1e-9)).double().mean()) >= (0.95 if weighted else 0.995)
    assert float((mine / best).min()) > (0.8 if weighted else 0.98)


@needs_native
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("dim", "pulses"), [(1, 3), (16, 13), (7, 30), (40, 5)])
def test_compiled_equals_reference(dim, pulses, weighted):
    x = normal(700, dim)
    x[3] = 0
    weight = uniform(700, dim) if weighted else None
    if weight is not None:
        weight[5] = 0
        weight[:, 0] = 0
    expected = _reference(x, weight, pulses)
    assert torch.equal(pyramid_search(x, pulses, weight), expected)


def test_signs_and_points_of_the_pyramid():
    y = torch.tensor([[3.0, -2.0, 0.0, 1.0], [0.0, 0.0, 0.0, -6.0]])
    assert torch.equal(pyramid_search(0.37 * y, 6).float(), y)
    assert pyramid_search(torch.zeros(1, 4), 6).tolist() == [[6, 0, 0, 0]]


@needs_native
def test_threads_do_not_change_the_result():
    x = normal(5000, 8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = pyramid_search(x, 7)
        torch.set_num_threads(3)
        assert torch.equal(pyramid_search(x, 7), one)
    finally:
        torch.set_num_threads(before)


def test_opcheck():
    torch.library.opcheck(torch.ops.vq.pyramid_search.default, (normal(5, 4), None, 3))


def test_bad_input():
    with pytest.raises(ValueError, match=r"expected x \(n, dim\)"):
        pyramid_search(normal(4), 3)
    with pytest.raises(ValueError, match="pulses"):
        pyramid_search(normal(4, 4), 0)
    with pytest.raises(ValueError, match="expected weight"):
        pyramid_search(normal(4, 4), 3, normal(4, 3))
