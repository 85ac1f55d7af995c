"""From a subject to its analysis: what can be measured is measured, then judged."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vq.analysis.measures.coded import Coded, code_vectors, stage_curve
from vq.analysis.measures.compare import compare_sections
from vq.analysis.measures.gather import Progress, Streams, gather
from vq.analysis.measures.geometry import geometry_section
from vq.analysis.measures.labels import labels_section
from vq.analysis.measures.rate import rate_section
from vq.analysis.measures.stages import stages_section
from vq.analysis.measures.training import training_section
from vq.analysis.measures.weights import weights_section
from vq.analysis.model import Analysis, Section
from vq.analysis.rules.verdict import judge
from vq.analysis.subject import Chunk, Subject
from vq.errors import VqError

_GAUSSIAN_NUMBERS = 1 << 20
_MOST_TABLES = 64


def analyze(
    subject: Subject,
    other: Subject | None = None,
    *,
    seed: int = 0,
    done: Progress | None = None,
) -> Analysis:
    """Measure and judge a subject.

    Args:
        subject: what to look at.
        other: what to compare it with; None for nothing.
        seed: of samples, shuffles and rays.
        done: hears how many positions of the codes of a subject were read.

    Raises:
        VqError: if parts of the subject contradict each other.
    """
    own, others = _owners(subject, other)
    streams = _read(subject, done, own)
    beside = None if other is None else _read(other, done, others)
    subject, note = _with_vectors(subject, seed)
    coded = _coded(subject, seed)
    sections = [
        *(section for s in (streams, beside) if s is not None for section in s.sections(seed)),
        *_of_tables(subject, streams, coded, seed),
        *_of_the_rest(subject, other, streams, seed),
    ]
    if other is not None:
        sections += compare_sections(subject, other, streams, beside, seed)
    if note:
        sections = [replace(s, notes=(*s.notes, note)) if s.key == "rate" else s for s in sections]
    settings = {"seed": seed, "version": _version()}
    name = subject.name if other is None else f"{subject.name} and {other.name}"
    found = tuple(sections)
    return Analysis(subject.kind, name, dict(subject.facts), found, judge(subject, found), settings)


def _read(subject: Subject, done: Progress | None, owner: str) -> Streams | None:
    if subject.codes is None:
        return None
    return gather(subject.codes, subject.labels, done, owner)


def _owners(subject: Subject, other: Subject | None) -> tuple[str, str]:
    """What tells the parts of two subjects with codes apart: names, or numbers where these are equal."""
    if other is None or subject.codes is None or other.codes is None:
        return "", ""
    if subject.name != other.name:
        return subject.name, other.name
    return "first", "second"


def _version() -> str:
    try:
        return importlib.metadata.version("vq-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _with_vectors(subject: Subject, seed: int) -> tuple[Subject, str]:
    """Codebooks in units of N(0, 1) are tried on such numbers where no others are given."""
    if subject.vectors is not None or subject.facts.get("units") != "N(0, 1)":
        return subject, ""
    if subject.quantize is None:
        return subject, ""
    dim = int(subject.facts["dim"])
    count = max(min(_GAUSSIAN_NUMBERS // dim, 1 << 15), 256)

    def draw() -> Tensor:
        return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed + 7_654_321))

    return replace(subject, vectors=draw), f"measured on {count} vectors of N(0, 1)"


def _coded(subject: Subject, seed: int) -> Coded | None:
    if subject.vectors is None:
        return None
    try:
        return code_vectors(subject, subject.vectors(), seed)
    except ValueError as error:
        raise VqError(str(error)) from error


def _of_tables(
    subject: Subject, streams: Streams | None, coded: Coded | None, seed: int
) -> Iterator[Section]:
    uses = () if streams is None else streams.uses
    for number, table in enumerate(subject.tables[:_MOST_TABLES]):
        counts = table.counts
        matches = len(uses) == len(subject.tables) and len(uses[number].counts) == len(table.values)
        if matches:
            counts = torch.from_numpy(uses[number].counts)
        yield geometry_section(table, seed, counts)
    curve = None if coded is None else stage_curve(coded)
    if coded is not None:
        yield rate_section(coded, subject)
    names = _names(subject, streams)
    if len(names) > 1:
        tables = subject.tables if subject.structure == "residual" else ()
        sample = None if streams is None else streams.sample
        if sample is None and coded is not None and coded.codes is not None:
            sample = Chunk(coded.codes.T.numpy(), np.arange(len(coded.codes)))
        yield stages_section(names, uses, sample, tables, curve, seed)


def _names(subject: Subject, streams: Streams | None) -> Sequence[str]:
    if streams is not None:
        return [streams.codes.name(q) for q in range(len(streams.codes.entries))]
    return [] if subject.structure == "one" else [table.name for table in subject.tables]


def _of_the_rest(
    subject: Subject, other: Subject | None, streams: Streams | None, seed: int
) -> Iterator[Section]:
    if streams is not None and streams.labels is not None:
        yield labels_section(streams.labels, streams.codes, seed)
    if subject.history is not None:
        yield training_section(subject.history, seed)
    if subject.layers:
        yield weights_section(subject, other)
    if other is not None and other.layers:
        yield replace(weights_section(other, subject), part=other.name)
