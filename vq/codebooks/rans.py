"""An entropy coder: range asymmetric numeral systems over a static model, many interleaved states at a time.

A block is cut into lanes; symbol i belongs to lane ``i mod lanes``. Each lane has a state x in ``[2^24, 2^40)``.
Coding a symbol of frequency f that starts at c in ``[0, 2^16)`` makes it ``(x div f) 2^16 + c + x mod f``, after
16 bits of x went to the stream where that would pass 2^40. Decoding inverts each step in the opposite order. All is
in integers: exact.

Bytes: the end states of the lanes, 5 bytes each, little end first; then 16-bit words in the order of the decoder.

Reference:
    J. Duda, "Asymmetric numeral systems" (2013), section 3; F. Giesen, "Interleaved entropy coders" (2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PRECISION = 16  # bits of the sum of all frequencies
LANE_SYMBOLS = 1 << 15  # symbols that pay for one lane
LANE_BITS = 32  # what a lane costs on average: 40 bits stored, of which 8 carry symbols

_LOW, _WORD, _STATE_BYTES = 24, 16, 5

UInt = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


def lanes_of(count: int) -> int:
    """Number of states for a block of ``count`` symbols."""
    return max(1, count // LANE_SYMBOLS)


def quantize_frequencies(mass: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Probabilities as whole numbers of at least 1 that sum to ``2**PRECISION``; the largest takes the remainder."""
    scaled = np.maximum(1, np.floor(mass * 2**PRECISION + 0.5)).astype(np.int64)
    scaled[np.argmax(scaled)] += 2**PRECISION - scaled.sum()
    if scaled.min() < 1:
        raise ValueError(f"too many symbols for a model of {PRECISION} bits: {len(mass)}")
    return scaled


def encode(symbols: npt.NDArray[np.int64], frequencies: npt.NDArray[np.int64]) -> Bytes:
    """A block of symbols as bytes.

    Args:
        symbols: ``(count,)`` in ``[0, len(frequencies))``.
        frequencies: at least 1 each, summing to ``2**PRECISION``.
    """
    count = len(symbols)
    if not count:
        return np.zeros(0, np.uint8)
    lanes = lanes_of(count)
    freq = frequencies.astype(np.uint64)
    start = (np.cumsum(frequencies) - frequencies).astype(np.uint64)
    state = np.full(lanes, 1 << _LOW, np.uint64)
    words: list[npt.NDArray[np.uint16]] = []
    room, shift = np.uint64(_LOW + _WORD - PRECISION), np.uint64(_WORD)
    for first in range((count - 1) // lanes * lanes, -1, -lanes):
        symbol = symbols[first : first + lanes]
        x, f = state[: len(symbol)], freq[symbol]
        full = x >= f << room
        words.append(x[full].astype(np.uint16))
        x = np.where(full, x >> shift, x)
        quotient = x // f
        state[: len(symbol)] = (quotient << np.uint64(PRECISION)) + start[symbol] + x - quotient * f
    head = state.astype("<u8").view(np.uint8).reshape(lanes, 8)[:, :_STATE_BYTES]
    body = np.concatenate(words[::-1]).astype("<u2").view(np.uint8)
    return np.concatenate([head.reshape(-1), body])


def decode(data: Bytes, frequencies: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Inverse of ``encode``.

    Raises:
        ValueError: if the bytes are cut short, too many, or damaged so that the states do not end where they began.
    """
    if not count:
        _check(len(data) == 0, "expected no bytes for no symbols")
        return np.zeros(0, np.int64)
    lanes = lanes_of(count)
    head = lanes * _STATE_BYTES
    _check(len(data) >= head and (len(data) - head) % 2 == 0, "cut short")
    wide = np.zeros((lanes, 8), np.uint8)
    wide[:, :_STATE_BYTES] = data[:head].reshape(lanes, _STATE_BYTES)
    state = wide.view("<u8").reshape(lanes).astype(np.uint64)
    words = data[head:].copy().view("<u2").astype(np.uint64)
    freq = frequencies.astype(np.uint64)
    start = (np.cumsum(frequencies) - frequencies).astype(np.uint64)
    symbol_of = np.repeat(np.arange(len(frequencies)), frequencies)
    out = np.empty(count, np.int64)
    mask, low = np.uint64(2**PRECISION - 1), np.uint64(1 << _LOW)
    at = 0
    for first in range(0, count, lanes):
        x = state[: min(lanes, count - first)]
        slot = x & mask
        symbol = symbol_of[slot]
        out[first : first + len(x)] = symbol
        x = freq[symbol] * (x >> np.uint64(PRECISION)) + slot - start[symbol]
        need = np.flatnonzero(x < low)
        _check(at + len(need) <= len(words), "cut short")
        x[need] = x[need] << np.uint64(_WORD) | words[at : at + len(need)]
        at += len(need)
        state[: len(x)] = x
    _check(at == len(words) and bool((state == low).all()), "damaged")
    return out


def _check(good: bool, what: str) -> None:
    if not good:
        raise ValueError(f"entropy-coded block: {what}")
