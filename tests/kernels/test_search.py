import pytest
import torch

from vq.kernels import dispatch
from vq.kernels.search import nearest, search
from vq.kernels.search_reference import find_in_tiles, table_shift

SHAPES = [
    (1, 1, 1),
    (7, 3, 33),
    (513, 8, 256),
    (100, 2, 16),
    (65, 40, 17),
    (0, 4, 9),
    (130, 5, 1500),
    (70, 8, 2111),
    (40, 32, 90),
    (11, 70, 65),
    (33, 70, 2100),
]
KERNELS = ["portable", "avx2", "avx512", "reference"]


def points(n, dim, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim, generator=generator),
        torch.randn(entries, dim, generator=generator),
        torch.rand(n, dim, generator=generator),
    )


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    native = dispatch.native()
    if request.param == "reference":
        monkeypatch.setenv("VQ_BACKEND", "reference")
        yield request.param
        return
    if native is None:
        pytest.skip("no compiled kernels")
    before = native.isa()
    try:
        native.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.set_isa(before)


def costs(x, table, weight=None, penalty=None):
    """(n, entries) float64 by the definition."""
    cost = (x[:, None].double() - table.double()).square()
    cost = (cost if weight is None else cost * weight.expand(x.shape)[:, None]).sum(-1)
    return cost if penalty is None else cost + penalty.double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", ["none", "own", "shared", "scalar"])
@pytest.mark.parametrize("penalised", [False, True])
def test_every_kernel_finds_the_minimum(kernel, shape, weighted, penalised):
    x, table, weight = points(*shape)
    weight = {"none": None, "own": weight, "shared": torch.rand(shape[1]), "scalar": weight[:, :1]}[
        weighted
    ]
    penalty = torch.rand(shape[2]) if penalised else None
    cost = costs(x, table, weight, penalty)
    codes = nearest(x, table, weight, penalty)
    assert codes.dtype == torch.int32 and codes.shape == (shape[0],)
    best = cost.min(1).values if len(x) else cost.new_zeros(0)
    chosen = cost.gather(1, codes[:, None].long())[:, 0]
    assert torch.allclose(chosen, best, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[2] > 1], ids=str)
@pytest.mark.parametrize("top", [1, 2, 7, 32])
@pytest.mark.parametrize("weighted", [False, True])
def test_neighbours_and_margins(kernel, shape, top, weighted):
    x, table, weight = points(*shape, seed=1)
    weight = weight if weighted else None
    top = min(top, shape[2])
    cost = costs(x, table, weight)
    found = search(x, table, weight, top=top, margin=True)
    order = cost.sort(dim=1, stable=True)
    assert found.codes.shape == (shape[0], top)
    got = cost.gather(1, found.codes.long())
    assert torch.allclose(got, order.values[:, :top], rtol=1e-5, atol=4e-6)
    assert all(len(row.unique()) == top for row in found.codes)
    margins = order.values[:, 1] - order.values[:, 0]
    assert torch.allclose(found.margins.double(), margins, rtol=1e-3, atol=2e-5)
    if top == 1:
        assert torch.equal(found.codes, search(x, table, weight).codes)


def test_ties_go_to_the_lowest_index(kernel):
    for dim, entries in ((3, 50), (3, 3000), (100, 3000)):
        x, table = torch.zeros(5, dim), torch.ones(entries, dim)
        assert nearest(x, table).tolist() == [0] * 5
        table[[20, 37, entries - 1]] = 0
        assert nearest(x, table).tolist() == [20] * 5
        assert search(x, table, top=4).codes.tolist() == [[20, 37, entries - 1, 0]] * 5
        found = search(x, table, margin=True)
        assert found.codes[:, 0].tolist() == [20] * 5 and found.margins.tolist() == [0.0] * 5


def test_ties_of_a_grid(kernel):
    """Every point half-way between two codewords of a grid takes the first."""
    grid = torch.arange(64.0)[:, None] - 3.5
    assert nearest(grid[:-1] + 0.5, grid).tolist() == list(range(63))
    far = grid + 4096  # exact there too: the shift has 8 bits
    assert nearest(far[:-1] + 0.5, far).tolist() == list(range(63))


def test_far_from_zero_nothing_is_lost(kernel):
    x, table, weight = points(300, 4, 1100)
    codes = nearest(x, table, weight)
    offset = torch.tensor([4096.0, -8192.0, 0.0, 1024.0])
    exact = (table * 1024).round() / 1024
    near = nearest((x * 1024).round() / 1024 + offset, exact + offset, weight)
    assert float((near == codes).float().mean()) > 0.98
    moved = costs((x * 1024).round() / 1024, exact, weight)
    chosen = moved.gather(1, near[:, None].long())[:, 0]
    assert torch.allclose(chosen, moved.min(1).values, rtol=1e-5, atol=2e-6)


def test_native_shift_is_the_references():
    native = dispatch.native()
    if native is None:
        pytest.skip("no compiled kernels")
    for dim in (1, 3, 8, 40):
        offset = torch.linspace(-300, 300, dim) if dim > 1 else torch.tensor([77.7])
        table = points(101, dim, 101)[0] + offset
        shift = torch.empty(dim)
        native.nearest_shift(table.data_ptr(), len(table), dim, shift.data_ptr())
        assert torch.equal(shift, table_shift(table)) and bool(shift.any())


def test_native_agrees_with_the_tiles():
    x, table, weight = points(3000, 6, 5000)
    for args in ((None, None), (weight, None), (None, torch.rand(5000))):
        tiles = find_in_tiles(x, table, *args, 3, True)
        found = search(x, table, *args, top=3, margin=True)
        assert float((found.codes == tiles[0]).float().mean()) > 0.999
        assert torch.allclose(found.margins, tiles[1], atol=1e-4)


def test_threads_and_batches_do_not_matter(kernel):
    x, table, weight = points(2500, 4, 1100)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(search(x, table, weight, top=2, margin=True))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert torch.equal(found[0].codes, other.codes)
        assert torch.equal(found[0].margins, other.margins)
    alone = torch.cat([nearest(x[i : i + 1], table) for i in range(50)])
    assert torch.equal(nearest(x, table)[:50], alone)


def test_a_table_of_one_has_no_second():
    found = search(torch.randn(3, 2), torch.zeros(1, 2), margin=True)
    assert found.codes.tolist() == [[0]] * 3 and torch.isinf(found.margins).all()


def test_op_is_well_formed():
    x, table, weight = points(9, 4, 12)
    for args in ((x, table, None, None, 1, False), (x, table, weight, torch.rand(12), 3, True)):
        torch.library.opcheck(torch.ops.vq.nearest.default, args)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="expected x"):
        nearest(torch.zeros(3, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="entries > 0"):
        nearest(torch.zeros(3, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="expected weight"):
        nearest(torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="expected penalty"):
        nearest(torch.zeros(3, 2), torch.zeros(4, 2), penalty=torch.zeros(3))
    with pytest.raises(ValueError, match="top must be from 1 to 4"):
        search(torch.zeros(3, 2), torch.zeros(4, 2), top=5)
