"""Lossless entropy coding of codes with a static histogram; needs the extra ``coding``.

Fixed-width packing spends ``log2(entries)`` bits on every code; a code that comes often deserves fewer. The histogram
of the codes is stored with them, and an asymmetric numeral system, from the library constriction, comes within a
fraction of a percent of its entropy.

File, little-endian: magic ``VQENTROP``, version u16, method u8 (0 fixed width, 1 histogram), dimensions u8, contexts
u32, entries u64, CRC-32 u32 of all the rest, sizes u64 each, length of the model u32, model, payload. The model is
compressed with zlib; for each context it holds, as LEB128 numbers: how many symbols are used, their differences, their
frequencies less one. These add up to 2^16, or to more for 2^13 symbols and more.

Reference:
    J. Duda, "Asymmetric numeral systems" (2013); R. Bamler, "Understanding entropy coding with asymmetric numeral
    systems (ANS): a statistician's perspective" (2022), the library's paper.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vq.kernels.layouts import pack_rows, unpack_rows

MAGIC = b"VQENTROP"
VERSION = 1
_HEAD = struct.Struct("<8sHBBIQI")
_FIXED, _HISTOGRAM = 0, 1
_MAX_SYMBOLS = 1 << 18  # the coder counts in 2^24

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Model of the codes of one context.

    Attributes:
        symbols: codes that occur, ascending.
        frequencies: positive, with a sum that is a power of 2.
    """

    symbols: Ints
    frequencies: Ints


def compress_codes(codes: Tensor, entries: int, contexts: int = 1) -> bytes:
    """Codes as bytes, near the empirical entropy; as fixed-width fields where that is smaller.

    Args:
        codes: integers of any shape in ``[0, entries)``, of any codebook.
        entries: possible values of a code, at most 2^32.
        contexts: codes that stand ``contexts`` apart in row-major order share a histogram: ``codes.shape[-1]`` gives
            each stage or group its own.

    Returns:
        A self-contained file; its length is all there is to store.

    Raises:
        ValueError: for codes out of range, or a number of codes that contexts do not divide.
        ImportError: without the library constriction.
    """
    coder = _constriction()
    flat = _checked(codes, entries, contexts)
    rows = flat.reshape(-1, contexts).T
    method, model, payload = _FIXED, b"", _fixed(flat, entries)
    if flat.size:
        models = [_histogram(row) for row in rows]
        if all(len(m.symbols) <= _MAX_SYMBOLS for m in models):
            coded = _encode(coder, rows, models)
            described = zlib.compress(b"".join(_describe(m) for m in models), 9)
            if len(coded) + len(described) < len(payload):
                method, model, payload = _HISTOGRAM, described, coded
    body = struct.pack(f"<{codes.ndim}Q", *codes.shape)
    body += struct.pack("<I", len(model)) + model + payload
    head = (MAGIC, VERSION, method, codes.ndim, contexts, entries)
    return _HEAD.pack(*head, _checksum(head, body)) + body


def decompress_codes(data: bytes) -> Tensor:
    """Inverse of ``compress_codes``: int64 codes in their shape.

    Raises:
        ValueError: if the data are not compressed codes, of a newer version, cut short or damaged.
        ImportError: without the library constriction, if the data need it.
    """
    if data[: len(MAGIC)] != MAGIC or len(data) < _HEAD.size:
        raise ValueError(f"not compressed codes: expected the magic {MAGIC!r}, got {data[:8]!r}")
    *head, checksum = _HEAD.unpack_from(data)
    _, version, method, ndim, contexts, entries = head
    if version > VERSION or method > _HISTOGRAM:
        raise ValueError(
            f"compressed codes of version {version}, method {method}; this vq reads up to version {VERSION}"
        )
    body = data[_HEAD.size :]
    if _checksum(tuple(head), body) != checksum:
        raise ValueError("compressed codes are cut short or damaged: the checksum does not match")
    shape = struct.unpack_from(f"<{ndim}Q", body)
    (length,) = struct.unpack_from("<I", body, 8 * ndim)
    start = 8 * ndim + 4
    model, payload = body[start : start + length], body[start + length :]
    count = math.prod(shape)
    if method == _FIXED:
        bits = torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else None
        flat = torch.zeros(0) if bits is None else unpack_rows(bits, _width(entries), count)
        return flat.long().reshape(shape)
    models = _models(zlib.decompress(model), contexts)
    rows = _decode(_constriction(), payload, models, count // contexts)
    return torch.from_numpy(np.ascontiguousarray(rows.T)).reshape(shape)


def empirical_entropy(codes: Tensor, contexts: int = 1) -> float:
    """Bits in all: the size of the codes under their own histograms, without the histograms."""
    total = 0.0
    for row in codes.detach().cpu().numpy().astype(np.int64).reshape(-1, contexts).T:
        counts = np.unique(row, return_counts=True)[1]
        total -= float((counts * np.log2(counts / max(1, counts.sum()))).sum())
    return total


def _constriction() -> ModuleType:
    try:
        import constriction
    except ImportError as error:
        raise ImportError(
            "entropy coding needs the library constriction: pip install 'vq-toolkit[coding]'"
        ) from error
    module: ModuleType = constriction
    return module


def _checked(codes: Tensor, entries: int, contexts: int) -> Ints:
    if codes.is_floating_point() or not 1 <= entries <= 1 << 32:
        raise ValueError(
            f"compress_codes: expected integer codes and entries from 1 to 2^32, got {codes.dtype} "
            f"and {entries}"
        )
    flat = codes.detach().cpu().numpy().astype(np.int64).reshape(-1)
    if contexts < 1 or flat.size % contexts:
        raise ValueError(f"compress_codes: {contexts} contexts do not divide {flat.size} codes")
    if flat.size and (flat.min() < 0 or flat.max() >= entries):
        raise ValueError(
            f"compress_codes: expected codes in [0, {entries}), got {flat.min()} to {flat.max()}"
        )
    return flat


def _checksum(head: tuple, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_HEAD.pack(*head, 0)))


def _width(entries: int) -> int:
    return max(1, (entries - 1).bit_length())


def _fixed(flat: Ints, entries: int) -> bytes:
    return pack_rows(torch.from_numpy(flat), _width(entries)).numpy().tobytes()


def _histogram(row: Ints) -> Histogram:
    """Frequencies in proportion to the counts, at least 1, rounded so that they add up to a power of 2."""
    symbols, counts = np.unique(row, return_counts=True)
    total = 1 << max(16, len(symbols).bit_length() + 3)
    exact = counts * (total / counts.sum())
    frequencies = np.maximum(1, np.floor(exact)).astype(np.int64)
    missing = total - int(frequencies.sum())
    if missing > 0:  # to those that lost most by rounding
        frequencies[np.argsort(frequencies - exact, kind="stable")[:missing]] += 1
    while missing < 0:  # the floor of 1 gave too much: take from the largest
        order = np.argsort(-frequencies, kind="stable")[:-missing]
        order = order[frequencies[order] > 1]
        frequencies[order] -= 1
        missing += len(order)
    return Histogram(symbols, frequencies)


def _model(coder: ModuleType, histogram: Histogram) -> object:
    weights = histogram.frequencies.astype(np.float64)
    return coder.stream.model.Categorical(weights / weights.sum(), perfect=False)


def _encode(coder: ModuleType, rows: Ints, models: list[Histogram]) -> bytes:
    stack = coder.stream.stack.AnsCoder()
    for row, model in zip(rows[::-1], models[::-1], strict=True):  # what comes last is read first
        if len(model.symbols) > 1:
            index = np.searchsorted(model.symbols, row).astype(np.int32)
            stack.encode_reverse(index, _model(coder, model))
    words: bytes = stack.get_compressed().astype("<u4").tobytes()
    return words


def _decode(coder: ModuleType, payload: bytes, models: list[Histogram], count: int) -> Ints:
    stack = coder.stream.stack.AnsCoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))
    rows = np.empty((len(models), count), dtype=np.int64)
    for row, model in zip(rows, models, strict=True):
        if len(model.symbols) > 1:
            row[:] = model.symbols[stack.decode(_model(coder, model), count)]
        else:
            row[:] = model.symbols[0]
    return rows


def _describe(histogram: Histogram) -> bytes:
    steps = np.diff(histogram.symbols, prepend=0)
    numbers = np.concatenate([[len(steps)], steps, histogram.frequencies - 1])
    return b"".join(_leb128(int(number)) for number in numbers)


def _leb128(number: int) -> bytes:
    """Seven bits a byte, lowest first, the high bit set on all but the last byte."""
    found = bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _models(data: bytes, contexts: int) -> list[Histogram]:
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    found, at = [], 0
    for _ in range(contexts):
        count = numbers[at]
        steps = np.array(numbers[at + 1 : at + 1 + count], dtype=np.int64)
        more = np.array(numbers[at + 1 + count : at + 1 + 2 * count], dtype=np.int64)
        found.append(Histogram(np.cumsum(steps), more + 1))
        at += 1 + 2 * count
    return found
