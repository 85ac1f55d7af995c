"""What trellis states stand for: every code against plain integers, its scale and its figures."""

import numpy as np
import pytest
import torch

from vq.codebooks import build
from vq.codebooks.trellis_codes import (
    figure,
    hash_levels,
    hash_table,
    hybrid_indices,
    hybrid_rows,
)


def gaussian(n, seed=0):
    return torch.randn(n, 256, generator=torch.Generator().manual_seed(seed))


def error(codebook, x):
    difference = codebook(x).double() - x.double()
    return float(difference.square().mean() / x.double().square().mean())


def test_every_computed_code_has_every_memory():
    for code in ("hash", "hybrid", "mad1", "inst3", "mcg", "mul1"):
        for bits in (1, 2, 3) if code != "hybrid" else (1, 1.5, 2, 3):
            figures = []
            for memory in range(6, 17):
                spec = f"trellis(bits={bits}, memory={memory}, code={code})"
                if bits * (2 if code in ("hash", "hybrid") else 1) >= memory:
                    with pytest.raises(ValueError, match="above bits \\* symbols"):
                        build(spec)
                    continue
                codebook = build(spec)
                assert codebook.table.shape == (2**memory, codebook.symbols)
                figures.append(codebook.distortion)
            assert all(4**-bits < f < 3.5 * 4**-bits for f in figures)
            assert figures[-1] == pytest.approx(min(figures), rel=0.02)
            assert max(figures) == figures[0]


@pytest.mark.parametrize("code", ["hybrid", "mad1", "inst3", "mcg", "mul1"])
def test_the_scale_of_a_code_is_the_best(code):
    codebook = build(f"trellis(bits=3, memory=9, code={code})")
    x = gaussian(150, seed=8)
    best, plain = error(codebook, x), codebook.table.clone()
    for factor in (0.93, 1.08):
        codebook.table.copy_(plain * factor)
        assert error(codebook, x) > 1.002 * best


def test_rates_without_a_figure_work_too():
    codebook = build("trellis(bits=2, memory=5, code=mul1)")
    assert codebook.distortion is None and codebook.leftover is None
    assert error(codebook, gaussian(20)) < 0.2
    with pytest.raises(ValueError, match="no hybrid code for memory=5; known: memory=06"):
        build("trellis(bits=2, memory=5, code=hybrid)")
    with pytest.raises(
        ValueError, match="no hash code for bits=2, memory=5; known: bits=2, memory=6"
    ):
        build("trellis(bits=2, memory=5)")


def oracle(code, state):
    """A state's value at unit power by plain integers."""
    if code == "mad1":
        word = (34038481 * state + 76625530) % 2**32
        return (sum(word.to_bytes(4, "little")) - 510) / 147.8
    if code == "mul1":
        word = 0x83DCD12D * state % 2**32
        return (sum(word.to_bytes(4, "little")) - 510) / 147.8
    word = 0xCBAC1FED * state if code == "mcg" else 89226354 * state + 64248484
    word = ((word % 2**32) & 0x8FFF8FFF) ^ 0x3B603B60
    halves = np.frombuffer(word.to_bytes(4, "little"), dtype="<f2").astype(np.float64)
    return float(halves.sum()) / 1.2437


@pytest.mark.parametrize("code", ["mad1", "inst3", "mcg", "mul1"])
@pytest.mark.parametrize("memory", [9, 16])
def test_computed_codes_by_an_independent_oracle(code, memory):
    table = build(f"trellis(bits=2, memory={memory}, code={code})").table
    scale = figure(code, 2, memory).scale
    assert 0.9 < scale < 1.2
    states = [0, 1, 2, 77, 255, 2**memory - 1]
    expected = torch.tensor([[oracle(code, s) * scale] for s in states])
    assert torch.allclose(table[states], expected, atol=1e-6)
    assert float((table / scale).square().mean()) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("memory", [6, 11, 16])
def test_hybrid_code_by_an_independent_oracle(memory):
    codebook = build(f"trellis(bits=2, memory={memory}, code=hybrid)")
    assert codebook.symbols == 2 and codebook.step_bits == 4
    rows, scale = hybrid_rows(memory), figure("hybrid", 2, memory).scale
    for state in [0, 1, 5, 2 ** (memory - 1), 2**memory - 1]:
        word = state * 2 ** (16 - memory)
        mixed = (word * word + word) % 2**32
        first, second = (float(v) * scale for v in rows[mixed // 64 % 512])
        second = -second if mixed // 2**15 % 2 else second
        assert codebook.table[state].tolist() == pytest.approx([first, second], abs=1e-6)


def test_rows_of_the_hybrid_code():
    for memory in (6, 8, 16):
        index, sign = hybrid_indices(memory)
        used = index.unique()
        assert len(used) == min(512, 2 ** (memory - 1)) and int(sign.sum()) == 0
        rows = hybrid_rows(memory)
        assert rows.shape == (512, 2)
        assert int(rows.any(1).sum()) == len(used)
        assert float(rows[used].square().mean()) == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("memory", [6, 12, 16])
def test_hash_code_by_an_independent_oracle(memory):
    codebook = build(f"trellis(bits=2, memory={memory}, code=hash)")
    levels = codebook.levels.tolist()
    for state in [0, 1, 5, 2 ** (memory - 1), 2**memory - 1]:
        product = (state << (16 - memory)) * codebook.hash_constant % 2**32
        pair = levels[product >> 16 & 63], levels[product >> 8 & 63]
        assert codebook.table[state].tolist() == [
            float(np.float32(level) * np.float32(codebook.step)) for level in pair
        ]


def test_levels_of_the_hash_code():
    levels = hash_levels()
    assert levels.shape == (64,) and levels.dtype == torch.int8
    assert levels.tolist() == sorted(levels.tolist())
    assert torch.equal(levels, -levels.flip(0))
    assert int(levels.abs().max()) <= 125
    assert torch.equal(hash_table(8, 12345, 1.0) % 1, torch.zeros(256, 2))


def test_constants_fit_sixteen_bits():
    for memory in range(6, 17):
        codebook = build(f"trellis(memory={memory})")
        assert codebook.hash_constant % 2 == 1 and codebook.hash_constant < 2**16


@pytest.mark.parametrize("count", [16, 32])
def test_short_forms_of_the_hash_code(count):
    levels = hash_levels(count)
    assert levels.shape == (64,) and len(levels.unique()) == count
    assert torch.equal(levels[:count].sort().values, levels[:count])
    assert torch.equal(levels, levels[:count].repeat(64 // count))
    assert torch.equal(levels[:count], -levels[:count].flip(0))
    assert bool((levels % 2 == 1).all()) and int(levels.abs().max()) == 63
    codebook = build(f"trellis(bits=2, memory=14, code=hash, levels={count})")
    states = torch.tensor([0, 1, 5, 2**13, 2**14 - 1])
    product = (states << 2) * codebook.hash_constant
    index = torch.stack([product >> 16, product >> 8], 1) % count
    expected = levels[:count][index].float() * codebook.step
    assert torch.equal(codebook.table[states], expected)


def test_more_levels_are_better():
    found = [build(f"trellis(bits=2, levels={count})").distortion for count in (16, 32, 64)]
    assert found == sorted(found, reverse=True) and found[0] < 0.078
    for count in (16, 32):
        codebook = build(f"trellis(bits=2, levels={count})")
        assert error(codebook, gaussian(200, seed=23)) == pytest.approx(
            codebook.distortion, rel=0.02
        )
