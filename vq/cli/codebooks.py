"""List the codebooks: rate in bits a number, entries, and mean squared error on N(0, 1).

The distortion is a closed form or a figure shipped with the table; `vq bench gaussian` measures all of them.
"""

from __future__ import annotations

import argparse

from vq.analysis.bench.gaussian import gap_db
from vq.analysis.environment import table, write_json
from vq.cli.common import add_common
from vq.codebooks import build
from vq.codebooks.catalogue import CATALOGUE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq codebooks``."""
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="only these (default: all)")
    add_common(parser, seed=False)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    rows = []
    for spec in args.specs or CATALOGUE:
        codebook = build(spec)
        mse = codebook.distortion
        rows.append(
            {
                "codebook": str(codebook.spec),
                "rate": codebook.rate,
                "dim": codebook.dim,
                "entries": codebook.entries,
                "mse": mse,
                "gap_db": None if mse is None else gap_db(mse, codebook.rate),
            }
        )
    if args.json:
        write_json({"rows": rows}, args.json)
    if args.json != "-":
        print(table(["codebook", "rate", "dim", "entries", "MSE", "dB to limit"], _cells(rows)))


def _cells(rows: list[dict]) -> list[list[str]]:
    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        [
            row["codebook"],
            f"{row['rate']:g}",
            str(row["dim"]),
            number(row["entries"], "d"),
            number(row["mse"], ".5f"),
            number(row["gap_db"], ".2f"),
        ]
        for row in rows
    ]
