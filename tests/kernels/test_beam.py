import itertools

import pytest
import torch

from vq.kernels.beam import _reference, beam_search
from vq.kernels.search import nearest

SHAPES = [
    (1, 1, 1, 2),
    (9, 3, 3, 33),
    (6, 8, 2, 256),
    (40, 2, 4, 16),
    (11, 40, 2, 17),
    (0, 4, 2, 9),
]


def problem(n, dim, stages, entries, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim, generator=generator),
        torch.randn(stages, entries, dim, generator=generator),
        torch.rand(n, dim, generator=generator),
    )


def cost(x, tables, codes, weight=None):
    value = sum(table[codes[:, stage].long()].double() for stage, table in enumerate(tables))
    square = (x.double() - value).square()
    return (square if weight is None else weight * square).sum(1)


def plain_beam(x, tables, beam, weight):
    """The definition, one point at a time in float64: all extensions, sorted by their own error."""
    found = []
    for i, point in enumerate(x.double()):
        metric = torch.ones_like(point) if weight is None else weight[i].double()
        alive = [((), point)]
        for table in tables.double():
            grown = [
                (float((metric * (left - row).square()).sum()), (*path, k), left - row)
                for path, left in alive
                for k, row in enumerate(table)
            ]
            alive = [(path, left) for _, path, left in sorted(grown, key=lambda g: g[0])[:beam]]
        found.append(alive[0][0])
    return torch.tensor(found, dtype=torch.int32).reshape(len(x), len(tables))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("beam", [1, 4, 20])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_instruction_set_keeps_the_definition(isa, shape, beam, weighted):
    x, tables, weight = problem(*shape)
    x, weight = x[:25], (weight[:25] if weighted else None)
    codes = beam_search(x, tables, weight, beam)
    assert codes.dtype == torch.int32 and codes.shape == (len(x), shape[2])
    expected = plain_beam(x, tables, beam, weight)
    assert float((codes != expected).any(1).float().mean() if len(x) else 0) <= 0.04
    torch.testing.assert_close(
        cost(x, tables, codes, weight).sum(),
        cost(x, tables, expected, weight).sum(),
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_a_beam_as_wide_as_the_table_is_exhaustive(isa, weighted):
    x, tables, weight = problem(60, 5, 2, 12)
    weight = weight if weighted else None
    sums = (tables[0][:, None] + tables[1]).reshape(-1, 5)
    square = (x[:, None] - sums).square()
    best = (square if weight is None else weight[:, None] * square).sum(-1).min(1).values
    got = cost(x, tables, beam_search(x, tables, weight, 12), weight)
    torch.testing.assert_close(got.float(), best, rtol=1e-4, atol=1e-5)


def test_ties_go_to_the_earlier_parent_and_the_lower_index(isa):
    x = torch.ones(3, 4)
    tables = torch.zeros(3, 40, 4)
    assert beam_search(x, tables, None, 5).tolist() == [[0, 0, 0]] * 3
    tables[1, [7, 21]] = 1.0
    assert beam_search(x, tables, None, 5).tolist() == [[0, 7, 0]] * 3


def test_huge_numbers_give_valid_codes(isa):
    x, tables, _ = problem(5, 3, 3, 7)
    x[1::2] = 3e38
    codes = beam_search(x, tables, None, 4)
    assert int(codes.min()) >= 0 and int(codes.max()) < 7
    assert torch.equal(codes[1:2], beam_search(x[1:2], tables, None, 4))  # nothing left of point 0


def test_a_beam_of_one_is_greedy():
    x, tables, weight = problem(500, 8, 3, 64)
    for own in (None, weight):
        left, codes = x, []
        for table in tables:
            codes.append(nearest(left, table, own))
            left = left - table[codes[-1].long()]
        same = (beam_search(x, tables, own, 1) == torch.stack(codes, 1)).all(1)
        assert float(same.float().mean()) > 0.99  # equal but for float ties


def test_wider_beams_find_smaller_errors():
    x, tables, _ = problem(400, 8, 4, 32)
    errors = [float(cost(x, tables, beam_search(x, tables, None, b)).mean()) for b in (1, 2, 8, 32)]
    assert all(wide < narrow for narrow, wide in itertools.pairwise(errors))


def test_reference_agrees_and_is_chunked():
    x, tables, weight = problem(700, 6, 3, 500)
    for own in (None, weight):
        one, two = beam_search(x, tables, own, 8), _reference(x, tables, own, 8)
        assert float((one != two).any(1).float().mean()) < 0.01
        torch.testing.assert_close(cost(x, tables, one), cost(x, tables, two), rtol=0.05, atol=0.05)


def test_threads_and_batches_do_not_matter():
    x, tables, weight = problem(900, 4, 3, 50)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(beam_search(x, tables, weight, 6))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    alone = torch.cat([beam_search(x[i : i + 1], tables, weight[i : i + 1], 6) for i in range(50)])
    assert torch.equal(alone, found[0][:50])


def test_op_is_well_formed():
    x, tables, weight = problem(9, 4, 2, 12)
    torch.library.opcheck(torch.ops.vq.beam_search.default, (x, tables, None, 3))
    torch.library.opcheck(torch.ops.vq.beam_search.default, (x, tables, weight, 3))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="expected x"):
        beam_search(torch.zeros(3, 2), torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="expected weight"):
        beam_search(torch.zeros(3, 2), torch.zeros(2, 4, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="from 1 to 256"):
        beam_search(torch.zeros(3, 2), torch.zeros(2, 4, 2), None, 0)
