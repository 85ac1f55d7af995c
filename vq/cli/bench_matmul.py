"""``vq bench matmul``: packed linear layers next to torch, every format, shape and batch."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from vq.analysis.bench import matmul as bench
from vq.analysis.environment import result, table, write_json
from vq.cli.common import progress
from vq.codebooks import build
from vq.codebooks.base import Codebook
from vq.errors import VqError

_SAMPLES = {True: 4096, False: 64}  # vectors encoded for families whose codes cannot be drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq bench matmul``."""
    parser.add_argument(
        "formats",
        nargs="*",
        metavar="SPEC",
        help="codebooks, before the options (default: one of each kind)",
    )
    parser.add_argument(
        "--shape",
        type=_shape,
        nargs="+",
        default=bench.SHAPES,
        metavar="OUTxIN",
        dest="shapes",
        help="of the matrices (default: 4096x4096 4096x11008 11008x4096 576x1536)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        nargs="+",
        dest="batches",
        metavar="N",
        help="rows of x (default: 1 4 16 64, of 4096x4096 also 8 32 256)",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="(default: 1)")
    parser.add_argument(
        "--modes",
        nargs="+",
        default=bench.MODES,
        choices=("int8", "int15", "float"),
        help="of the activations (default: int8 int15)",
    )
    parser.add_argument(
        "--group",
        type=int,
        default=0,
        metavar="N",
        help="columns that share a scale, such as 128, for codebooks with tables (default: 0, one scale a row)",
    )
    parser.add_argument(
        "--hot",
        action="store_true",
        help="use one matrix again and again; by default weights stream from memory",
    )
    parser.add_argument(
        "--isa", metavar="NAME", help="force an instruction set: portable, avx2, avx512, ..."
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="rounds of a case (default: what fits 2 s, 7 to 60)",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE (or print it)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    from vq.compressors.layers.header import header_for

    _check(args)
    formats = [str(build(spec).spec) for spec in args.formats or bench.FORMATS]
    plan = bench.Plan(
        args.shapes, args.batches, args.threads, args.modes, args.hot, args.repeats, args.seed
    )
    for spec in formats if args.group else ():
        header_for(build(spec), 1, 1, args.group)  # a ValueError says what is wrong
    before = _force(args.isa)
    done, close = progress(plan.cases(len(formats)), "matmul", "case")
    count = iter(range(1, plan.cases(len(formats)) + 1))
    try:
        torch.set_num_threads(args.threads[0])
        read = bench.read_gbps()
        make = _builder(args.seed, args.group)
        rows = bench.measure(formats, plan, make, lambda _: done(next(count)))
    finally:
        close()
        _force(before)
    data = {**result(rows, args.seed), "threads": args.threads, "streaming": not args.hot}
    data["read_gbps"] = read
    if args.group:
        data["group"] = args.group
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(_summary(data))
        print(table(list(bench.COLUMNS), [bench.cells(row, read) for row in rows]))


def _summary(data: dict[str, Any]) -> str:
    how = "streaming from memory" if data["streaming"] else "in cache where they fit"
    return (
        f"{data['machine']['cpu']}, torch {data['versions']['torch']}, seed {data['seed']}, "
        f"weights {how}; memory reads {data['read_gbps']:.1f} GB/s with {data['threads'][0]} thread(s)"
    )


def _shape(text: str) -> tuple[int, int]:
    try:
        out, width = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected OUTxIN, as 4096x11008, got {text!r}") from None
    if out < 1 or width < 1:
        raise argparse.ArgumentTypeError(f"expected positive sizes, got {text!r}")
    return out, width


def _check(args: argparse.Namespace) -> None:
    for name in ("batches", "threads"):
        if min(getattr(args, name) or [1]) < 1:
            raise VqError(f"--{name.removesuffix('es')}: expected at least 1")
    if args.repeats is not None and args.repeats < 1:
        raise VqError(f"--repeats: expected at least 1, got {args.repeats}")


def _force(isa: str | None) -> str | None:
    """Set the instruction set of the compiled kernels; returns the one before, None where nothing was asked."""
    from vq.kernels.dispatch import native

    if isa is None:
        return None
    module = native()
    if module is None:
        raise VqError("--isa: the compiled kernels are not installed; see vq info")
    before = str(module.isa())
    module.set_isa(isa)  # a ValueError says which there are
    return before


def _builder(seed: int, group: int = 0) -> Any:
    """Makes copies of a layer of random codes; the last one is kept, since it is asked for twice."""
    from vq.compressors.layers.linear import QuantizedLinear

    kept: dict[tuple[str, int, int], QuantizedLinear] = {}

    def copies(spec: str, out: int, width: int, count: int) -> list[bench.Layer]:
        """So many layers of equal codes, each at addresses of its own."""
        key = (spec, out, width)
        if key not in kept:
            kept.clear()
            kept[key] = random_layer(build(spec), out, width, seed, group)
        first = kept[key]
        layers: list[bench.Layer] = [first]
        for _ in range(count - 1):
            other = QuantizedLinear(width, out, first.codebook, sides=first.sides)
            other.weight = first.weight.clone()
            other.scales = first.scales.clone() if group else first.scales
            other.signs_in = first.signs_in
            layers.append(other)
        return layers

    return copies


def random_layer(codebook: Codebook, out: int, width: int, seed: int, group: int = 0) -> Any:
    """A ``QuantizedLinear`` that rotates its input, with random codes: speed does not depend on what they are.

    Args:
        codebook: of any family; fitted on N(0, 1) numbers here if it is not.
        out: rows of the matrix.
        width: columns.
        seed: of codes, scales and signs.
        group: columns that share a scale; 0: a row has one scale.
    """
    from vq.compressors.layers.linear import QuantizedLinear, header_for

    generator = torch.Generator().manual_seed(seed)
    if not codebook.fitted:
        count = max(4096, 2 * codebook.table_entries)
        codebook.fit(torch.randn(count, codebook.dim, generator=generator), generator=generator)
    height, columns = codebook.tile
    grid = (-(-out // height), -(-width // columns))
    codes = random_codes(codebook, grid[0] * grid[1], generator)
    shape = header_for(codebook, out, width, group).scales_shape
    return QuantizedLinear.from_codes(
        codebook,
        codes if hasattr(codebook, "step_bits") else codes.reshape(*grid, *codebook.codes_shape),
        torch.rand(shape, generator=generator) + 0.5,
        in_features=width,
        signs_in=1.0 - 2.0 * (torch.rand(width, generator=generator) < 0.5),
        mode="int8",
        group=group,
    )


def random_codes(codebook: Codebook, count: int, generator: torch.Generator) -> torch.Tensor:
    """Valid codes ``(count, *codes_shape)``: drawn where every number is one, else those of some random vectors."""
    shape, bits = (count, *codebook.codes_shape), codebook.code_bits
    entries = codebook.entries or 0
    if hasattr(codebook, "step_bits") or entries == 1 << bits * codebook.codes_per_vector:
        return torch.randint(0, 1 << bits, shape, generator=generator)
    if not codebook.codes_shape and entries:
        return torch.randint(0, entries, shape, generator=generator)
    some = torch.randn(_SAMPLES[codebook.dim <= 64], codebook.dim, generator=generator)
    return codebook.encode(some)[torch.randint(0, len(some), (count,), generator=generator)]
