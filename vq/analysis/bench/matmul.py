"""How fast is a packed linear layer? Ours next to torch in float32 and bfloat16, call by call in one process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

SHAPES = ((4096, 4096), (4096, 11008), (11008, 4096), (576, 1536))  # out, in
BATCHES = (1, 4, 16, 64)
MORE_BATCHES = (1, 4, 8, 16, 32, 64, 256)  # of the first shape
FORMATS = (
    "trellis(bits=2, memory=12, code=hash)",
    "trellis(bits=2, memory=12, code=hash, levels=16)",
    "trellis(bits=2, memory=16, code=hash)",
    "e8p",
    "additive(stages=2, dim=8, entries=256)",
    "kmeans(dim=4, entries=256)",
    "scalar(bits=2)",
    "scalar(bits=4)",
)
MODES = ("int8", "int15")
COLUMNS = (
    "format", "shape", "batch", "thr", "ms", "GB/s", "of read", "x fp32", "x bf16", "error", "kernel",
)  # fmt: skip

_STREAM_BYTES = 400 << 20  # copies of a matrix that together leave every cache
_READ_BYTES = 384 << 20  # what the read bandwidth is measured on
_MOST_COPIES = 128
_ROUNDS = (7, 60)  # fewest and most of a case, within ...
_SECONDS = 2.0
_PANEL = 1024  # rows of the exact product at once
Row = dict[str, Any]


class Layer(Protocol):
    """What is measured: a ``vq.compressors.layers.linear.QuantizedLinear`` without a bias."""

    weight: Tensor
    mode: str

    def __call__(self, x: Tensor, /) -> Tensor:
        """``(batch, in)`` to ``(batch, out)``."""

    def explain(self, rows: int = 1) -> str:
        """Which kernel serves."""

    def dequantize(self) -> Tensor:
        """The matrix the layer multiplies by, ``(out, in)``."""


@dataclass(frozen=True)
class Plan:
    """What to measure of every format.

    Attributes:
        shapes: (out, in) of the matrices.
        batches: rows of x; None for BATCHES, and MORE_BATCHES of the first of SHAPES.
        threads: CPU threads, one after the other.
        modes: of the layer's activations.
        hot: use one matrix again and again instead of copies that stream from memory.
        rounds: of a case; None for as many as fit two seconds, 7 to 60.
        seed: of x and the dense matrix.
    """

    shapes: Sequence[tuple[int, int]] = SHAPES
    batches: Sequence[int] | None = None
    threads: Sequence[int] = (1,)
    modes: Sequence[str] = MODES
    hot: bool = False
    rounds: int | None = None
    seed: int = 0

    def cases(self, formats: int) -> int:
        """Number of measured cases for so many formats; each gives a row for every mode."""
        batches = sum(len(self.batches_of(shape)) for shape in self.shapes)
        return formats * batches * len(self.threads)

    def batches_of(self, shape: tuple[int, int]) -> Sequence[int]:
        """Rows of x for a shape of the matrix."""
        if self.batches is not None:
            return self.batches
        return MORE_BATCHES if shape == SHAPES[0] else BATCHES


def measure(
    formats: Sequence[str],
    plan: Plan,
    build: Callable[[str, int, int, int], list[Layer]],
    done: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """Rows for every format, shape, number of threads, batch and mode.

    Calls of torch and ours alternate round by round, and the order turns. With one thread a time is that thread's
    processor time, which other programs disturb least; with more, time by the clock. Round i reads copy i of each
    matrix, so that weights stream from memory, as they do when a language model writes.

    Args:
        formats: specs of codebooks.
        plan: the rest of what is asked for.
        build: from spec, out, in and a number of copies to that many layers, equal, each weight in its own memory.
        done: hears of each case's rows.

    Returns:
        ``format`` (spec and mode), ``out``, ``in``, ``batch``, ``threads``, ``ms`` (median), ``gbps`` (1e9 packed bytes
        a second), ``ratio_fp32`` and ``ratio_bf16`` (torch's time over ours: median of the rounds' ratios),
        ``rel_error`` (root mean square, against the decoded matrix times x in float64), ``kernel``.
    """
    before, rows = torch.get_num_threads(), []
    try:
        for shape in plan.shapes:
            dense = _dense(shape, plan)
            for spec in formats:
                for found in _of_format(spec, shape, dense, plan, build):
                    done(found)
                    rows += found
    finally:
        torch.set_num_threads(before)
    return rows


def copies_of(size: int, hot: bool) -> int:
    """Copies of a matrix of so many bytes that no cache holds them all."""
    return 1 if hot else max(2, min(_MOST_COPIES, -(-_STREAM_BYTES // size)))


def read_gbps(size: int = _READ_BYTES, rounds: int = 5) -> float:
    """1e9 bytes a second that this process reads from memory, with torch's threads.

    The faster of ``torch.sum`` and ``torch.dot`` (of a vector with itself) over one float32 vector that no cache
    holds; the best of the rounds, since it is a limit.

    Args:
        size: bytes of the vector.
        rounds: how often each is tried.
    """
    x = torch.ones(size // 4)
    clock, best = _clock(), math.inf
    for work in (x.sum, lambda: torch.dot(x, x)) * rounds:
        start = clock()
        work()
        best = min(best, clock() - start)
    return x.numel() * 4 / best / 1e9


def cells(row: Row, read: float) -> list[str]:
    """Cells of a row, in the order of COLUMNS; ``read`` is the bandwidth that ``of read`` refers to."""
    return [
        row["format"],
        f"{row['out']}x{row['in']}",
        str(row["batch"]),
        str(row["threads"]),
        f"{row['ms']:.3f}",
        f"{row['gbps']:.2f}",
        f"{row['gbps'] / read:.0%}",
        f"{row['ratio_fp32']:.2f}",
        f"{row['ratio_bf16']:.2f}",
        f"{row['rel_error']:.1e}",
        row["kernel"],
    ]


def _clock() -> Callable[[], float]:
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def _dense(shape: tuple[int, int], plan: Plan) -> dict[str, list[Tensor]]:
    """Copies of one random matrix in torch's two precisions; what is in it does not matter."""
    full = torch.randn(shape, generator=torch.Generator().manual_seed(plan.seed))
    count = full.numel()
    return {
        "fp32": [full.clone() for _ in range(copies_of(count * 4, plan.hot))],
        "bf16": [full.bfloat16() for _ in range(copies_of(count * 2, plan.hot))],
    }


@torch.no_grad()
def _of_format(
    spec: str,
    shape: tuple[int, int],
    dense: dict[str, list[Tensor]],
    plan: Plan,
    build: Callable[[str, int, int, int], list[Layer]],
) -> Iterator[list[Row]]:
    """Rows of each number of threads and batch."""
    size = build(spec, *shape, 1)[0].weight.numel()
    layers = build(spec, *shape, copies_of(size, plan.hot))
    generator = torch.Generator().manual_seed(plan.seed + 1)
    batches = plan.batches_of(shape)
    inputs = torch.randn(max(batches), shape[1], generator=generator)
    exact = _exact(layers[0], inputs)
    for threads in plan.threads:
        torch.set_num_threads(threads)
        for batch in batches:
            yield _case(spec, layers, dense, inputs[:batch], exact[:batch], plan)


def _case(
    spec: str,
    layers: list[Layer],
    dense: dict[str, list[Tensor]],
    x: Tensor,
    exact: Tensor,
    plan: Plan,
) -> list[Row]:
    """Rows of all modes for one input."""
    times = timed(_calls(layers, dense, x, plan.modes), plan.rounds)
    rows, batch = [], len(x)
    for mode in plan.modes:
        layers[0].mode = mode
        own = statistics.median(times[mode])
        rows.append(
            {
                "format": f"{spec} {mode}",
                "out": exact.shape[1],
                "in": x.shape[1],
                "batch": batch,
                "threads": torch.get_num_threads(),
                "ms": own * 1e3,
                "gbps": layers[0].weight.numel() / own / 1e9,
                "ratio_fp32": _ratio(times["fp32"], times[mode]),
                "ratio_bf16": _ratio(times["bf16"], times[mode]),
                "rel_error": float((layers[0](x).double() - exact).norm() / exact.norm()),
                "kernel": layers[0].explain(batch),
            }
        )
    return rows


def _calls(
    layers: list[Layer], dense: dict[str, list[Tensor]], x: Tensor, modes: Sequence[str]
) -> dict[str, Callable[[int], object]]:
    """What is timed; call i reads copy i."""

    def torchs(matrices: list[Tensor]) -> Callable[[int], object]:
        """A call of torch on copies of a dense matrix."""
        value = x.to(matrices[0].dtype)
        return lambda i: torch.nn.functional.linear(value, matrices[i % len(matrices)])

    def ours(mode: str) -> Callable[[int], object]:
        """A call of the packed layers in one activation mode."""
        # no mode finds in cache what another read
        apart = modes.index(mode) * len(layers) // len(modes)

        def call(i: int) -> object:
            """Multiply by copy i, counted from a place of this mode's own."""
            layer = layers[(i + apart) % len(layers)]
            layer.mode = mode
            return layer(x)

        return call

    for layer in layers:  # each checks its weight, and may prepare it, when it is first used
        for mode in modes:
            layer.mode = mode
            layer(x)
    return {name: torchs(matrices) for name, matrices in dense.items()} | {
        m: ours(m) for m in modes
    }


def timed(
    calls: dict[str, Callable[[int], object]], rounds: int | None = None
) -> dict[str, list[float]]:
    """Seconds of each call in each round; the order turns, so that each follows each other one.

    Args:
        calls: what to time; a call is given its number, no number twice.
        rounds: how many count (two more warm up); None for as many as fit two seconds, 7 to 60.
    """
    clock, names = _clock(), list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    fewest, most = _ROUNDS if rounds is None else (rounds, rounds)
    turn, begun = 0, time.perf_counter()
    while turn < most + 2:
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            call = calls[name]
            start = clock()
            call(turn)
            times[name].append(clock() - start)
        turn += 1
        if turn >= fewest + 2 and time.perf_counter() - begun > _SECONDS and rounds is None:
            break
    return {name: own[2:] for name, own in times.items()}


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _exact(layer: Layer, x: Tensor) -> Tensor:
    """The product in float64, by panels."""
    wide = x.double()
    parts = [wide @ panel.double().T for panel in layer.dequantize().split(_PANEL)]
    return torch.cat(parts, dim=1)
