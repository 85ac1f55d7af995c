"""One pass over the codes of a subject: use, pairs, a sample, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from vq.analysis.measures.labels import LabelCounter
from vq.analysis.measures.sequence import sequence_section
from vq.analysis.measures.stream import Listener, PairCounter, Sampler, UseCounter, read
from vq.analysis.measures.usage import usage_section
from vq.analysis.model import Section
from vq.analysis.statistics.estimators import Spectrum
from vq.analysis.subject import Chunk, Codes
from vq.errors import VqError

Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Streams:
    """What one pass over codes has gathered.

    Attributes:
        codes: the streams.
        uses: of each.
        pairs: of each.
        sample: pieces of all.
        labels: joint counts with labels; None without.
        positions: read.
        owner: whose codes they are, where there are those of another beside them.
    """

    codes: Codes
    uses: tuple[UseCounter, ...]
    pairs: tuple[PairCounter, ...]
    sample: Chunk
    labels: LabelCounter | None
    positions: int
    owner: str = ""

    def part(self, q: int) -> str:
        """Name of a stream as a part of the subject."""
        return ", ".join(word for word in (self.owner, self.codes.name(q)) if word)

    def sections(self, seed: int) -> Iterator[Section]:
        """Use and order of each stream."""
        for q, (use, pairs) in enumerate(zip(self.uses, self.pairs, strict=True)):
            part = self.part(q)
            yield usage_section(use, part, seed)
            spectrum = Spectrum.of(use.counts) if use.types is None else use.types.result().spectrum
            yield sequence_section(
                pairs.result(), spectrum, use.entries, self.sample, q, part, seed
            )


class _Bar:
    """Tells how many positions were read."""

    def __init__(self, done: Progress) -> None:
        self.done = done

    def add(self, chunk: Chunk, position: int) -> None:
        """Hear a chunk."""
        self.done(position + chunk.codes.shape[1])


def gather(
    codes: Codes,
    labels: np.ndarray | None = None,
    done: Progress | None = None,
    owner: str = "",
) -> Streams:
    """Read codes once.

    Args:
        codes: to read.
        labels: of their positions; None without.
        done: hears how many positions were read.
        owner: name of the subject, where its parts must tell it from another one's.

    Raises:
        VqError: for codes out of range, or labels of another number than positions.
    """
    streams = range(len(codes.entries))
    uses = tuple(UseCounter(codes.entries[q], q) for q in streams)
    pairs = tuple(PairCounter(codes.entries[q], q) for q in streams)
    sampler = Sampler()
    counter = None if labels is None else LabelCounter(labels, codes.entries)
    heard: list[Listener] = [*uses, *pairs, sampler]
    heard += [] if counter is None else [counter]
    heard += [] if done is None else [_Bar(done)]
    positions = read(codes, heard)
    if counter is not None and positions != len(counter.labels):
        raise VqError(
            f"labels: expected one for each of {positions} positions, got {len(counter.labels)}"
        )
    return Streams(codes, uses, pairs, sampler.result(), counter, positions, owner)
