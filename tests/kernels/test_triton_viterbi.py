"""The Viterbi kernel for GPUs, in Triton's interpreter, against the reference and exhaustive search."""

import itertools

import pytest
import torch

from vq.kernels import trellis_reference
from vq.kernels.trellis import trellis_decode, trellis_encode

# step_bits, memory, symbols: every packing of back-pointers, few groups and several blocks of them
SHAPES = [(1, 6, 1), (2, 6, 2), (3, 7, 1), (4, 6, 2), (1, 7, 2), (2, 9, 1)]
SLOW = [
    (1, 9, 2),
    (4, 8, 2),
    (2, 12, 1),
    (4, 12, 2),
    (1, 13, 1),
    (5, 9, 1),
    (8, 9, 2),
    (2, 14, 1),
    (4, 16, 1),
]


def problem(memory, symbols, *, n=2, steps=8, seed=0):
    generator = torch.Generator().manual_seed(seed + memory)
    x = torch.randn(n, steps * symbols, generator=generator)
    return x, torch.randn(1 << memory, symbols, generator=generator)


def equals_reference(interpreted, step_bits, memory, symbols):
    x, table = problem(memory, symbols, steps=max(6, -(-memory // step_bits)))
    x[0] *= 3  # some saturate
    x[1] = 0.3  # ties
    codes = interpreted(trellis_encode, x, table, step_bits, memory)
    return torch.equal(codes, trellis_reference.encode(x, table, step_bits, memory))


@pytest.mark.parametrize("step_bits, memory, symbols", SHAPES)
def test_codes_are_the_references(interpreted, step_bits, memory, symbols):
    assert equals_reference(interpreted, step_bits, memory, symbols)


@pytest.mark.parametrize("symbols", [1, 2])
def test_small_values_are_rounded_alike(interpreted, symbols):
    x, table = problem(6, symbols, n=4)
    x, table = 0.02 * x, 0.02 * table  # errors of a few units of cost
    codes = interpreted(trellis_encode, x, table, 2, 6)
    assert torch.equal(codes, trellis_reference.encode(x, table, 2, 6))


@pytest.mark.slow
@pytest.mark.parametrize("step_bits, memory, symbols", SLOW)
def test_codes_are_the_references_for_long_memory(interpreted, step_bits, memory, symbols):
    assert equals_reference(interpreted, step_bits, memory, symbols)


def test_ties_of_integers(interpreted):
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(-2, 3, (64, 1), generator=generator).float()
    x = torch.randint(-2, 3, (3, 8), generator=generator).float()
    codes = interpreted(trellis_encode, x, table, 2, 6)
    assert torch.equal(codes, trellis_reference.encode(x, table, 2, 6))


@pytest.mark.parametrize("step_bits, memory, symbols, steps", [(1, 3, 1, 9), (2, 4, 2, 5)])
def test_second_pass_is_exact(interpreted, step_bits, memory, symbols, steps):
    """Nothing is nearer among all streams with the same seam; costs are rounded to 1e-3 at most."""
    x, table = problem(memory, symbols, n=3, steps=steps)
    codes = interpreted(trellis_encode, x, table, step_bits, memory)
    every = torch.tensor(list(itertools.product(range(1 << step_bits), repeat=steps))).byte()
    values = trellis_decode(every, table, step_bits, memory)
    errors = torch.cdist(x.double(), values.double()).square()
    bits = "".join(format(i, f"0{step_bits}b") for i in range(1 << step_bits))
    stream = ["".join(bits[step_bits * c : step_bits * (c + 1)] for c in row) for row in every]
    for row, chosen in enumerate(codes):
        index = int((every == chosen).all(1).nonzero())
        seam = stream[index][: memory - step_bits]
        same = [i for i, s in enumerate(stream) if s.startswith(seam)]
        assert float(errors[row, index]) <= float(errors[row, same].min()) + steps * 1e-3


def test_shapes_at_the_edge(interpreted):
    x, table = problem(6, 1, n=2, steps=7)  # an odd number of steps ends in the other row of costs
    codes = interpreted(trellis_encode, x, table, 1, 6)
    assert torch.equal(codes, trellis_reference.encode(x, table, 1, 6))
    short, small = problem(3, 1, steps=2)
    codes = interpreted(trellis_encode, short, small, 2, 3)
    assert torch.equal(codes, trellis_reference.encode(short, small, 2, 3))
    empty = interpreted(trellis_encode, x[:0], table, 1, 6)
    assert empty.shape == (0, 7) and empty.dtype == torch.uint8


def test_sequences_take_turns_where_scratch_memory_is_short(interpreted):
    x, table = problem(6, 1, n=3, steps=6)
    code = "from vq.kernels.triton import viterbi; viterbi._SCRATCH = {}"
    interpreted(exec, code.format(1))
    codes = interpreted(trellis_encode, x, table, 2, 6)
    interpreted(exec, code.format(256 << 20))
    assert torch.equal(codes, trellis_reference.encode(x, table, 2, 6))
