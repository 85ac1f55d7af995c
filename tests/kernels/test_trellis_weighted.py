"""The weighted trellis search against exhaustive search, the reference, and the unweighted one."""

import itertools

import pytest
import torch

from vq.kernels import dispatch, trellis_reference
from vq.kernels.trellis import REACH, trellis_decode, trellis_encode, trellis_encode_weighted

# step_bits, memory, symbols: fewer groups than a register holds and more, one symbol and two
SHAPES = [
    (1, 6, 1), (2, 6, 1), (4, 6, 2), (5, 6, 2), (1, 8, 2), (3, 9, 2), (8, 9, 1), (6, 9, 1), (7, 11, 2),
    (2, 10, 1), (8, 12, 2), (4, 12, 2),
]  # fmt: skip


def problem(step_bits, memory, symbols, *, n=4, length=256, seed=0):
    generator = torch.Generator().manual_seed(seed + memory)
    x = torch.randn(n, length, generator=generator)
    weight = torch.rand(n, length, generator=generator) ** 4
    return x, weight, torch.randn(1 << memory, symbols, generator=generator)


def cost(x, weight, table, codes, step_bits, memory):
    values = trellis_decode(codes, table, step_bits, memory)
    return (weight.double() * (x.double() - values.double()).square()).sum(1)


@pytest.fixture
def instructions():
    native = dispatch.native()
    if native is None:
        pytest.skip("no compiled kernels")
    before = native.isa()
    yield native
    native.set_isa(before)


@pytest.mark.parametrize("step_bits, memory, symbols", SHAPES)
def test_every_instruction_set_gives_the_reference_codes(
    instructions, monkeypatch, step_bits, memory, symbols
):
    x, weight, table = problem(step_bits, memory, symbols)
    x[0] *= 9  # beyond the reach
    x[1], weight[1] = 0.3, 1.0  # ties
    weight[2] = 0.0
    weight[3, :200] = 0.0
    monkeypatch.setenv("VQ_BACKEND", "reference")
    expected = trellis_encode_weighted(x, weight, table, step_bits, memory)
    monkeypatch.delenv("VQ_BACKEND")
    for name in ("portable", "avx2", "avx512"):
        try:
            instructions.set_isa(name)
        except ValueError:
            continue
        found = trellis_encode_weighted(x, weight, table, step_bits, memory)
        assert torch.equal(found, expected), name


@pytest.mark.parametrize(
    "step_bits, memory, symbols, steps", [(1, 3, 1, 10), (2, 5, 1, 6), (2, 4, 2, 5)]
)
def test_near_the_best_of_all_paths(step_bits, memory, symbols, steps):
    x, weight, table = problem(step_bits, memory, symbols, n=60, length=steps * symbols)
    every = torch.tensor(list(itertools.product(range(1 << step_bits), repeat=steps)))
    values = trellis_decode(every.byte(), table, step_bits, memory).double()
    errors = (weight[:, None].double() * (x[:, None].double() - values).square()).sum(-1)
    codes = trellis_encode_weighted(x, weight, table, step_bits, memory)
    found = cost(x, weight, table, codes, step_bits, memory)
    assert bool((found >= errors.amin(1) - 1e-9).all())
    exact = found <= errors.amin(1) * (1 + 1e-5) + 1e-9
    assert float(exact.double().mean()) >= 0.5  # the seam of the first pass may be another
    head = (memory - step_bits + step_bits - 1) // step_bits  # steps that fix the group at the seam
    rest = (memory - step_bits) % step_bits
    for row in range(len(x)):
        same = every[:, : head - bool(rest)].eq(codes[row, : head - bool(rest)]).all(1)
        if rest:
            same &= (every[:, head - 1] ^ codes[row, head - 1]) >> (step_bits - rest) == 0
        assert float(found[row]) <= float(errors[row, same].min()) * (1 + 1e-5) + 1e-9


def test_equal_weights_are_no_weights():
    x, _, table = problem(2, 8, 1, n=40)
    plain = trellis_encode(x, table, 2, 8)
    ones = torch.ones_like(x)
    errors = [
        float(cost(x, ones, table, codes, 2, 8).mean())
        for codes in (plain, trellis_encode_weighted(x, ones * 7.0, table, 2, 8))
    ]
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)  # 16-bit costs cost nothing


@pytest.mark.parametrize("step_bits, memory, symbols", [(2, 8, 1), (4, 10, 2), (3, 9, 2)])
def test_weights_lower_the_weighted_error(step_bits, memory, symbols):
    x, weight, table = problem(step_bits, memory, symbols, n=40)
    plain = trellis_encode(x, table, step_bits, memory)
    aware = trellis_encode_weighted(x, weight, table, step_bits, memory)
    blind = cost(x, weight, table, plain, step_bits, memory)
    seeing = cost(x, weight, table, aware, step_bits, memory)
    assert float(seeing.sum()) < 0.8 * float(blind.sum())
    assert bool((seeing <= blind * 1.05).all())


@pytest.mark.parametrize("factor", [1e-60, 1e-6, 1e60])
def test_only_ratios_of_weights_count(factor):
    x, weight, table = problem(2, 7, 1)
    weight = weight.double()
    expected = trellis_encode_weighted(x, weight, table, 2, 7)
    codes = trellis_encode_weighted(x, weight * factor, table, 2, 7)
    got, want = (cost(x, weight, table, c, 2, 7) for c in (codes, expected))
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


def test_values_without_weight_are_free():
    x, _, table = problem(2, 8, 1, n=10)
    weight = torch.zeros_like(x)
    weight[:, ::2] = 1.0
    codes = trellis_encode_weighted(x, weight, table, 2, 8)
    wild = x.clone()
    wild[:, 1::2] = 1e30
    assert torch.equal(trellis_encode_weighted(wild, weight, table, 2, 8), codes)
    found = cost(x, weight, table, codes, 2, 8).sum() / weight.sum()
    plain = cost(x, weight, table, trellis_encode(x, table, 2, 8), 2, 8).sum() / weight.sum()
    assert float(found) < 0.4 * float(plain)


def test_far_values_count_as_the_reach():
    x, weight, table = problem(2, 8, 1)
    x[0, 3], x[1, 200] = 1e30, -1e30
    near = x.clamp(-REACH, REACH)
    expected = trellis_encode_weighted(near, weight, table, 2, 8)
    assert torch.equal(trellis_encode_weighted(x, weight, table, 2, 8), expected)


def test_threads_and_batches_do_not_matter():
    x, weight, table = problem(4, 9, 2, n=70)
    one = trellis_encode_weighted(x, weight, table, 4, 9)
    torch.set_num_threads(3)
    assert torch.equal(trellis_encode_weighted(x, weight, table, 4, 9), one)
    alone = [trellis_encode_weighted(x[i : i + 1], weight[i : i + 1], table, 4, 9) for i in (0, 69)]
    assert torch.equal(torch.cat(alone), one[[0, 69]])


def test_empty_strided_and_compiled():
    x, weight, table = problem(4, 8, 2, n=6)
    assert trellis_encode_weighted(x[:0], weight[:0], table, 4, 8).shape == (0, 128)
    assert trellis_reference.encode_weighted(x[:0], weight[:0], table, 4, 8).shape == (0, 128)
    expected = trellis_encode_weighted(x[::2].contiguous(), weight[::2].contiguous(), table, 4, 8)
    assert torch.equal(trellis_encode_weighted(x[::2], weight[::2], table, 4, 8), expected)
    op = torch.ops.vq.trellis_encode_weighted.default
    torch.library.opcheck(op, (x, weight, table, 4, 8))


def test_bad_arguments_are_named():
    x, weight, table = problem(2, 8, 1)
    with pytest.raises(ValueError, match=r"weight of shape \(4, 256\) like x"):
        trellis_encode_weighted(x, weight[:1], table, 2, 8)
    with pytest.raises(ValueError, match="trellis_encode_weighted: expected x"):
        trellis_encode_weighted(x[0], weight[0], table, 2, 8)
    with pytest.raises(ValueError, match="at most 16"):
        trellis_encode_weighted(x, weight, table, 2, 17)
