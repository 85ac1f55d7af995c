"""Information between codes, redundancy, stage curves, rate and distortion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vq.analysis.files.codebook import subject_of
from vq.analysis.measures.coded import code_vectors, stage_curve
from vq.analysis.measures.rate import rate_section, water_filling
from vq.analysis.measures.sequence import block_entropies
from vq.analysis.measures.stages import stages_section
from vq.analysis.measures.stream import UseCounter
from vq.analysis.pipeline import analyze
from vq.analysis.statistics.information import corrected_information, mutual_information
from vq.analysis.subject import Chunk, Subject, Table
from vq.codebooks import build


def test_mutual_information_of_small_cases_exactly():
    a = np.array([0, 0, 1, 1])
    assert mutual_information(a, a) == pytest.approx(1)
    assert mutual_information(a, np.array([0, 1, 0, 1])) == pytest.approx(0)
    # joint (1/2, 1/4; 0, 1/4): I = H(3/4) + H(1/2) - 3/2
    x, y = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    h34 = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert mutual_information(x, y) == pytest.approx(h34 + 1 - 1.5)
    assert mutual_information(np.array([0, -1, 1]), np.array([5, 7, -1])) == 0


def test_information_of_noisy_copies_in_closed_form():
    generator = np.random.default_rng(0)
    a = generator.integers(0, 2, 200_000)
    b = np.where(generator.random(200_000) < 0.11, 1 - a, a)
    h = -(0.11 * math.log2(0.11) + 0.89 * math.log2(0.89))
    assert mutual_information(a, b) == pytest.approx(1 - h, rel=0.02)


def test_shuffling_takes_the_bias_off():
    generator = np.random.default_rng(1)
    a, b = generator.integers(0, 256, (2, 20_000))
    assert mutual_information(a, b) > 1
    assert corrected_information(a, b, generator) == pytest.approx(0, abs=0.02)


def uses(codes: np.ndarray, entries: int) -> list[UseCounter]:
    found = [UseCounter(entries, q) for q in range(len(codes))]
    for use in found:
        use.add(Chunk(codes, np.array([0])), 0)
    return found


def test_redundancy_of_a_repeated_code():
    generator = np.random.default_rng(2)
    a, b = generator.integers(0, 16, (2, 30_000))
    codes = np.stack([a, b, a])
    found = stages_section(["x", "y", "z"], uses(codes, 16), Chunk(codes, np.array([0])))
    assert found.number("redundancy") == pytest.approx(1 / 3, abs=0.01)
    assert found.number("largest_information") == pytest.approx(4, abs=0.02)
    assert found.get("largest_information").note == "x and z"
    (matrix,) = found.matrices
    assert matrix.values[0][2] == matrix.values[2][0] and matrix.values[1][1] is None
    many = generator.integers(0, 4096, (3, 5000))
    few = stages_section(list("abc"), uses(many, 4096), Chunk(many, np.array([0])))
    assert few.get("redundancy").value is None and "once" in few.get("redundancy").note


def test_stage_curve_of_a_residual_codebook():
    subject = subject_of(build("residual(stages=2, of=kmeans(dim=8, entries=256))"), None)  # type: ignore[arg-type]
    x = torch.randn(8000, 8, generator=torch.Generator().manual_seed(0))
    coded = code_vectors(subject, x)
    assert coded is not None and len(coded.values) == 2
    assert torch.allclose(coded.values[-1].float(), subject.quantize(x), atol=1e-5)
    curve = stage_curve(coded)
    assert curve is not None and curve.snr[1] == pytest.approx(-10 * math.log10(0.09674), abs=0.1)
    assert sum(curve.gain) == pytest.approx(curve.snr[-1]) and min(curve.gain) > 4
    assert curve.bits == (1.0, 1.0)


def test_useless_stages_are_named():
    base = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(64, 4) + 1e-4 * torch.randn(
        64, 4, generator=torch.Generator().manual_seed(1)
    )
    tables = (Table("stage 0", base), Table("stage 1", zero))
    x = torch.randn(3000, 4, generator=torch.Generator().manual_seed(2))
    subject = Subject("codebook", "x", None, tables=tables, structure="residual", vectors=lambda: x)  # type: ignore[arg-type]
    found = analyze(subject)
    assert any(
        f.severity == "warn" and "stage 1 add less than 0.3 dB" in f.text for f in found.findings
    )


def test_grouped_tables_encode_their_own_part():
    tables = tuple(Table(f"group {i}", torch.tensor([[-1.0], [1.0]])) for i in range(2))
    subject = Subject("codebook", "x", None, tables=tables, structure="grouped")  # type: ignore[arg-type]
    coded = code_vectors(subject, torch.tensor([[0.5, -3.0], [-2.0, 0.1]]))
    assert coded.codes.tolist() == [[1, 0], [0, 1]]
    assert coded.values[-1].tolist() == [[1, -1], [-1, 1]]


def test_distortion_of_one_bit_on_a_gaussian():
    """The best two levels leave 1 - 2/pi, 1.66 dB above Shannon."""
    level = math.sqrt(2 / math.pi)
    table = Table("", torch.tensor([[-level], [level]]))
    subject = Subject("codebook", "x", None, tables=(table,))  # type: ignore[arg-type]
    x = torch.randn(60_000, 1, generator=torch.Generator().manual_seed(0))
    found = rate_section(code_vectors(subject, x), subject)
    assert found.number("mse") == pytest.approx(1 - 2 / math.pi, rel=0.02)
    assert found.number("gap") == pytest.approx(10 * math.log10((1 - 2 / math.pi) * 4), abs=0.1)
    assert found.number("gap_entropy") == pytest.approx(found.number("gap"), abs=0.05)
    assert found.number("gap_gaussian") == pytest.approx(found.number("gap"), abs=0.05)
    assert found.get("mse").low < 1 - 2 / math.pi < found.get("mse").high


def test_water_filling_by_hand():
    assert water_filling(torch.tensor([4.0, 1.0]), 1.0) == pytest.approx(2.0)  # level 1
    assert water_filling(torch.tensor([4.0, 1.0]), 2.0) == pytest.approx(1.0)  # level 1/2
    assert water_filling(torch.ones(3), 3 * 1.5) == pytest.approx(3 * 4**-1.5)


def test_entries_away_from_the_data_are_told():
    table = Table("", torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 0.1 + 3)
    x = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))
    subject = Subject("codebook", "x", None, tables=(table,), vectors=lambda: x)  # type: ignore[arg-type]
    assert any("do not lie where the data lie" in f.text for f in analyze(subject).findings)


def test_vectors_of_another_length():
    subject = Subject("codebook", "x", None, tables=(Table("", torch.randn(4, 3)),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected length 3"):
        code_vectors(subject, torch.randn(5, 4))


def test_block_entropies_of_a_markov_chain():
    """Stay with probability 0.9, else one of three others: the entropy rate is known."""
    generator = np.random.default_rng(0)
    steps = np.where(generator.random(200_000) < 0.9, 0, generator.integers(1, 4, 200_000))
    row = np.cumsum(steps) % 4
    rate = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1 / 3))
    found = block_entropies(row, np.array([0]))
    assert found[0].bits == pytest.approx(2, rel=0.02)
    assert [block.bits for block in found[1:]] == pytest.approx([rate] * 3, rel=0.02)
    assert all(abs(block.bits - rate) < 2 * block.half for block in found[1:])


def test_blocks_do_not_cross_items():
    row = np.tile([0, 1, 2], 200)
    starts = np.arange(0, 600, 3)
    assert len(block_entropies(row, starts)) == 3  # no block of four lies in an item
