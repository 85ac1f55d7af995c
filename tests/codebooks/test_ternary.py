import itertools
import math

import pytest
import torch

from vq.codebooks import build


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_binary_closed_form():
    codebook = build("binary()")
    assert codebook.distortion == pytest.approx(1 - 2 / math.pi, abs=1e-12)
    assert codebook.encode(torch.tensor([[-0.1], [0.1]])).tolist() == [0, 1]


def test_levels_of_the_rules():
    def tail_mean(bound):
        density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
        return density / (math.erfc(bound / math.sqrt(2)) / 2)

    best = float(build("ternary()").level)
    assert tail_mean(best / 2) == pytest.approx(best, abs=1e-6)
    assert build("ternary()").distortion == pytest.approx(0.19017, rel=1e-4)  # Max (1960), N = 3
    magnitude = math.sqrt(2 / math.pi)
    assert float(build("ternary(rule=twn)").level) == pytest.approx(
        tail_mean(0.7 * magnitude), abs=1e-6
    )
    assert float(build("ternary(rule=absmean)").level) == pytest.approx(magnitude, abs=1e-6)
    # BitNet b1.58: round(x / mean|x|) within -1 .. 1
    x = normal(2000, 5)
    expected = (x / magnitude).round().clamp(-1, 1) * magnitude
    assert torch.allclose(build("ternary(rule=absmean)")(x), expected)


def test_every_byte_and_every_combination():
    codebook = build("ternary()")
    values = codebook.decode(torch.arange(243))
    assert len(values.unique(dim=0)) == 243
    assert torch.equal(codebook.encode(values), torch.arange(243))
    trits = torch.tensor(list(itertools.product([-1, 0, 1], repeat=5))).flip(1)
    assert torch.equal(values, trits.float() * codebook.level)


def test_five_trits_in_eight_bits():
    codebook = build("ternary()")
    packed = codebook.pack(codebook.encode(normal(1000, 5)))
    assert codebook.rate == 1.6 and packed.payload.numel() * 8 == 1.6 * 5000


def test_unknown_rule():
    with pytest.raises(ValueError, match="did you mean best"):
        build("ternary(rule=bst)")
