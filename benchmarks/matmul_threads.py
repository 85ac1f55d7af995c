"""How do packed layers scale from one thread to two? Wall time, calls interleaved, medians.

python benchmarks/matmul_threads.py --json benchmarks/results/matmul_threads.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from vq.analysis.bench.matmul import copies_of
from vq.analysis.environment import result, table, write_json
from vq.cli.bench_matmul import random_layer
from vq.cli.common import progress
from vq.codebooks import build
from vq.compressors.layers.linear import QuantizedLinear

FORMATS = (
    "trellis(bits=2, memory=12, code=hash)",
    "trellis(bits=2, memory=12, code=hash, levels=16)",
    "e8p",
    "additive(stages=2, dim=8, entries=256)",
    "scalar(bits=2)",
    "scalar(bits=4)",
)
COLUMNS = ("format", "shape", "batch", "weights", "threads", "ms", "times", "of ideal")


def layers_of(spec: str, shape: tuple[int, int], hot: bool, seed: int) -> list[QuantizedLinear]:
    """Copies of a random layer: one where it stays in cache, else as many as leave every cache."""
    out, width = shape
    first: QuantizedLinear = random_layer(build(spec), out, width, seed)
    layers = [first]
    for _ in range(copies_of(first.weight.numel(), hot) - 1):
        other = QuantizedLinear(width, out, first.codebook)
        other.weight, other.scales, other.signs_in = (
            first.weight.clone(),
            first.scales,
            first.signs_in,
        )
        layers.append(other)
    return layers


@torch.inference_mode()
def scaling(
    layers: list[QuantizedLinear], x: torch.Tensor, threads: list[int], rounds: int
) -> dict[int, list[float]]:
    """Seconds by the clock of each call for each number of threads, which take turns in a turning order.

    The first call after a change of threads is not timed: it wakes or makes the workers.
    """
    times: dict[int, list[float]] = {count: [] for count in threads}
    turn = 0
    for round_ in range(rounds + 2):
        order = threads[round_ % len(threads) :] + threads[: round_ % len(threads)]
        for count in order:
            torch.set_num_threads(count)
            layers[turn % len(layers)](x)
            start = time.perf_counter()
            layers[(turn + 1) % len(layers)](x)
            seconds = time.perf_counter() - start
            turn += 2
            if round_ >= 2:
                times[count].append(seconds)
    return times


def rows_of(spec: str, shape: tuple[int, int], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of a format and shape: hot and streaming, each batch, each number of threads."""
    rows, generator = [], torch.Generator().manual_seed(args.seed)
    for hot in (True, False):
        layers = layers_of(spec, shape, hot, args.seed)
        for batch in args.batch:
            x = torch.randn(batch, shape[1], generator=generator)
            for layer in layers:
                layer.mode = args.mode
                layer(x)
            times = scaling(layers, x, args.threads, args.rounds)
            first = times[args.threads[0]]
            for count, own in times.items():
                gain = statistics.median(a / b for a, b in zip(first, own, strict=True))
                rows.append(
                    {
                        "format": f"{spec} {args.mode}",
                        "out": shape[0],
                        "in": shape[1],
                        "batch": batch,
                        "hot": hot,
                        "threads": count,
                        "ms": statistics.median(own) * 1e3,
                        "times_faster": gain,
                        "kernel": layers[0].explain(batch),
                    }
                )
    return rows


def cells(row: dict[str, Any], fewest: int) -> list[str]:
    """A line of the table."""
    return [
        row["format"],
        f"{row['out']}x{row['in']}",
        str(row["batch"]),
        "hot" if row["hot"] else "streaming",
        str(row["threads"]),
        f"{row['ms']:.3f}",
        f"{row['times_faster']:.2f}",
        f"{row['times_faster'] * fewest / row['threads']:.0%}",
    ]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=FORMATS, metavar="SPEC")
    parser.add_argument("--shape", nargs="+", default=["4096x4096"], metavar="OUTxIN")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--mode", default="int8", choices=("int8", "int15", "float"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if min(*args.threads, *args.batch, args.rounds) < 1 or len(set(args.threads)) < len(
        args.threads
    ):
        parser.error(
            "--threads, --batch and --rounds take positive numbers, and --threads each once"
        )
    return args


def main() -> None:
    """Measure, print, write."""
    args = parse()
    shapes = [tuple(int(part) for part in text.split("x")) for text in args.shape]
    cases = [(spec, shape) for shape in shapes for spec in args.formats]
    done, close = progress(len(cases), "threads", "case")
    before, rows = torch.get_num_threads(), []
    try:
        for index, (spec, shape) in enumerate(cases):
            rows += rows_of(spec, (shape[0], shape[1]), args)
            done(index + 1)
    finally:
        close()
        torch.set_num_threads(before)
    data = result(rows, args.seed) | {"threads": args.threads}
    if args.json:
        write_json(data, args.json)
    machine = data["machine"]
    print(
        f"{machine['cpu']}, {machine['cores']} cores, torch {data['versions']['torch']}, seed {args.seed}"
    )
    print(table(list(COLUMNS), [cells(row, args.threads[0]) for row in rows]))


if __name__ == "__main__":
    main()
