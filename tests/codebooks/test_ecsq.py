import hashlib
import math

import numpy as np
import pytest
import torch

from vq.codebooks import build, rans

# uniform thresholds, cell means, entropy-coded: Farvardin and Modestino (1984) and our own integration, bits -> error
ERRORS = {1: 0.3488, 2: 0.0891, 3: 0.0223, 4: 0.00557}


def normal(count, seed=0):
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rate", ERRORS)
def test_a_long_block_takes_the_promised_bits(rate):
    codebook = build(f"ecsq(rate={rate})")
    x = normal(300_000)
    packed = codebook.pack(codebook.encode(x))
    bits = 8 * packed.payload.numel() / len(x)
    assert rate - 1e-4 < codebook.rate <= rate
    assert bits == pytest.approx(codebook.rate, abs=0.006)  # the sample's own codes vary
    assert codebook.entropy < codebook.rate < codebook.entropy + 0.004
    values = codebook.decode(codebook.unpack(packed))
    assert float((values - x).square().mean() / x.square().mean()) <= 1.01 * ERRORS[rate]


def test_bits_equal_the_sample_s_own_information():
    codebook = build("ecsq(rate=2)")
    codes = codebook.encode(normal(200_000, seed=3))
    information = -float((codebook.frequencies.double() / 2**16).log2()[codes].sum())
    packed = 8 * codebook.pack(codes).payload.numel()
    lanes = rans.lanes_of(len(codes))
    assert information < packed < information + 40 * lanes + 0.0002 * len(codes)


def test_the_gap_is_a_quarter_bit():
    """1.53 dB, the loss of a cube against a ball: Gish and Pierce (1968)."""
    codebook = build("ecsq(rate=5)")
    gap = 10 * math.log10(codebook.distortion * 4**codebook.entropy)
    assert gap == pytest.approx(10 * math.log10(math.pi * math.e / 6), abs=0.005)


def test_entropy_and_levels_by_numerical_integration():
    codebook = build("ecsq(rate=2)")
    x = torch.linspace(-7, 7, 700_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    codes = (x / codebook.step).round().long() + codebook.entries // 2
    mass = torch.zeros(codebook.entries, dtype=torch.float64).index_add_(0, codes, density)
    first = torch.zeros_like(mass).index_add_(0, codes, density * x)
    inner = mass > 1e-7 * mass.sum()
    assert torch.allclose((first / mass)[inner], codebook.levels[inner].double(), atol=1e-3)
    p = (mass / mass.sum())[inner]
    assert -float((p * p.log2()).sum()) == pytest.approx(codebook.entropy, abs=1e-4)


def test_the_model_is_the_same_for_ever():
    """Another table would make packed codes unreadable."""
    table = build("ecsq(rate=2)").frequencies.numpy().astype("<i8")
    assert table.tolist() == [1, 1, 1, 5, 217, 3191, 15856, 26992, 15856, 3191, 217, 5, 1, 1, 1]
    codes = torch.arange(60) * 7 % 15
    payload = build("ecsq(rate=2)").pack(codes).payload.numpy().tobytes()
    assert hashlib.sha256(payload).hexdigest()[:16] == "986175a3cb1ca609"


def test_outliers_saturate_and_come_back():
    codebook = build("ecsq(rate=2)")
    x = torch.tensor([[1e6], [-1e6], [0.0]])
    codes = codebook.encode(x)
    assert codes.tolist() == [codebook.entries - 1, 0, codebook.entries // 2]
    assert torch.equal(codebook.unpack(codebook.pack(codes)), codes)


@pytest.mark.parametrize("count", [1, 2, 31, 32767, 65536, 98_305])
@pytest.mark.parametrize("symbols", [2, 15, 300])
def test_the_coder_is_exact(count, symbols):
    draw = np.random.RandomState(count + symbols)
    frequencies = rans.quantize_frequencies(draw.dirichlet(np.full(symbols, 0.3)))
    assert frequencies.sum() == 2**16 and frequencies.min() >= 1
    data = draw.randint(0, symbols, count)  # not what the model expects
    coded = rans.encode(data, frequencies)
    assert np.array_equal(rans.decode(coded, frequencies, count), data)


def test_the_coder_against_whole_numbers_of_any_length():
    """One state without renormalization is one large number: the same symbols come out of Python's integers."""
    frequencies = np.array([20000, 5536, 40000])
    start = np.cumsum(frequencies) - frequencies
    data = np.random.RandomState(0).choice(3, 200, p=frequencies / 2**16)
    state = 1
    for s in data[::-1]:
        state = (state // int(frequencies[s]) << 16) + int(start[s]) + state % int(frequencies[s])
    assert abs(8 * len(rans.encode(data, frequencies)) - state.bit_length()) <= 40


def test_damage_is_noticed():
    codebook = build("ecsq(rate=2)")
    codes = codebook.encode(normal(500))
    packed = codebook.pack(codes)
    frequencies = codebook.frequencies.numpy()
    data = packed.payload.numpy()
    for broken in (data[:-2], data[:-1], data[:3], np.append(data, [0, 0]).astype(np.uint8)):
        with pytest.raises(ValueError, match="entropy-coded block"):
            rans.decode(broken, frequencies, 500)
    flipped = data.copy()
    flipped[40] ^= 16
    with pytest.raises(ValueError, match="entropy-coded block"):
        rans.decode(flipped, frequencies, 500)
    with pytest.raises(ValueError, match="expected codes in"):
        codebook.pack(torch.tensor([99]))
    with pytest.raises(ValueError, match="cannot be read by"):
        build("ecsq(rate=3)").unpack(packed)


@pytest.mark.parametrize("rate", [0.05, 7, -1])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match="ecsq: rate must be"):
        build(f"ecsq(rate={rate})")


@pytest.mark.parametrize("rate", [0.1, 1.234, 6])
def test_any_rate(rate):
    codebook = build(f"ecsq(rate={rate})")
    assert rate - 2e-4 < codebook.rate <= rate
    assert codebook.distortion > 4**-codebook.rate
