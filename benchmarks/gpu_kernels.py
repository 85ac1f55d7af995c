"""How fast are the kernels on a GPU, next to plain torch on the same GPU?

python benchmarks/gpu_kernels.py --json benchmarks/results/gpu_kernels.json

Search is compared with ``torch.cdist`` + ``argmin`` (which stores points x entries) and with tiles of
``addmm`` + ``argmin`` under ``torch.compile``; Viterbi with the reference in plain torch. Packed layers, as they are
called and replayed from a CUDA graph, are compared with ``torch.nn.functional.linear`` in the same number format (in a
graph too), rotations with the reference. Launch shapes of packed layers are tried first, and the fastest is written
down. Each row also says whether the answers agree.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from vq.analysis.environment import result, table, write_json
from vq.cli.bench_matmul import random_layer
from vq.codebooks import build
from vq.kernels import trellis_reference
from vq.kernels.dispatch import backend
from vq.kernels.hadamard import hadamard
from vq.kernels.hadamard import reference as rotate_reference
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
LAYERS = (
    "trellis(bits=2, memory=12, code=hash)", "trellis(bits=2, memory=16, code=hash)",
    "trellis(bits=3, memory=12, code=hash)", "trellis(bits=4, memory=12, code=hash)",
    "trellis(bits=2, memory=12, code=random)", "e8p", "additive(stages=2, dim=8, entries=256)",
    "kmeans(dim=4, entries=256)", "kmeans(dim=8, entries=65536)",
    "scalar(bits=2)", "scalar(bits=3)", "scalar(bits=4)",
)  # fmt: skip
SHAPES = [(4096, 4096), (11008, 4096), (4096, 11008)]  # out, in
BATCHES = (1, 4, 16, 64, 2048)
ROTATIONS = [(1, 4096), (16, 11008), (2048, 4096)]  # rows, width
LENGTH = 256
MOST_SCORES = 1 << 32  # cdist stores one float for each: 16 GiB
TILE_SCORES = 1 << 27


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


def in_graph(work: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A replay of the call from a CUDA graph; the call itself where there is no GPU."""
    if device != "cuda":
        return work
    work()  # compiles, and reads headers
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@torch.no_grad()
def layer_rows(
    spec: str,
    shape: tuple[int, int],
    batches: tuple[int, ...],
    device: str,
    seed: int,
    repeats: int,
) -> list[dict[str, Any]]:
    """Times of a packed layer that rotates its input, in float16, next to a dense one of the same shape."""
    from vq.kernels.triton.tuning import tune

    book = build(spec)
    layer = random_layer(book, *shape, seed).to(device)
    book.to(device)
    dense = layer.dequantize()
    half, rows = dense.half(), []
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(1, shape[1], generator=generator).to(device).half()
    arguments = (layer.weight, layer.scales, layer.signs_in, layer.signs_out, layer._table())
    shapes = (
        {}
        if layer._by_codebook
        else tune(few, *arguments, "int8", lambda work: seconds(work, device, repeats))
    )
    for batch in batches:
        x = torch.randn(batch, shape[1], generator=generator).to(device).half()
        own, torchs = (lambda x=x: layer(x)), (lambda x=x: torch.nn.functional.linear(x, half))
        exact = x.double() @ dense.double().T
        times = [seconds(work, device, repeats) for work in (own, torchs)]
        graphs = [seconds(in_graph(work, device), device, repeats) for work in (own, torchs)]
        rows.append({
            "op": "packed_linear", "format": str(book.spec), "out": shape[0], "in": shape[1], "batch": batch,
            "seconds": times[0], "seconds_graph": graphs[0],
            "seconds_torch": times[1], "seconds_torch_graph": graphs[1],
            "gbps": layer.weight.numel() / graphs[0] / 1e9, "times_torch": times[1] / times[0],
            "times_torch_graph": graphs[1] / graphs[0],
            "rel_error": float((own().double() - exact).norm() / exact.norm()),
            "launch": str(min(shapes, key=lambda s: shapes[s])) if shapes else None,
        })  # fmt: skip
    return rows


def rotation_row(shape: tuple[int, int], device: str, seed: int, repeats: int) -> dict[str, Any]:
    """Times of the Hadamard transform and of its reference."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    own = seconds(lambda: hadamard(x, None, None), device, repeats)
    plain = seconds(lambda: rotate_reference(x, None, None), device, repeats)
    exact = rotate_reference(x.double(), None, None)
    error = float((hadamard(x, None, None).double() - exact).norm() / exact.norm())
    return {
        "op": "hadamard", "rows": shape[0], "width": shape[1], "seconds": own,
        "gbps": 8 * x.numel() / own / 1e9, "times_reference": plain / own, "rel_error": error,
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
    """A table for each operation."""
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
          f"{r['times_reference']:.1f}", str(r["equal"])] for r in rows if r["op"] == "trellis_encode"],
    ))  # fmt: skip
    print(table(
        ["packed layer", "shape", "batch", "us", "in a graph", "GB/s", "x float16", "in a graph", "error"],
        [[r["format"], f"{r['out']}x{r['in']}", str(r["batch"]), f"{1e6 * r['seconds']:.1f}",
          f"{1e6 * r['seconds_graph']:.1f}", f"{r['gbps']:.0f}", f"{r['times_torch']:.2f}",
          f"{r['times_torch_graph']:.2f}", f"{r['rel_error']:.1e}"] for r in rows if r["op"] == "packed_linear"],
    ))  # fmt: skip
    print(table(
        ["rotation", "us", "GB/s", "x reference", "error"],
        [[f"{r['rows']} x {r['width']}", f"{1e6 * r['seconds']:.1f}", f"{r['gbps']:.0f}",
          f"{r['times_reference']:.1f}", f"{r['rel_error']:.1e}"] for r in rows if r["op"] == "hadamard"],
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
    for layer in itertools.product(LAYERS, SHAPES):
        rows += layer_rows(*layer, BATCHES, "cuda", args.seed, args.repeats)
        print(rows[-1], file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
    rows += [rotation_row(rotation, "cuda", args.seed, args.repeats) for rotation in ROTATIONS]
    if args.json:
        write_json({"device": device_of(), **result(rows, args.seed)}, args.json)
    if args.json != "-":
        show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
