"""The search kernels for GPUs, in Triton's interpreter, against the definition and the reference."""

import pytest
import torch

from vq.kernels.search import nearest, search
from vq.kernels.search_reference import find_in_tiles

# counts and entries that fill no block, tables of one tile and of several, both kernels (dim 16 is the border)
SHAPES = [(1, 1, 1), (7, 3, 33), (70, 8, 130), (5, 16, 100), (33, 17, 70), (11, 40, 65)]


@pytest.fixture(params=[1, 1 << 20], ids=["whole table", "split table"])
def programs(request, interpreted):
    """One program goes through all tiles of the table, or each takes one tile."""
    code = "from vq.kernels.triton import search; search._PROGRAMS = {}"
    interpreted(exec, code.format(request.param))
    yield request.param
    interpreted(exec, code.format(1024))


def points(n, dim, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim, generator=generator),
        torch.randn(entries, dim, generator=generator),
        torch.rand(n, dim, generator=generator),
    )


def costs(x, table, weight=None, penalty=None):
    """(n, entries) float64 by the definition."""
    cost = (x[:, None].double() - table.double()).square()
    cost = (cost if weight is None else cost * weight.expand(x.shape)[:, None]).sum(-1)
    return cost if penalty is None else cost + penalty.double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", ["none", "own", "shared", "scalar"])
def test_the_minimum_is_found(interpreted, shape, weighted):
    x, table, weight = points(*shape)
    weight = {"none": None, "own": weight, "shared": weight[:1], "scalar": weight[:, :1]}[weighted]
    penalty = torch.rand(shape[2], generator=torch.Generator().manual_seed(1))
    for extra in (None, penalty):
        cost = costs(x, table, weight, extra)
        codes = interpreted(nearest, x, table, weight, extra)
        assert codes.dtype == torch.int32 and codes.shape == (shape[0],)
        chosen = cost.gather(1, codes[:, None].long())[:, 0]
        assert torch.allclose(chosen, cost.min(1).values, rtol=1e-5, atol=2e-6)
        same = codes == nearest(x, table, weight, extra)
        assert float(same.float().mean()) >= 0.999


@pytest.mark.parametrize("shape", [(7, 3, 33), (20, 8, 200), (13, 20, 70), (6, 2, 2)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_two_neighbours_and_margins(interpreted, programs, shape, weighted):
    x, table, weight = points(*shape, seed=1)
    weight = weight if weighted else None
    order = costs(x, table, weight).sort(dim=1, stable=True)
    found = interpreted(search, x, table, weight, top=2, margin=True)
    assert torch.equal(found.codes.long(), order.indices[:, :2])
    margins = order.values[:, 1] - order.values[:, 0]
    assert torch.allclose(found.margins.double(), margins, rtol=1e-3, atol=2e-5)
    one = interpreted(search, x, table, weight, margin=True)
    assert torch.equal(one.codes, found.codes[:, :1]) and torch.equal(one.margins, found.margins)


@pytest.mark.parametrize("shape", [(30, 2, 40), (30, 4, 200), (20, 24, 90)], ids=str)
@pytest.mark.parametrize("weighted", ["none", "own", "shared"])
def test_on_integers_codes_are_exactly_the_references(interpreted, programs, shape, weighted):
    """Sums are exact there and equal costs abound, so nothing but the rule of ties decides."""
    n, dim, entries = shape
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(-2, 3, (n, dim), generator=generator).float()
    table = torch.randint(-2, 3, (entries, dim), generator=generator).float()
    table[entries // 2 :] = table[: entries - entries // 2].clone()  # every codeword twice
    weight = torch.randint(0, 4, (n, dim), generator=generator).float()
    weight = {"none": None, "own": weight, "shared": weight[:1]}[weighted]
    order = costs(x, table, weight).sort(dim=1, stable=True)
    found = interpreted(search, x, table, weight, top=2, margin=True)
    assert torch.equal(found.codes.long(), order.indices[:, :2])
    assert torch.equal(found.margins.double(), order.values[:, 1] - order.values[:, 0])
    expected = find_in_tiles(x, table, weight, None, 1, True)
    assert torch.equal(found.codes[:, :1], expected[0])
    assert torch.equal(found.margins, expected[1])


def test_ties_go_to_the_lowest_index(interpreted, programs):
    x, table = torch.zeros(5, 3), torch.ones(300, 3)
    assert interpreted(nearest, x, table).tolist() == [0] * 5
    table[[20, 84, 148, 299]] = 0  # the same column of three tiles, and the last tile
    assert interpreted(nearest, x, table).tolist() == [20] * 5
    found = interpreted(search, x, table, top=2, margin=True)
    assert found.codes.tolist() == [[20, 84]] * 5 and found.margins.tolist() == [0.0] * 5


def test_far_from_zero_nothing_is_lost(interpreted):
    grid = torch.arange(64.0)[:, None] + 4096 - 3.5
    assert interpreted(nearest, grid[:-1] + 0.5, grid).tolist() == list(range(63))


def test_empty_input_table_of_one_and_many_neighbours(interpreted):
    x, table, _ = points(4, 5, 40)
    empty = interpreted(search, x[:0], table, top=2, margin=True)
    assert empty.codes.shape == (0, 2) and empty.margins.shape == (0,)
    lonely = interpreted(search, x, table[:1], margin=True)
    assert lonely.codes.tolist() == [[0]] * 4 and bool(torch.isinf(lonely.margins).all())
    many = interpreted(search, x, table, top=7)
    assert torch.equal(many.codes, search(x, table, top=7).codes)


def test_overflow_gives_an_index_of_the_table(interpreted):
    table = torch.tensor([[3e38], [-3e38], [1.0]])
    codes = interpreted(nearest, torch.tensor([[3e38], [-1e38], [float("nan")]]), table)
    assert int(codes.min()) >= 0 and int(codes.max()) < 3


@pytest.mark.slow
def test_agrees_with_the_reference_on_many(interpreted):
    x, table, weight = points(1000, 8, 700)
    for own in (None, weight):
        codes = interpreted(nearest, x, table, own)
        assert float((codes == nearest(x, table, own)).float().mean()) > 0.999
