"""Codes in their order: what a code tells of the next one, repetition, compressibility."""

from __future__ import annotations

import math
import zlib

import numpy as np

from vq.analysis.catalogue import measured
from vq.analysis.estimators import Spectrum, entropy_chao_shen, entropy_plugin, wilson
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.stream import PairUse, valid
from vq.analysis.subject import Chunk

_ZLIB_CODES = 1 << 19
_MIX = np.uint64(0x9E3779B97F4A7C15)
_ORDERS = 4


def sequence_section(
    pairs: PairUse,
    use: Spectrum,
    entries: int,
    sample: Chunk,
    q: int,
    part: str = "",
    seed: int = 0,
) -> Section:
    """Everything about the order of one stream.

    Args:
        pairs: its neighbours.
        use: of its entries.
        entries: K.
        sample: pieces of all streams.
        q: which of them.
        part: name of the stream.
        seed: of shuffles.
    """
    row = sample.codes[q] if len(sample.codes) else np.zeros(0, np.int64)
    starts = sample.starts
    rows = _neighbours(pairs, use)
    blocks = block_entropies(row, starts)
    rows += _blocks(blocks, row, starts, seed)
    rows.append(_compressed(valid(row), entries))
    notes = []
    if pairs.types.share < 1:
        notes.append(
            f"{pairs.types.share:.3g} of the kinds of pairs were followed, and all frequent ones; this adds "
            f"{pairs.types.sampling_error:.2g} bits of error to the entropy"
        )
    curve = Series(
        "block_entropy",
        "Entropy given the codes before",
        {
            "codes_before": tuple(range(len(blocks))),
            "bits": tuple(blocks),
            "log2_K": (math.log2(entries),) * len(blocks),
        },
        "plug-in on the sampled pieces; falls for want of data too where pieces are short for K to that power",
    )
    return Section(
        "sequence", "Codes in their order", part, tuple(rows), (curve,), (), tuple(notes)
    )


def _neighbours(pairs: PairUse, use: Spectrum) -> list[Measurement]:
    n, spectrum = pairs.pairs, pairs.types.spectrum
    if not n:
        return [measured("pairs", 0)]
    p = use.counts / use.n
    chance = float((use.types * p * p).sum())
    plain = max(entropy_plugin(spectrum) - entropy_plugin(use), 0.0)
    chao = max(entropy_chao_shen(spectrum) - entropy_chao_shen(use), 0.0)
    error = 1.96 * pairs.types.sampling_error
    share = pairs.repeats / n
    return [
        measured("pairs", n),
        measured("pair_types", spectrum.observed, n),
        measured(
            "conditional_entropy",
            plain,
            n,
            (max(plain - error, 0.0), plain + error) if error else None,
        ),
        measured("conditional_entropy_cs", min(chao, entropy_chao_shen(use)), n),
        measured("repeats", share, n, wilson(pairs.repeats, n)),
        measured("repeats_expected", chance, n),
        measured("run_length", n / max(n - pairs.repeats, 1), n),
    ]


def block_entropies(row: np.ndarray, starts: np.ndarray) -> list[float]:
    """``H(X_m | m codes before)`` in bits for m = 0 to 3, plug-in over the blocks inside items."""
    found, before = [], 0.0
    for length in range(1, _ORDERS + 1):
        keys = _blocks_of(row, starts, length)
        if not len(keys):
            break
        entropy = entropy_plugin(Spectrum.of(np.unique(keys, return_counts=True)[1]))
        found.append(max(entropy - before, 0.0))
        before = entropy
    return found


def _blocks_of(row: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Hashes of all blocks of codes that lie in one item and hold no -1."""
    count = len(row) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    item = np.zeros(len(row), np.int64)
    item[starts] = 1
    item = np.cumsum(item)
    inside = item[:count] == item[length - 1 :]
    keys = np.zeros(count, np.uint64)
    for i in range(length):
        part = row[i : i + count]
        inside &= part >= 0
        keys = (keys ^ (keys >> np.uint64(29))) * _MIX + part.astype(np.uint64)
    return keys[inside]


def _blocks(
    blocks: list[float], row: np.ndarray, starts: np.ndarray, seed: int
) -> list[Measurement]:
    n = len(row)
    rows = []
    if len(blocks) > 1:
        shuffled = np.random.default_rng(seed).permutation(row)
        chance = block_entropies(shuffled, starts)
        gain = (blocks[0] - blocks[1]) - (chance[0] - chance[1])
        rows.append(measured("neighbour_information", gain, n))
    for order in (3, 4):
        if len(blocks) >= order:
            rows.append(measured(f"block_entropy_{order}", blocks[order - 1], n))
    return rows


def _compressed(row: np.ndarray, entries: int) -> Measurement:
    """Bits a code after zlib on planes of bytes."""
    kept = row[:_ZLIB_CODES]
    if not len(kept):
        return measured("compressed_bits", None, 0, note="no codes")
    planes = -(-(entries - 1).bit_length() // 8)
    wide = kept.astype("<u8").view(np.uint8).reshape(-1, 8)
    size = sum(len(zlib.compress(wide[:, i].tobytes(), 9)) for i in range(max(planes, 1)))
    return measured("compressed_bits", 8 * size / len(kept), len(kept))
