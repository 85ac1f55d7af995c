"""Measure codebooks and kernels.

vq bench gaussian [SPEC ...]   distortion on fresh N(0, 1) numbers against Shannon's limit
vq bench search                nearest codeword next to torch and faiss
vq bench kmeans                k-means next to faiss, scikit-learn and torch
vq bench matmul [SPEC ...]     packed linear layers next to torch in float32 and bfloat16
vq bench generate MODEL        tokens a second of a compressed model and its original
"""

from __future__ import annotations

import argparse
import importlib
from types import ModuleType
from typing import Any

from vq.analysis.bench.gaussian import measure_all
from vq.analysis.environment import result, table, write_json
from vq.cli.common import add_common, apply_threads, progress
from vq.codebooks import build
from vq.codebooks.catalogue import CATALOGUE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq bench``."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    gaussian = kinds.add_parser("gaussian", help="distortion on N(0, 1) against Shannon's limit")
    gaussian.add_argument("specs", nargs="*", metavar="SPEC", help="codebooks (default: all)")
    gaussian.add_argument(
        "--samples", type=int, metavar="N", help="numbers to encode (default: 262144 to 4194304)"
    )
    add_common(gaussian)
    for name, text in (
        ("search", "nearest codeword next to torch and faiss"),
        ("kmeans", "k-means next to faiss, scikit-learn and torch"),
    ):
        speed = kinds.add_parser(name, help=text)
        speed.add_argument(
            "--case",
            action="append",
            type=_case,
            metavar="DIM,ENTRIES,POINTS",
            help="one to measure, may be repeated (default: a list of sizes)",
        )
        speed.add_argument("--rounds", type=int, metavar="N", help="of which medians are taken")
        add_common(speed)
    for name, text in (
        ("matmul", "packed linear layers next to torch in float32 and bfloat16"),
        ("generate", "tokens a second of a compressed model and its original"),
    ):
        _module(name).add_arguments(kinds.add_parser(name, help=text, description=text))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"vq.cli.bench_{name}")


def run(args: argparse.Namespace) -> None:
    """Run one benchmark."""
    if args.kind in ("matmul", "generate"):
        _module(args.kind).run(args)
        return
    apply_threads(args)
    {"gaussian": _gaussian, "search": _speed, "kmeans": _speed}[args.kind](args)


def _case(text: str) -> tuple[int, int, int]:
    try:
        dim, entries, points = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected DIM,ENTRIES,POINTS, got {text!r}") from None
    if dim < 1 or entries < 8 or points < 1:
        raise argparse.ArgumentTypeError(
            f"expected dim and points of at least 1 and entries of at least 8, got {text!r}"
        )
    return dim, entries, points


def _speed(args: argparse.Namespace) -> None:
    from vq.analysis.bench import kmeans, search

    module = search if args.kind == "search" else kmeans
    cases = args.case or module.CASES
    done, close = progress(len(cases), args.kind, "case")
    count = iter(range(1, len(cases) + 3))
    options = {} if args.rounds is None else {"rounds": args.rounds}
    rows = module.measure(cases, seed=args.seed, done=lambda _: done(next(count)), **options)
    close()
    headers = list(rows[0])
    _show(args, rows, headers, [[_cell(row[key]) for key in headers] for row in rows])


def _show(
    args: argparse.Namespace, rows: list[dict[str, Any]], headers: list[str], cells: list[list[str]]
) -> None:
    """Write the JSON, and print a table unless that is where the JSON goes."""
    data = result(rows, args.seed)
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(f"{data['machine']['cpu']}, {data['threads']} threads, seed {args.seed}")
        print(table(headers, cells))


def _cell(value: float | str | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _gaussian(args: argparse.Namespace) -> None:
    specs = [str(build(spec).spec) for spec in args.specs or CATALOGUE]
    done, close = progress(len(specs), "codebooks", "codebook")
    count = iter(range(1, len(specs) + 1))
    rows = measure_all(specs, args.samples, args.seed, lambda _: done(next(count)))
    close()
    cells = [
        [
            row["codebook"],
            f"{row['rate']:g}",
            f"{row['mse']:.5f}",
            f"{4 ** -row['rate']:.5f}",
            f"{row['gap_db']:.2f}",
        ]
        for row in rows
    ]
    _show(args, rows, ["codebook", "rate", "MSE", "limit", "gap dB"], cells)
