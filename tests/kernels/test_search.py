import pytest
import torch

from vq.kernels import dispatch
from vq.kernels.search import _reference, nearest

SHAPES = [(1, 1, 1), (7, 3, 33), (513, 8, 256), (100, 2, 16), (65, 40, 17), (0, 4, 9)]


def points(n, dim, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim, generator=generator),
        torch.randn(entries, dim, generator=generator),
        torch.rand(n, dim, generator=generator),
    )


@pytest.fixture(params=["portable", "avx2", "avx512"])
def instructions(request):
    native = dispatch.native()
    if native is None:
        pytest.skip("no compiled kernels")
    before = native.isa()
    try:
        native.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.set_isa(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_instruction_set_finds_the_minimum(instructions, shape, weighted):
    x, table, weight = points(*shape)
    cost = (x[:, None].double() - table.double()).square()
    cost = (cost * weight[:, None] if weighted else cost).sum(-1)
    codes = nearest(x, table, weight if weighted else None)
    assert codes.dtype == torch.int32
    best = cost.min(1).values if len(x) else cost.new_zeros(0)
    chosen = cost.gather(1, codes[:, None].long())[:, 0]
    assert torch.allclose(chosen, best, rtol=1e-5, atol=1e-6)


def test_ties_go_to_the_lowest_index(instructions):
    x = torch.zeros(5, 3)
    table = torch.ones(50, 3)
    assert nearest(x, table).tolist() == [0] * 5
    table[[20, 37]] = 0
    assert nearest(x, table).tolist() == [20] * 5


def test_reference_agrees_and_is_chunked():
    x, table, _ = points(5000, 6, 3000)
    args = (x, table.t().contiguous(), 0.5 * table.square().sum(1))
    cost = torch.cdist(x, table).gather(1, _reference(*args)[:, None].long())
    assert torch.allclose(cost[:, 0], torch.cdist(x, table).min(1).values, atol=1e-4)


def test_threads_do_not_matter():
    x, table, _ = points(5000, 4, 100)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(nearest(x, table))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_op_is_well_formed():
    x, table, _ = points(9, 4, 12)
    args = (x, table.t().contiguous(), 0.5 * table.square().sum(1))
    torch.library.opcheck(torch.ops.vq.nearest.default, args)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="expected x"):
        nearest(torch.zeros(3, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="entries > 0"):
        nearest(torch.zeros(3, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="expected weight"):
        nearest(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3, 1))
