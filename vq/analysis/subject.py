"""What a path turned out to be, in a form that the measurements take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

Kind = Literal["codebook", "tokenizer", "run", "tokens", "model", "foreign", "vectors"]


@dataclass(frozen=True, eq=False)
class Table:
    """One table of code vectors.

    Attributes:
        name: its part of the subject: "" where it is the only one, else "stage 0", "group 1", a layer's name.
        values: float32 ``(entries, dim)``.
        cosine: whether directions alone count (rows are used at length 1).
        counts: use of each entry ``(entries,)`` as the file records it (a moving average), None where it does not.
    """

    name: str
    values: Tensor
    cosine: bool = False
    counts: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Chunk:
    """A piece of the code streams.

    Attributes:
        codes: integers ``(Q, n)``; -1 is nothing.
        starts: sorted places in ``0 .. n - 1`` where a new item (a picture, a recording) begins; pairs and runs do not
            go over them. A chunk that goes on with the item of the chunk before does not hold 0.
    """

    codes: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True, eq=False)
class Codes:
    """Streams of codes that can be read any number of times, in bounded pieces.

    Attributes:
        entries: values each of the Q codes can take.
        read: makes a fresh iterator over the chunks.
        positions: how many positions there are in all, where it is known.
        items: how many items.
        names: of the Q streams: "stage 0", ...; empty for one without a name.
        row: codes of one row of a picture, where all have the same width; else None.
    """

    entries: tuple[int, ...]
    read: Callable[[], Iterator[Chunk]]
    positions: int | None = None
    items: int | None = None
    names: tuple[str, ...] = ()
    row: int | None = None

    def name(self, q: int) -> str:
        """Name of a stream."""
        if self.names:
            return self.names[q]
        return "" if len(self.entries) == 1 else f"code {q}"


@dataclass(frozen=True, eq=False)
class Layer:
    """One quantized weight matrix.

    Attributes:
        name: of the layer.
        shape: (out, in).
        spec: of its codebook, as text.
        bits: stored bits by part: "codes", "scales", "signs", "header", ...
        report: what the compressor wrote of it: ``proxy_error``, ``damping``, ``tokens``, ...
        dense: reads the matrix float32 ``(out, in)`` as it is used; None where that is not possible.
        units: reads what the codebook made, before scales and rotation, float32 ``(out, in)``.
        rotate: takes a dense matrix ``(out, in)`` to the rotated space, scales left out; None without rotation.
    """

    name: str
    shape: tuple[int, int]
    spec: str
    bits: Mapping[str, int]
    report: Mapping[str, Any] = field(default_factory=dict)
    dense: Callable[[], Tensor] | None = None
    units: Callable[[], Tensor] | None = None
    rotate: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class History:
    """Logs of a training run.

    Attributes:
        scalars: by name, pairs of step and value, steps rising.
        tables: by step, the tables of a checkpoint, steps rising; reads them when called.
    """

    scalars: Mapping[str, tuple[tuple[int, float], ...]]
    tables: tuple[tuple[int, Callable[[], tuple[Table, ...]]], ...] = ()


@dataclass(frozen=True, eq=False)
class Subject:
    """What there is to be measured; what is not there stays empty, and its measurements are left out.

    Attributes:
        kind: "codebook", "tokenizer", "run" (of training), "tokens" (shards), "model" (compressed weights),
            "foreign" (another library's file), "vectors" (data).
        name: for people.
        path: where it was found.
        facts: plain values for JSON: spec, library, bits, hashes, ...
        tables: of code vectors, by stage or group.
        structure: how the tables make one vector: "one", "residual" (they add up), "grouped" (they stand side by side).
        codes: streams of codes.
        vectors: reads vectors float32 ``(n, dim)`` that the codebook stands for.
        encode: codes ``(n, Q)`` of vectors ``(n, dim)``; None: nearest row, stage by stage or group by group.
        quantize: values ``(n, dim)`` of vectors, where tables do not tell (lattices, trellises); None: from the tables.
        layers: quantized matrices.
        weights: unquantized matrices by name, each a reader; what a compressed model is compared with.
        history: of training.
        labels: integers ``(positions,)``, one for each position of the codes, -1 for none; or ``(positions, factors)``.
    """

    kind: Kind
    name: str
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    structure: Literal["one", "residual", "grouped"] = "one"
    codes: Codes | None = None
    vectors: Callable[[], Tensor] | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    quantize: Callable[[Tensor], Tensor] | None = None
    layers: tuple[Layer, ...] = ()
    weights: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    history: History | None = None
    labels: np.ndarray | None = None
