"""Budgets against counts by hand and a simulated codebook."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vq.tokenizers.budget import token_budget, utilization_ceiling
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.folder import Folder, MediaFile


def media(size, rate=None) -> MediaFile:
    return MediaFile("a", Path("a"), size, 1, rate, 1, "00", "train")


@pytest.mark.parametrize("ratio", [0.25, 1, 2, 4])
def test_ceiling_is_what_uniform_codes_reach(ratio):
    entries = 4096
    codes = int(ratio * entries)
    generator = np.random.default_rng(0)
    used = [len(np.unique(generator.integers(0, entries, codes))) / entries for _ in range(20)]
    assert utilization_ceiling(codes, entries) == pytest.approx(np.mean(used), abs=0.005)


def test_ceiling_of_huge_codebooks_keeps_its_digits():
    assert utilization_ceiling(10, 10**15) == pytest.approx(1e-14, rel=1e-6)


def test_audio_is_counted_at_the_rate_of_the_codes():
    spec = CodeSpec("audio", (1024, 256), (2, 1), (160,), 1, 16000, "none", "m")
    folder = Folder(
        Path("p"), "audio", (media((16000,), 16000), media((44101,), 44100)), (), 0
    )  # 16000 and 16001 samples: 100 and 101 positions
    budget = token_budget(folder, spec)
    assert budget.positions == 201 and budget.codes == (50 + 51, 201)
    assert budget.bits == pytest.approx(101 * 10 + 201 * 8)
    assert budget.bitrate == pytest.approx(1.3) and budget.unit == "kbit/s"
    assert budget.ceilings == pytest.approx((1 - math.exp(-101 / 1024), 1 - math.exp(-201 / 256)))
    table = budget.table()
    assert "302 (151 per file)" in table and "K = 1,024, N/K = 0.0986, ceiling 9.4%" in table
    assert json.loads(json.dumps(budget.to_dict()))["codes"] == [101, 201]


def test_images_and_equal_codebooks_in_one_line():
    spec = CodeSpec("image", (16, 16), (1, 1), (8, 4), 3, None, "none", "m")
    budget = token_budget(Folder(Path("p"), "image", (media((9, 9)),), (), 0), spec)
    assert budget.positions == 2 * 3 and budget.codes == (6, 6)
    assert budget.unit == "bit/pixel" and budget.bitrate == pytest.approx(8 / 32)
    assert budget.table().count("utilization") == 1


def test_kinds_must_agree():
    spec = CodeSpec("image", (16,), (1,), (8, 8), 3, None, "none", "m")
    with pytest.raises(ValueError, match="spec: of image, but p holds audio"):
        token_budget(Folder(Path("p"), "audio", (media((9,), 8000),), (), 0), spec)
