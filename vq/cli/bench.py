"""Measure codebooks and kernels.

vq bench gaussian [SPEC ...]   distortion on fresh N(0, 1) numbers against Shannon's limit
"""

from __future__ import annotations

import argparse

from vq.analysis.environment import result, table, write_json
from vq.analysis.gaussian import measure_all
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


def run(args: argparse.Namespace) -> None:
    """Run one benchmark."""
    apply_threads(args)
    specs = [str(build(spec).spec) for spec in args.specs or CATALOGUE]
    done, close = progress(len(specs), "codebooks", "codebook")
    count = iter(range(1, len(specs) + 1))
    rows = measure_all(specs, args.samples, args.seed, lambda _: done(next(count)))
    close()
    data = result(rows, args.seed)
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(f"{data['machine']['cpu']}, {data['threads']} threads, seed {args.seed}")
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
        print(table(["codebook", "rate", "MSE", "limit", "gap dB"], cells))
