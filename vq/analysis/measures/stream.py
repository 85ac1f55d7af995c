"""One pass over streams of codes: every listener hears each piece once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vq.analysis.statistics.types import TypeCounter, TypeCounts
from vq.analysis.subject import Chunk, Codes
from vq.errors import VqError

MOST_ENTRIES = 1 << 24  # above, entries are counted as types
SAMPLE, SEGMENT = 1 << 20, 1 << 12


class Listener(Protocol):
    """What takes part in a pass."""

    def add(self, chunk: Chunk, position: int) -> None:
        """Hear the codes that begin at a position of the whole stream."""


def read(codes: Codes, listeners: Iterable[Listener]) -> int:
    """Read all codes once; returns the number of positions.

    Raises:
        VqError: for codes out of range.
    """
    position, hear = 0, tuple(listeners)
    for chunk in codes.read():
        for q, row in enumerate(chunk.codes):
            if row.size and int(row.max()) >= codes.entries[q]:
                raise VqError(
                    f"code {int(row.max())} of {codes.name(q) or 'the stream'} is not below "
                    f"{codes.entries[q]} entries; give the codebook that made the codes"
                )
        for listener in hear:
            listener.add(chunk, position)
        position += chunk.codes.shape[1]
    return position


class UseCounter:
    """Use of every entry of one stream."""

    def __init__(self, entries: int, q: int) -> None:
        self.entries, self.q = entries, q
        self.types = TypeCounter(wide=entries > 1 << 32) if entries > MOST_ENTRIES else None
        self.counts = np.zeros(0 if self.types else entries, np.int64)

    def add(self, chunk: Chunk, position: int) -> None:
        """Count."""
        row = valid(chunk.codes[self.q])
        if self.types is not None:
            self.types.add(row)
        elif len(row):
            self.counts += np.bincount(row, minlength=self.entries)


@dataclass(frozen=True, eq=False)
class PairUse:
    """Neighbours in a stream.

    Attributes:
        types: counts of pairs; a pair's key is ``first * K + second``, mixed where that needs more than 64 bits.
        repeats: pairs of equal codes.
        pairs: how many there were.
    """

    types: TypeCounts
    repeats: int
    pairs: int


class PairCounter:
    """Neighbouring codes of one stream, within items."""

    def __init__(self, entries: int, q: int) -> None:
        self.entries, self.q = entries, q
        self.types = TypeCounter(wide=entries > 1 << 16)
        self.repeats = 0
        self._last = -1

    def add(self, chunk: Chunk, position: int) -> None:
        """Count the pairs of a chunk, and that over its front edge."""
        row = chunk.codes[self.q]
        if not len(row):
            return
        starts = chunk.starts
        edge = self._last >= 0 and not (len(starts) and starts[0] == 0)
        first, second = row[:-1], row[1:]
        inside = starts[starts > 0] - 1
        if edge:
            first, second = np.concatenate([[self._last], first]), row
            inside = inside + 1
        self._last = int(row[-1])
        kept = self._kept(first, second, inside)
        if kept is not None:
            first, second = first[kept], second[kept]
        self.repeats += int(np.count_nonzero(first == second))
        self.types.add(self._keys(first, second))

    def _kept(self, first: np.ndarray, second: np.ndarray, breaks: np.ndarray) -> np.ndarray | None:
        """Which pairs count; None for all."""
        signed = np.issubdtype(first.dtype, np.signedinteger)
        gaps = signed and len(first) and min(int(first.min()), int(second.min())) < 0
        if not gaps and not len(breaks):
            return None
        kept = (first >= 0) & (second >= 0) if gaps else np.ones(len(first), bool)
        kept[breaks] = False
        return kept

    def _keys(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        kind = self.types.dtype.type
        front, back = first.astype(kind), second.astype(kind)
        if self.entries > 1 << 32:  # the product would lose the upper bits of the first
            front = (front ^ (front >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            front = (front ^ (front >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
            return front + back
        return front * kind(self.entries) + back

    def result(self) -> PairUse:
        """What was found."""
        return PairUse(self.types.result(), self.repeats, self.types.n)


class Sampler:
    """Evenly spread pieces of ``SEGMENT`` positions, all codes of each; bounded whatever the length.

    Every 2^j-th piece is kept; j grows when there are too many.
    """

    def __init__(self, most: int = SAMPLE) -> None:
        self.most, self._stride = most, 1
        self._pieces: list[tuple[int, Chunk]] = []

    def add(self, chunk: Chunk, position: int) -> None:
        """Keep some."""
        end = position + chunk.codes.shape[1]
        number = position // SEGMENT
        while number * SEGMENT < end:
            if number % self._stride == 0:
                low = max(number * SEGMENT, position) - position
                high = min((number + 1) * SEGMENT, end) - position
                inside = chunk.starts[(chunk.starts >= low) & (chunk.starts < high)] - low
                self._pieces.append((number, Chunk(chunk.codes[:, low:high].copy(), inside)))
            number += 1
            if len(self._pieces) * SEGMENT > 2 * self.most:
                self._stride *= 2
                self._pieces = [p for p in self._pieces if p[0] % self._stride == 0]

    def result(self) -> Chunk:
        """The pieces after one another, ``(Q, n)``; each begins an item of its own unless it goes on with the last."""
        if not self._pieces:
            return Chunk(np.zeros((0, 0), np.int64), np.zeros(0, np.int64))
        starts, at, before = [], 0, -2
        for number, piece in self._pieces:
            own = piece.starts
            if number not in (before, before + 1) and not (len(own) and own[0] == 0):
                own = np.concatenate([[0], own])
            starts.append(own + at)
            at += piece.codes.shape[1]
            before = number
        codes = np.concatenate([piece.codes for _, piece in self._pieces], axis=1)
        return Chunk(codes, np.concatenate(starts).astype(np.int64))


def valid(row: np.ndarray) -> np.ndarray:
    """Codes that are not -1 (nothing)."""
    signed = np.issubdtype(row.dtype, np.signedinteger)
    return row[row >= 0] if signed and row.size and int(row.min()) < 0 else row
