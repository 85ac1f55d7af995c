"""The Hadamard transform on a GPU, in Triton's interpreter, against the reference."""

import pytest
import torch
from interpreted_calls import rotation, set_in

from vq.kernels.hadamard import reference
from vq.kernels.layouts import pack_signs

SIZES = [1, 2, 5, 64, 100, 256, 577, 1536, 4096]


def problem(n, rows=2, seed=0):
    generator = torch.Generator().manual_seed(seed + n)
    x = torch.randn(rows, n, generator=generator)
    signs = [pack_signs(torch.rand(n, generator=generator) < 0.5) for _ in range(2)]
    return x, signs


@pytest.mark.parametrize("n", SIZES)
def test_equals_the_reference(interpreted, n):
    x, (first, last) = problem(n)
    for given in ((None, None), (first, None), (None, last), (first, last)):
        y = interpreted(rotation, x, *given)
        expected = reference(x.double(), *given)
        assert y.dtype == torch.float32
        assert float((y - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_long_blocks_take_two_passes(interpreted, parts):
    x, (first, last) = problem(256 * parts + 32)
    before = interpreted(set_in, "vq.kernels.triton.hadamard", "_PART", 256)
    y = interpreted(rotation, x, first, last)
    interpreted(set_in, "vq.kernels.triton.hadamard", "_PART", before)
    torch.testing.assert_close(y, reference(x, first, last), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_is_rounded_once(interpreted, dtype, bound):
    x, (first, last) = problem(96)
    y = interpreted(rotation, x.to(dtype).reshape(2, 1, 96), first, last)
    expected = reference(x.to(dtype).double(), first, last)
    assert y.dtype == dtype and y.shape == (2, 1, 96)
    assert float((y[:, 0].double() - expected).norm() / expected.norm()) < bound


def test_what_is_left_to_the_reference(interpreted):
    x, (first, last) = problem(40)
    wide = interpreted(rotation, x.double(), first, last)
    assert torch.equal(wide, reference(x.double(), first, last))
    assert interpreted(rotation, x[:0], first, last).shape == (0, 40)
    with pytest.raises(TypeError, match="floating-point"):
        interpreted(rotation, torch.ones(2, 4, dtype=torch.int32), None, None)
    with pytest.raises(ValueError, match="signs: expected uint8"):
        interpreted(rotation, x, first[:-1], None)
