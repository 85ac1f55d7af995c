"""How fast is a packed linear layer next to torch's own?

Prints a table and writes JSON. Every time is a median of calls that alternate in one process; by default
each call reads another copy of its matrix, so that weights stream from memory as they do when a language
model writes.

    python benchmarks/matvec.py --out 4096 --in 4096 --batch 1 4 16 --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from vq.analysis import environment
from vq.kernels import decode, formats, layouts
from vq.kernels import linear as ops
from vq.kernels.dispatch import backend, native
from vq.kernels.formats import HASH_CODE, TILES, PackedHeader
from vq.kernels.hadamard import hadamard

STREAM_BYTES = 400 << 20  # copies of a matrix that together leave every cache


@dataclass(frozen=True)
class Row:
    """One measured case; ratios are torch's time over ours."""

    format: str
    out: int
    # `in` is a keyword: the JSON field is renamed on writing
    width: int
    batch: int
    threads: int
    ms: float
    gbps: float
    ratio_fp32: float
    ratio_bf16: float
    rel_error: float
    kernel: str


@dataclass(frozen=True)
class Packed:
    """Copies of a random packed matrix and the rest of its layer."""

    header: PackedHeader
    weights: list[Tensor]
    scales: Tensor
    signs: Tensor
    levels: Tensor


def level_table(count: int) -> Tensor:
    """Levels as the hash code has them: 64, or 32 or 16 odd ones of six bits, repeated; int8 ``(64,)``."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(count) + 0.5) / count)
    if count == 64:
        return (quantiles * 40).round().to(torch.int8)
    odd = ((quantiles / quantiles[-1] * 63 + 63) / 2).round() * 2 - 63
    return odd.to(torch.int8).repeat(64 // count)


def random_packed(
    bits: int, memory: int, levels: int, shape: tuple[int, int], *, copies: int, seed: int
) -> Packed:
    """A hash-coded layer with random codes: its speed does not depend on what the codes are."""
    generator = torch.Generator().manual_seed(seed)
    out, width = shape
    header = PackedHeader(
        TILES,
        out,
        width,
        code_bits=2 * bits,
        dim=256,
        memory=memory,
        symbols=2,
        code=HASH_CODE,
        codes_per_vector=128,
        hash_constant=36547,
        step=0.025,
    )
    size = (header.payload_bytes,)
    payload = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    first = formats.assemble(header, payload)
    return Packed(
        header,
        [first.clone() for _ in range(copies)],
        (torch.rand(out, generator=generator) + 0.5).half(),
        layouts.pack_signs(torch.rand(width, generator=generator) < 0.5),
        level_table(levels),
    )


def timed(cases: dict[str, Callable[[int], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each case; case(i) is given the number of the call.

    Calls alternate and the order turns every round, so that each case follows each other one. One thread is
    measured in its own processor time, which other programs disturb less; several by the clock.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for i in range(repeats + 2):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            cases[name](i)
            if i >= 2:
                times[name].append(clock() - start)
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}


def copies_of(size: int, stream: bool) -> int:
    """Copies of a matrix of so many bytes that no cache holds them all."""
    return max(2, min(128, -(-STREAM_BYTES // size))) if stream else 1


def measure(
    bits: int, shape: tuple[int, int], batches: list[int], options: argparse.Namespace
) -> Iterator[Row]:
    """Rows for every batch and mode of one format and shape; options are those of the command line."""
    stream, (out, width) = not options.cached, shape
    copies = copies_of(out * width * bits // 8, stream)
    packed = random_packed(
        bits, options.memory, options.levels, shape, copies=copies, seed=options.seed
    )
    short = "" if options.levels == 64 else f", levels={options.levels}"
    generator = torch.Generator().manual_seed(options.seed)
    full = torch.randn(out, width, generator=generator)
    dense = {
        "fp32": [full.clone() for _ in range(copies_of(full.numel() * 4, stream))],
        "bf16": [full.bfloat16() for _ in range(copies_of(full.numel() * 2, stream))],
    }
    for batch in batches:
        x = torch.randn(batch, width, generator=generator)
        ms = timed(cases_of(packed, dense, x, options.modes), options.repeats)
        for mode in options.modes:
            yield Row(
                f"trellis(bits={bits}, memory={options.memory}, code=hash{short}) {mode}",
                out,
                width,
                batch,
                torch.get_num_threads(),
                ms[mode],
                packed.header.total_bytes / ms[mode] / 1e6,
                ms["fp32"] / ms[mode],
                ms["bf16"] / ms[mode],
                relative_error(packed, x, call(packed, x, mode, 0)),
                kernel_name(packed.header, batch, mode),
            )


def call(packed: Packed, x: Tensor, mode: str, i: int) -> Tensor:
    """One layer; call i reads copy i."""
    weight = packed.weights[i % len(packed.weights)]
    return ops.quick_linear(x, weight, packed.scales, packed.signs, None, packed.levels, mode)


def cases_of(
    packed: Packed, dense: dict[str, list[Tensor]], x: Tensor, modes: list[str]
) -> dict[str, Callable[[int], object]]:
    """What is timed: torch in two precisions, and ours in every mode."""

    def torchs(name: str) -> Callable[[int], object]:
        matrices = dense[name]
        value = x.to(matrices[0].dtype)
        return lambda i: torch.nn.functional.linear(value, matrices[i % len(matrices)])

    def ours(mode: str) -> Callable[[int], object]:
        return lambda i: call(packed, x, mode, i)

    return {name: torchs(name) for name in dense} | {mode: ours(mode) for mode in modes}


def relative_error(packed: Packed, x: Tensor, y: Tensor) -> float:
    """Root mean square error of y relative to the dense matrix in float64."""
    head, weight = packed.header, packed.weights[0]
    dense = decode.decode_rows(weight, head, packed.levels, 0, head.out_features).double()
    exact = hadamard(x.double(), packed.signs, None) @ dense.T * packed.scales.double()
    return float((y.double() - exact).norm() / exact.norm())


def kernel_name(header: PackedHeader, batch: int, mode: str) -> str:
    """What served the call."""
    module = native() if backend() == "cpu" else None
    isa = "reference" if module is None else str(module.isa())
    return f"{isa} {mode if ops.integer_mode(header, batch, mode) else 'panels'}"


def report(rows: list[Row], options: argparse.Namespace) -> dict[str, object]:
    """What is written as JSON."""
    fields = []
    for row in rows:
        entry = asdict(row)
        entry["in"] = entry.pop("width")
        fields.append(entry)
    return {**environment.result(fields, options.seed), "streaming": not options.cached}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=int, nargs="+", default=[4096])
    parser.add_argument("--in", type=int, nargs="+", default=[4096], dest="width")
    parser.add_argument("--bits", type=int, nargs="+", default=[2], choices=[1, 2, 3, 4])
    parser.add_argument("--memory", type=int, default=12)
    parser.add_argument("--levels", type=int, default=64, choices=[64, 32, 16])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--modes", nargs="+", default=["int8", "int15"], choices=ops.MODES)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cached", action="store_true", help="one matrix again and again")
    parser.add_argument("--isa", choices=["portable", "avx2", "avx512"])
    parser.add_argument("--json", metavar="FILE", help="file to write")
    return parser.parse_args(arguments)


def line(row: Row) -> str:
    """One line of the table."""
    shape = f"{row.out}x{row.width}"
    return (
        f"{row.format:58} {shape:>11} {row.batch:5} {row.threads:3} {row.ms:7.3f} {row.gbps:6.1f} "
        f"{row.ratio_fp32:7.2f} {row.ratio_bf16:7.2f} {row.rel_error:7.1e}  {row.kernel}"
    )


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    module = native()
    if options.isa and module is not None:
        module.set_isa(options.isa)
    print(f"{environment.machine()['cpu']}, torch {torch.__version__}, seed {options.seed}")
    print(f"{'format':58} {'shape':>11} batch thr      ms   GB/s  x fp32  x bf16   error  kernel")
    rows = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for shape in zip(options.out, options.width, strict=True):
            for bits in options.bits:
                for row in measure(bits, shape, options.batch, options):
                    rows.append(row)
                    print(line(row), flush=True)
    if options.json:
        environment.write_json(report(rows, options), options.json)


if __name__ == "__main__":
    main()
