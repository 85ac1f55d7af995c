"""How fast are nearest codeword and Viterbi encoding on a GPU, next to plain torch on the same GPU?

python benchmarks/gpu_kernels.py --json benchmarks/results/gpu_kernels.json

Search is compared with ``torch.cdist`` + ``argmin`` (which stores points x entries) and with tiles of
``addmm`` + ``argmin`` under ``torch.compile``; Viterbi with the reference in plain torch. Each row
also says whether the answers agree.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from vq.analysis.environment import result, table, write_json
from vq.kernels import trellis_reference
from vq.kernels.dispatch import backend
from vq.kernels.search import nearest
from vq.kernels.trellis import trellis_encode

SEARCHES = [  # points, dim, entries
    (1 << 20, 2, 16), (1 << 20, 4, 256), (1 << 20, 8, 256), (1 << 18, 8, 4096), (1 << 16, 8, 65536), (256, 8, 65536),
    (1 << 18, 16, 1024), (1 << 18, 32, 1024), (1 << 16, 64, 4096), (1 << 14, 256, 16384), (64, 256, 16384),
]  # fmt: skip
TRELLISES = [  # step_bits, memory, symbols, sequences
    (2, 8, 1, 16384), (1, 12, 1, 8192), (2, 10, 1, 16384), (2, 12, 1, 8192), (3, 12, 1, 8192), (4, 12, 2, 8192),
    (2, 14, 1, 4096), (2, 16, 1, 1024), (4, 16, 2, 1024),
]  # fmt: skip
LENGTH = 256
MOST_SCORES = 1 << 32  # cdist stores one float for each: 16 GiB
TILE_SCORES = 1 << 27


def seconds(work: Callable[[], Any], device: str, repeats: int) -> float:
    """Median time of a call, after two that are not counted (the first compiles)."""
    times = []
    for turn in range(repeats + 2):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            taken = begin.elapsed_time(end) / 1000
        else:
            start = time.perf_counter()
            work()
            taken = time.perf_counter() - start
        if turn >= 2:
            times.append(taken)
    return statistics.median(times)


def best_of_tile(points: Tensor, columns: Tensor, bias: Tensor) -> Tensor:
    """Nearest column by one matrix product."""
    return torch.addmm(bias, points, columns, alpha=-1).argmin(1)


def in_tiles(x: Tensor, entries: Tensor, best: Callable[..., Tensor]) -> Tensor:
    """Nearest row by ``best`` over as many points at once as a tile of scores holds."""
    columns, bias = entries.t(), 0.5 * entries.square().sum(1)
    step = max(1, TILE_SCORES // len(entries))
    return torch.cat([best(part, columns, bias) for part in x.split(step)])


def search_row(
    shape: tuple[int, int, int], device: str, seed: int, repeats: int, best: Callable[..., Tensor]
) -> dict[str, Any]:
    """Times of one search by three ways, and how much farther than the nearest the found codeword is."""
    count, dim, entries = shape
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(count, dim, generator=generator, device=device)
    book = torch.randn(entries, dim, generator=generator, device=device)
    own = seconds(lambda: nearest(x, book), device, repeats)
    tiles = seconds(lambda: in_tiles(x, book, best), device, repeats)
    dense = None
    if count * entries <= MOST_SCORES:
        try:
            dense = seconds(lambda: torch.cdist(x, book).argmin(1), device, repeats)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
    some = x[:256]
    cost = torch.cdist(
        some.double(), book.double(), compute_mode="donot_use_mm_for_euclid_dist"
    ).square()
    found = cost.gather(1, nearest(some, book)[:, None].long())[:, 0]
    lowest = cost.min(1).values
    return {
        "op": "nearest", "points": count, "dim": dim, "entries": entries, "seconds": own,
        "seconds_tiles": tiles, "seconds_cdist": dense, "gdist_per_s": count * entries / own / 1e9,
        "times_tiles": tiles / own, "times_cdist": dense / own if dense else None,
        "largest_excess": float(((found - lowest) / lowest.clamp(min=1e-12)).max()),
    }  # fmt: skip


def trellis_row(
    shape: tuple[int, int, int, int], device: str, seed: int, repeats: int
) -> dict[str, Any]:
    """Weights a second of the kernel and of the reference, and whether their codes are the same."""
    bits, memory, symbols, count = shape
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(count, LENGTH, generator=generator, device=device)
    values = torch.randn(1 << memory, symbols, generator=generator, device=device)
    few = x[: max(1, min(count, (1 << 22) >> memory))]
    own = seconds(lambda: trellis_encode(x, values, bits, memory), device, repeats)
    plain = seconds(lambda: trellis_reference.encode(few, values, bits, memory), device, 1)
    codes = trellis_encode(few, values, bits, memory)
    return {
        "op": "trellis_encode", "step_bits": bits, "memory": memory, "symbols": symbols,
        "sequences": count, "seconds": own, "weights_per_s": x.numel() / own,
        "reference_weights_per_s": few.numel() / plain,
        "times_reference": (x.numel() / own) / (few.numel() / plain),
        "equal": torch.equal(codes, trellis_reference.encode(few, values, bits, memory)),
    }  # fmt: skip


def device_of() -> dict[str, Any]:
    """The GPU and what drives it."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda or torch.version.hip,
        "triton": metadata.version("triton"),
        "backend": backend("cuda"),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Two tables."""
    searches = [r for r in rows if r["op"] == "nearest"]
    print(table(
        ["points x dim x entries", "Gdist/s", "x tiles", "x cdist", "excess"],
        [[f"{r['points']} x {r['dim']} x {r['entries']}", f"{r['gdist_per_s']:.1f}",
          f"{r['times_tiles']:.2f}", f"{r['times_cdist']:.2f}" if r["times_cdist"] else "-",
          f"{r['largest_excess']:.1e}"] for r in searches],
    ))  # fmt: skip
    print(table(
        ["bits, memory, symbols", "weights/s", "x reference", "equal"],
        [[f"{r['step_bits']}, {r['memory']}, {r['symbols']}", f"{r['weights_per_s']:.3g}",
          f"{r['times_reference']:.1f}", str(r["equal"])] for r in rows if r["op"] != "nearest"],
    ))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", help="write the result to this file, or - for standard output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_kernels: torch sees no CUDA GPU here, so nothing was measured", file=sys.stderr)
        return 1
    if backend("cuda") != "triton":
        print(
            "gpu_kernels: tensors on the GPU are not served by triton; see vq info", file=sys.stderr
        )
        return 1
    best = torch.compile(best_of_tile, dynamic=False)
    rows = []
    for shape in SEARCHES:
        rows.append(search_row(shape, "cuda", args.seed, args.repeats, best))
        print(rows[-1], file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
    for trellis in TRELLISES:
        rows.append(trellis_row(trellis, "cuda", args.seed, args.repeats))
        print(rows[-1], file=sys.stderr, flush=True)
    if args.json:
        write_json({"device": device_of(), **result(rows, args.seed)}, args.json)
    if args.json != "-":
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
