import pytest
import torch

from vq.kernels import layouts
from vq.kernels.hadamard import blocks_of, hadamard, reference

WIDTHS = [1, 2, 5, 8, 16, 24, 63, 64, 100, 192, 576, 577, 1536, 4096]


def sylvester(n):
    """The matrix from its definition: entry (i, j) has the sign (-1)^popcount(i & j) within a block."""
    full, at = torch.zeros(n, n, dtype=torch.float64), 0
    for size in blocks_of(n):
        common = torch.arange(size)[:, None] & torch.arange(size)
        parity = sum(common >> bit & 1 for bit in range(10)) % 2
        full[at : at + size, at : at + size] = (1 - 2 * parity).double() / size**0.5
        at += size
    return full


def random_signs(n, seed=0):
    return torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


def test_blocks_are_the_binary_form():
    assert blocks_of(576) == [512, 64]
    assert blocks_of(1536) == [1024, 512]
    assert blocks_of(577) == [512, 64, 1]
    with pytest.raises(ValueError, match="positive"):
        blocks_of(0)


@pytest.mark.parametrize("n", [n for n in WIDTHS if n < 600])
def test_equals_the_explicit_matrix(isa, n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    first, last = random_signs(n, 1), random_signs(n, 2)
    expected = last * ((first * x).double() @ sylvester(n))
    got = hadamard(x, layouts.pack_signs(first), layouts.pack_signs(last))
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", WIDTHS)
def test_compiled_is_bit_equal_to_the_reference(isa, n):
    x = torch.randn(5, n, generator=torch.Generator().manual_seed(n))
    signs = layouts.pack_signs(random_signs(n))
    assert torch.equal(hadamard(x, signs, None), reference(x, signs, None))
    assert torch.equal(hadamard(x, None, signs), reference(x, None, signs))


@pytest.mark.parametrize("n", [24, 577, 4096])
def test_is_orthogonal_and_its_own_inverse(isa, n):
    x = torch.randn(4, n, generator=torch.Generator().manual_seed(0))
    y = hadamard(x, None, None)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1), rtol=1e-5, atol=0)
    torch.testing.assert_close(hadamard(y, None, None), x, rtol=1e-5, atol=1e-5)
    signs = layouts.pack_signs(random_signs(n))
    there = hadamard(x, signs, None)
    torch.testing.assert_close(hadamard(there, None, signs), x, rtol=1e-5, atol=1e-5)


def test_spreads_outliers():
    x = torch.randn(256, 1024, generator=torch.Generator().manual_seed(0))
    x[:, 7] *= 50
    kurtosis = [((v / v.std()) ** 4).mean() for v in (x, hadamard(x, None, None))]
    assert kurtosis[0] > 100
    assert kurtosis[1] < 6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(dtype):
    x = torch.randn(2, 3, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = hadamard(x, None, None)
    assert y.dtype == dtype and y.shape == x.shape
    exact = x.double() @ sylvester(100)
    bound = {torch.float64: 1e-12, torch.bfloat16: 0.02, torch.float16: 3e-3}[dtype]
    assert (y.double() - exact).abs().max() < bound * exact.abs().max()


def test_input_is_not_changed_and_layout_does_not_matter():
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    y = hadamard(x.T, None, None)
    assert torch.equal(x, before)
    assert torch.equal(y, hadamard(x.T.contiguous(), None, None))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="for 100 channels"):
        hadamard(torch.zeros(2, 100), torch.zeros(3, dtype=torch.uint8), None)
    with pytest.raises(TypeError, match="floating-point"):
        hadamard(torch.zeros(4, dtype=torch.int64), None, None)


def test_operation_keeps_torchs_rules():
    signs = layouts.pack_signs(random_signs(24))
    x = torch.randn(2, 24, requires_grad=True)
    torch.library.opcheck(torch.ops.vq.hadamard.default, (x, signs, None))
    torch.library.opcheck(torch.ops.vq.hadamard.default, (x.detach(), None, signs))


def test_gradient_is_the_transpose():
    signs = layouts.pack_signs(random_signs(24))
    x = torch.randn(2, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: hadamard(v, signs, None), (x,))
    assert torch.autograd.gradcheck(lambda v: hadamard(v, None, signs), (x,))
