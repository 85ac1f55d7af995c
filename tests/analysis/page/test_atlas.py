"""Atlas of codes as a part of the page: files that others read, words, a bound on the bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest

from vq.analysis.model import Analysis
from vq.analysis.page.atlas import Atlas, AtlasEntry, atlas_pictures, atlas_section, png
from vq.analysis.page.report import LIMIT, page


def atlas(count: int, shape=(24, 24, 3)) -> Atlas:
    generator = np.random.default_rng(0)
    entries = []
    for i in range(count):
        pieces = tuple(generator.integers(0, 256, shape).astype(np.uint8) for _ in range(4))
        entries.append(AtlasEntry(i, 100 - i, pieces, f"Noise <{i}>."))
    return Atlas(tuple(entries), 1000, count, "Pieces of noise.")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_png_as_pillow_reads_it(shape):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))), pixels)


def test_each_picture_has_words_and_the_budget_holds():
    found = atlas_pictures(atlas(32), budget=60_000)
    assert 3 < len(found) < 32
    assert [entry.code for entry, _ in found] == list(range(len(found)))  # the most used first
    text = atlas_section(atlas(32), budget=60_000)
    assert len(text) < 4 / 3 * 60_000 + 20_000
    assert text.count("<img") == text.count('alt="Code ') == len(found)
    assert "Noise &lt;0&gt;." in text and f"the {len(found)} most used of 32 codes" in text
    assert atlas_section(None) == "" == atlas_section(Atlas((), 0, 0, ""))


def test_a_large_atlas_keeps_the_page_below_its_limit():
    text = page(Analysis("tokenizer", "x"), (), atlas(200, (64, 64, 3)))
    assert len(text.encode()) < LIMIT and 'id="atlas"' in text
