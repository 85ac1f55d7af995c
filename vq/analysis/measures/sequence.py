"""Codes in their order: what a code tells of the next one, repetition, compressibility."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from vq.analysis.catalogue import measured
from vq.analysis.measures.stream import PairUse, valid
from vq.analysis.model import Measurement, Section, Series
from vq.analysis.statistics.estimators import (
    Z95,
    Spectrum,
    entropy_chao_shen,
    entropy_plugin,
    richness,
    wilson,
)
from vq.analysis.statistics.information import surprise
from vq.analysis.statistics.intervals import around, chance_error, half_width
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
            "bits": tuple(block.bits for block in blocks),
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
    spread = max(float((use.types * p**3).sum()) - chance**2, 0.0)
    repeats = wilson(pairs.repeats, n)
    return [
        measured("pairs", n),
        measured("pair_types", spectrum.observed, n, _kinds(pairs)),
        *_conditional(pairs, use),
        measured("repeats", pairs.repeats / n, n, repeats),
        measured(
            "repeats_expected", chance, n, around(chance, 2 * Z95 * math.sqrt(spread / use.n), 0, 1)
        ),
        measured(
            "run_length",
            n / max(n - pairs.repeats, 1),
            n,
            (1 / (1 - repeats[0]), 1 / max(1 - repeats[1], 1 / n)),
        ),
    ]


def _kinds(pairs: PairUse) -> tuple[float, float]:
    """Kinds of pairs seen, to Chao's estimate of all; where kinds were sampled, with that error."""
    seen, share = pairs.types.spectrum.observed, pairs.types.share
    error = Z95 * math.sqrt(seen * (1 - share) / share)
    return max(seen - error, 0.0), max(richness(pairs.types.spectrum), seen) + error


def _conditional(pairs: PairUse, use: Spectrum) -> list[Measurement]:
    n, spectrum = pairs.pairs, pairs.types.spectrum
    plain = max(entropy_plugin(spectrum) - entropy_plugin(use), 0.0)
    single = entropy_chao_shen(use)
    chao = min(max(entropy_chao_shen(spectrum) - single, 0.0), single)
    deviation = _deviation(spectrum) + _deviation(use)
    error = Z95 * (deviation / math.sqrt(n) + pairs.types.sampling_error)
    wide = (min(plain, chao) - error, min(max(plain, chao) + error, max(single, chao)))
    return [
        measured("conditional_entropy", plain, n, around(plain, error, 0.0)),
        measured("conditional_entropy_cs", chao, n, (max(wide[0], 0.0), wide[1])),
    ]


def _deviation(spectrum: Spectrum) -> float:
    """Standard deviation of the surprise of a token, bits."""
    p = spectrum.counts / spectrum.n
    bits = -np.log2(p)
    mean = float((spectrum.types * p * bits).sum())
    return math.sqrt(max(float((spectrum.types * p * bits * bits).sum()) - mean * mean, 0.0))


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of one length.

    Attributes:
        bits: of the last code given those before it, plug-in.
        half: of its 95 % interval.
        joint: surprise of the block at each place, bits; 0 where there is none.
        inside: where there is one.
    """

    bits: float
    half: float
    joint: np.ndarray
    inside: np.ndarray


def block_entropies(row: np.ndarray, starts: np.ndarray, most: int = _ORDERS) -> list[Blocks]:
    """``H(X_m | m codes before)`` for m = 0 to ``most - 1``, plug-in over the blocks inside items."""
    found: list[Blocks] = []
    total = 0.0
    for length in range(1, most + 1):
        keys, inside = _blocks_of(row, starts, length)
        if not len(keys):
            break
        joint = np.zeros(len(inside))
        joint[inside] = surprise(keys)
        entropy = float(joint[inside].mean())
        each = joint[inside]
        if found:  # what the block adds to its beginning
            each = each - found[-1].joint[: len(inside)][inside]
        found.append(Blocks(max(entropy - total, 0.0), half_width(each), joint, inside))
        total = entropy
    return found


def _blocks_of(row: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of all blocks of codes that lie in one item and hold no -1, and where they begin."""
    count = len(row) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64), np.zeros(0, bool)
    item = np.zeros(len(row), np.int64)
    item[starts] = 1
    item = np.cumsum(item)
    inside = item[:count] == item[length - 1 :]
    keys = np.zeros(count, np.uint64)
    for i in range(length):
        part = row[i : i + count]
        inside &= part >= 0
        keys = (keys ^ (keys >> np.uint64(29))) * _MIX + part.astype(np.uint64)
    return keys[inside], inside


def _blocks(
    blocks: list[Blocks], row: np.ndarray, starts: np.ndarray, seed: int
) -> list[Measurement]:
    n = len(row)
    rows = []
    if len(blocks) > 1:
        shuffled = np.random.default_rng(seed).permutation(row)
        chance = block_entropies(shuffled, starts, 2)
        by_chance = chance[0].bits - chance[1].bits if len(chance) > 1 else 0.0
        gain = blocks[0].bits - blocks[1].bits - by_chance
        half = _gain_error(blocks, row)
        rows.append(measured("neighbour_information", gain, n, around(gain, half)))
    for order in (3, 4):
        if len(blocks) >= order:
            block = blocks[order - 1]
            interval = around(block.bits, block.half, 0.0)
            rows.append(measured(f"block_entropy_{order}", block.bits, n, interval))
    return rows


def _gain_error(blocks: list[Blocks], row: np.ndarray) -> float:
    """Half of the interval of the information between neighbours."""
    one, two = blocks[0].joint, blocks[1]
    each = (one[:-1] + one[1:] - two.joint)[two.inside]
    types = len(np.unique(row[row >= 0]))
    return math.hypot(half_width(each), math.sqrt(2) * Z95 * chance_error(types, types, len(each)))


def _compressed(row: np.ndarray, entries: int) -> Measurement:
    """Bits a code after zlib on planes of bytes."""
    kept = row[:_ZLIB_CODES]
    if not len(kept):
        return measured("compressed_bits", None, 0, note="no codes")
    planes = -(-(entries - 1).bit_length() // 8)
    wide = kept.astype("<u8").view(np.uint8).reshape(-1, 8)
    size = sum(len(zlib.compress(wide[:, i].tobytes(), 9)) for i in range(max(planes, 1)))
    return measured("compressed_bits", 8 * size / len(kept), len(kept))
