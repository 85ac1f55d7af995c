"""What a codebook has learned and what is wrong with it: a verdict first, then the numbers.

PATH is a codebook, a tokenizer, a folder of tokens, a training run, a compressed model, an array of code vectors or of
codes, or a file of another library. With PATH2 the two are compared; a compressed model with its original.

    vq analyze tokens/
    vq analyze tokenizer/ --codes tokens/ -o report.html
    vq analyze tokenizer/ --data pictures/ -o report.html
    vq analyze compressed/ original/ -o report.html
    vq analyze tokens/ --json - --fail-if 'dead>0.05' --fail-if 'perplexity<500'

Exit code: 0; 1 if a condition of --fail-if is met; 2 for input that cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vq.analysis.environment import write_json
from vq.analysis.page.atlas import Atlas
from vq.analysis.subject import Codes, Subject
from vq.cli.common import add_common, apply_threads, progress
from vq.errors import VqError

INTERMIXED = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq analyze``."""
    from vq.analysis.page.terminal import LINES

    parser.add_argument(
        "path", metavar="PATH", help="what to look at; or the spec of a codebook, such as 'e8p()'"
    )
    parser.add_argument("other", metavar="PATH2", nargs="?", help="what to compare it with")
    parser.add_argument(
        "--codes", metavar="PATH", help="codes that the codebook made: tokens or an integer array"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="pictures or sounds for a tokenizer: it encodes the first 256, their codes are looked at unless --codes "
        "gives others, and the page shows where the most used codes stand",
    )
    parser.add_argument(
        "--vectors",
        metavar="FILE",
        help="vectors (n, dim) that the codebook stands for: .npy, .npz, .safetensors",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="integers, one (or a row of factors) for each position of the codes",
    )
    parser.add_argument(
        "--fail-if",
        metavar="CONDITION",
        action="append",
        default=[],
        help="exit with 1 if it is met, such as 'dead>0.05'; repeatable",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the report there: one page (.html) with plots and every number",
    )
    parser.add_argument(
        "--quiet", action="store_true", help=f"leave out the summary of up to {LINES} lines"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Analyze, print, and test the conditions."""
    from vq.analysis.page.terminal import summary
    from vq.analysis.pipeline import analyze
    from vq.analysis.rules.conditions import Condition

    apply_threads(args)
    conditions = [Condition.parse(text) for text in args.fail_if]
    subject = _with_data(_open(args.path), args)
    other = None if args.other is None else _open(args.other)
    subject, atlas = _look(subject, args)
    total = None if subject.codes is None else subject.codes.positions
    done, close = progress(total or 0, "codes", "codes")
    try:
        analysis = analyze(subject, other, seed=args.seed, done=done if total else None)
    finally:
        close()
    if args.json:
        write_json(analysis.to_dict(), args.json)
    if args.json != "-" and not args.quiet:
        print(summary(analysis))
    if args.output:
        from vq.analysis.page.report import write_page

        size = write_page(analysis, Path(args.output), subject.path, atlas)
        print(f"report: {args.output} ({size:,} bytes)", file=sys.stderr)
    met = [(c, where) for c in conditions if (where := c.holds(analysis))]
    for condition, where in met:
        print(f"vq: condition {condition.text} is met: {'; '.join(where)}", file=sys.stderr)
    return 1 if met else 0


def _look(subject: Subject, args: argparse.Namespace) -> tuple[Subject, Atlas | None]:
    """The subject with the codes of ``--data``, and what its codes stand for."""
    if not args.data and not (args.output and args.codes):
        return subject, None
    from vq.cli.atlas import MOST_ITEMS, look

    done, close = progress(MOST_ITEMS, "atlas", "files")
    try:
        return look(subject, args.data, args.codes, done)
    finally:
        close()


def _open(path: str) -> Subject:
    """A path, or the spec of a codebook."""
    from vq.analysis.files.open import open_subject

    if not Path(path).exists() and "(" in path:
        from vq.analysis.files.codebook import subject_of
        from vq.codebooks import build

        book = build(path)
        if not book.fitted:
            raise VqError(
                f"{path}: no table is shipped for this codebook; give a file that holds one"
            )
        return subject_of(book, Path(path))
    return open_subject(path)


def _with_data(subject: Subject, args: argparse.Namespace) -> Subject:
    """The subject with codes, vectors and labels of other files."""
    from vq.analysis.files.array import read_arrays
    from vq.analysis.files.open import open_subject

    if args.codes:
        codes = open_subject(args.codes).codes
        if codes is None:
            raise VqError(f"--codes {args.codes}: there are no codes in it")
        subject = replace(subject, codes=_sized(codes, subject))
    if args.vectors:
        arrays = [
            a
            for a in read_arrays(Path(args.vectors)).values()
            if a.dtype.kind == "f" and a.ndim >= 2
        ]
        if not arrays:
            raise VqError(f"--vectors {args.vectors}: expected a float array (n, dim)")
        subject = replace(subject, vectors=_reader(arrays[0]))
    if args.labels:
        arrays = [a for a in read_arrays(Path(args.labels)).values() if a.dtype.kind in "iu"]
        if not arrays or subject.codes is None:
            raise VqError(
                f"--labels {args.labels}: expected an integer array, and codes to go with it"
            )
        subject = replace(subject, labels=arrays[0])
    return subject


def _sized(codes: Codes, subject: Subject) -> Codes:
    """Codes of a bare array know their number of entries by the tables they belong to."""
    sizes = tuple(len(table.values) for table in subject.tables)
    if len(sizes) != len(codes.entries):
        return codes
    return replace(
        codes, entries=sizes, names=tuple(t.name for t in subject.tables) if len(sizes) > 1 else ()
    )


def _reader(array: np.ndarray) -> Callable[[], Tensor]:
    def read() -> Tensor:
        return torch.from_numpy(np.array(array, np.float32)).flatten(0, -2)

    return read
