import itertools

import numpy as np
import pytest
import torch

from vq.codebooks.lattice_e8p import search_tables
from vq.kernels import golay, lattice, lattice_reference
from vq.kernels.e8p_reference import e8p_search


def numbers(*shape, scale=1.0, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ties(*shape, step=0.25, seed=0):
    draw = torch.randint(-16, 17, shape, generator=torch.Generator().manual_seed(seed))
    return step * draw


def by_cosets(x):
    """Squared distance to the Leech lattice times sqrt(8): all 2 x 4096 cosets of 4 Z^24 one by one."""
    words = torch.from_numpy(golay.codewords()).double()
    best = torch.full((len(x),), float("inf"), dtype=torch.float64)
    for half in (0, 1):
        parts = []
        for bit in (0, 1):
            t = (x - 2 * bit - half) / 4
            k = t.round()
            parts.append(((t - k).square(), k.remainder(2), 1 - 2 * (t - k).abs()))
        near, odd = (
            zero.sum(1, keepdim=True) + (one - zero) @ words.t()
            for zero, one in zip(parts[0][:2], parts[1][:2], strict=True)
        )
        extra = torch.full_like(near, 9.0)
        for d in range(24):
            cost = torch.where(
                words[:, d] == 1, parts[1][2][:, d : d + 1], parts[0][2][:, d : d + 1]
            )
            extra = torch.minimum(extra, cost)
        fits = odd.round().remainder(2) == half
        best = torch.minimum(best, torch.where(fits, near, near + extra).amin(1))
    return 16 * best


def in_leech(points):
    """Whether integer points satisfy the definition: one parity, a Golay codeword, the sum modulo 8."""
    words = set(map(bytes, golay.codewords()))
    odd = points[:, :1] & 1
    bits = ((points - odd) >> 1 & 1).to(torch.uint8).numpy()
    golay_words = all(bytes(b) in words for b in bits)
    same_parity = bool(((points & 1) == odd).all())
    return same_parity and golay_words and bool((points.sum(1) % 8 == 4 * odd[:, 0]).all())


def test_the_golay_code_is_the_golay_code():
    words = golay.codewords()
    assert np.bincount(words.sum(1))[[0, 8, 12, 16, 24]].tolist() == [1, 759, 2576, 759, 1]
    known = set(map(bytes, words))
    assert len(known) == 4096
    assert all(bytes(words[i] ^ words[j]) in known for i in range(0, 4096, 97) for j in range(4096))


def test_the_hexacode_has_weights_0_4_6():
    words = golay.hexacode()
    weights = (words != 0).sum(1)
    assert np.bincount(weights).tolist() == [1, 0, 0, 0, 45, 0, 18]
    known = set(map(bytes, words))
    assert all(bytes(a ^ b) in known for a, b in itertools.product(words, words))


@pytest.mark.parametrize(
    "x", [numbers(333, 24, scale=9), ties(333, 24, step=1.0)], ids=["any", "ties"]
)
def test_leech_points_are_nearest(x):
    points = lattice.nearest_leech(x)
    assert in_leech(points.long())
    distance = (x.double() - points).square().sum(1)
    assert torch.allclose(distance, by_cosets(x.double()), rtol=1e-6, atol=1e-4)


def test_every_instruction_set_gives_the_reference_bit_for_bit(isa):
    for x in (numbers(1001, 24, scale=12), ties(700, 24, step=0.5)):
        assert torch.equal(lattice.nearest_leech(x), lattice_reference.nearest_leech(x))
        wanted = 1.3 * x
        found = lattice.leech_in_ball(x, wanted, 208.0, 5)
        assert torch.equal(found, lattice_reference.leech_in_ball(x, wanted, 208.0, 5))
    for x in (numbers(3001, 8, scale=2), ties(3000, 8), torch.zeros(0, 8)):
        assert torch.equal(lattice.nearest_e8(x), lattice_reference.nearest_e8(x))
        tables = search_tables()
        assert torch.equal(lattice.e8p_encode(x, tables), e8p_search(x, tables))


def test_reference_backend(monkeypatch):
    x = numbers(50, 24, scale=9)
    native = lattice.nearest_leech(x)
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert torch.equal(lattice.nearest_leech(x), native)
    assert lattice.nearest_leech(x[:0]).shape == (0, 24)
    assert lattice.leech_in_ball(x[:0], x[:0], 1.0).shape == (0, 24)


def test_search_in_a_ball():
    wanted = numbers(400, 24, scale=4)
    length = wanted.norm(dim=1, keepdim=True)
    found = lattice.leech_in_ball(wanted * (14 / length).clamp_max(1), wanted, 208.0)
    some = ~torch.isinf(found[:, 0])
    assert int(some.sum()) > 390
    assert in_leech(found[some].long()) and float(found[some].square().sum(1).max()) <= 208
    longer = lattice.leech_in_ball(wanted * (14 / length).clamp_max(1), wanted, 208.0, 64)
    error, less = ((wanted - v).square().sum(1)[some] for v in (found, longer))
    assert bool((less <= error).all())
    nothing = lattice.leech_in_ball(wanted + 40, wanted + 40, 208.0)
    assert bool(torch.isinf(nothing).all())


def test_bad_input():
    with pytest.raises(ValueError, match=r"shape \(n, 24\)"):
        lattice.nearest_leech(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="magnitudes up to"):
        lattice.nearest_e8(torch.full((1, 8), 1e9))
    with pytest.raises(ValueError, match="top from 1 to 64"):
        lattice.leech_in_ball(torch.zeros(1, 24), torch.zeros(1, 24), 1.0, 65)
    with pytest.raises(ValueError, match="tables uint8"):
        lattice.e8p_encode(torch.zeros(1, 8), torch.zeros(3))


@pytest.mark.parametrize("name", ["e8", "leech", "in_ball", "e8p"])
def test_operations_pass_opcheck(name):
    x8, x24 = numbers(5, 8), numbers(5, 24)
    call = {
        "e8": (torch.ops.vq.lattice_e8.default, (x8,)),
        "leech": (torch.ops.vq.lattice_leech.default, (x24,)),
        "in_ball": (torch.ops.vq.lattice_leech_in_ball.default, (x24, 2 * x24, 208.0, 4)),
        "e8p": (torch.ops.vq.e8p_encode.default, (x8, search_tables())),
    }[name]
    torch.library.opcheck(*call)
