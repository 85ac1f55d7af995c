import itertools
import math

import pytest
import torch

from vq.codebooks import build
from vq.codebooks.pvq import chi_levels
from vq.codebooks.pyramid_index import from_index, pyramid_points, to_index


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def every_point(dim, pulses):
    numbers = range(-pulses, pulses + 1)
    return torch.tensor(
        [y for y in itertools.product(numbers, repeat=dim) if sum(map(abs, y)) == pulses]
    )


@pytest.mark.parametrize(("dim", "pulses"), [(2, 1), (2, 7), (3, 5), (4, 4), (5, 3), (7, 2)])
def test_index_is_a_bijection(dim, pulses):
    points = every_point(dim, pulses)
    assert len(points) == pyramid_points(dim, pulses)
    index = to_index(points, pulses)
    assert torch.equal(index.sort().values, torch.arange(len(points)))
    assert torch.equal(from_index(index, dim, pulses), points)


def test_order_of_the_points():
    assert from_index(torch.arange(8), 2, 2).tolist() == [
        [0, 2], [0, -2], [1, 1], [1, -1], [-1, 1], [-1, -1], [2, 0], [-2, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(("dim", "pulses"), [(16, 13), (32, 21), (60, 14), (2, 4096), (700, 7)])
def test_large_indices_come_back(dim, pulses):
    codebook = build(f"pvq(dim={dim}, pulses={pulses}, gain_bits=0)")
    points = pyramid_points(dim, pulses)
    ends = torch.tensor([0, 1, points // 2, points - 2, points - 1])
    draws = torch.randint(0, points, (300,), generator=torch.Generator().manual_seed(0))
    index = torch.cat([ends, draws])
    rows = from_index(index, dim, pulses)
    assert bool((rows.abs().sum(1) == pulses).all())
    assert torch.equal(to_index(rows, pulses), index)
    assert torch.equal(codebook.unpack(codebook.pack(index)), index)


def test_number_of_points_by_the_sum_formula():
    for dim, pulses in [(16, 13), (8, 7), (32, 21)]:
        exact = sum(
            2**i * math.comb(dim, i) * math.comb(pulses - 1, i - 1) for i in range(1, dim + 1)
        )
        assert pyramid_points(dim, pulses) == exact


def test_bits_of_the_example():
    codebook = build("pvq(dim=16, pulses=13, gain_bits=2)")
    assert codebook.code_bits == math.ceil(math.log2(pyramid_points(16, 13))) + 2 == 36
    assert codebook.rate == 2.25
    assert codebook.pack(codebook.encode(normal(40, 16))).payload.numel() * 8 == 40 * 36


def test_distortion_at_two_and_a_quarter_bits():
    codebook = build("pvq(dim=16, pulses=13, gain_bits=2)")
    x = normal(40_000, 16, seed=5)
    mse = float((codebook(x) - x).square().sum() / x.square().sum())
    assert mse == pytest.approx(codebook.distortion, rel=0.015)
    assert mse < 0.077


def test_nearest_vector_of_the_whole_codebook():
    codebook = build("pvq(dim=4, pulses=4, gain_bits=2)")
    table = codebook.decode(torch.arange(codebook.entries)).double()
    x = normal(3000, 4)
    best = torch.cdist(x.double(), table).min(1).values.square()
    error = (x - codebook(x)).double().square().sum(1)
    assert float((error <= best + 1e-6).double().mean()) > 0.99
    assert float(error.mean()) < 1.001 * float(best.mean())


def test_weights_are_counted():
    codebook = build("pvq(dim=8, pulses=6, gain_bits=3)")
    x, weight = normal(2000, 8), torch.rand(8, generator=torch.Generator().manual_seed(1)) ** 4

    def error(values):
        return float((weight * (values - x).square()).sum())

    weighted = codebook.decode(codebook.encode(x, weight))
    assert error(weighted) < 0.8 * error(codebook(x))
    ones = codebook.encode(x, torch.ones(8))
    assert torch.equal(ones, codebook.encode(x))
    zero = codebook.encode(x, torch.zeros(8))
    assert int(zero.max()) < codebook.entries


def test_zero_vector_and_scale():
    codebook = build("pvq(dim=8, pulses=6, gain_bits=2)")
    assert codebook(torch.zeros(1, 8)).norm() == pytest.approx(float(codebook.gains[0]))
    x = normal(100, 8)
    direction = codebook(x) / codebook(x).norm(dim=1, keepdim=True)
    scaled = codebook(1e-6 * x)
    assert torch.allclose(scaled / scaled.norm(dim=1, keepdim=True), direction, atol=1e-5)


def test_length_quantizer_in_closed_form():
    # dim 1: |N(0, 1)|, whose 2^b levels are the positive half of Lloyd-Max with b + 1 bits
    levels, error = chi_levels(1, 4)
    lloyd_max = build("scalar(bits=3)")
    assert levels == pytest.approx(lloyd_max.levels[4:].tolist(), abs=2e-3)
    assert error == pytest.approx(lloyd_max.distortion, rel=1e-3)
    mean = math.sqrt(2) * math.gamma(8.5) / math.gamma(8)  # of the length of 16 numbers
    levels, error = chi_levels(16, 1)
    assert levels[0] == pytest.approx(mean, rel=1e-5)
    assert error == pytest.approx(16 - mean**2, rel=1e-3)


def test_fit_adapts_the_gains():
    codebook = build("pvq(dim=8, pulses=8, gain_bits=2)")
    x, fresh = 3 * normal(4000, 8), 3 * normal(4000, 8, seed=1)
    before = float((codebook(fresh) - fresh).square().mean())
    codebook.fit(x)
    after = float((codebook(fresh) - fresh).square().mean())
    assert after < 0.25 * before
    reference = build("pvq(dim=8, pulses=8, gain_bits=2)").gains
    assert torch.allclose(codebook.gains / 3, reference, rtol=0.05)
    with pytest.raises(ValueError, match="weight is not supported"):
        codebook.fit(x, torch.ones(8))
    with pytest.raises(ValueError, match="at least 4 vectors"):
        codebook.fit(x[:3])


def test_codes_out_of_range():
    codebook = build("pvq(dim=4, pulses=3, gain_bits=1)")
    with pytest.raises(ValueError, match="expected codes in"):
        codebook.decode(torch.tensor([codebook.entries]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pvq(dim=32, pulses=26, gain_bits=2)", r"more than 2\^62"),
        ("pvq(dim=32, pulses=21, gain_bits=2)", "at most 62 bits"),
        ("pvq(dim=1, pulses=3)", "from 2 to 1024"),
        ("pvq(dim=8, pulses=0)", "from 1 to 4096"),
        ("pvq(dim=8, pulses=4, gain_bits=9)", "from 0 to 8"),
    ],
)
def test_bad_arguments(spec, message):
    with pytest.raises(ValueError, match=message):
        build(spec)
