"""Options and outputs that several subcommands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

import torch

from vq.errors import VqError


def add_common(parser: argparse.ArgumentParser, *, seed: bool = True) -> None:
    """Add ``--json``, ``--threads`` and ``--seed``."""
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the result as JSON to FILE (to standard output without FILE)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: all this process may use)"
    )
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="of every random draw (default: 0)")


def apply_threads(args: argparse.Namespace) -> None:
    """Set torch's threads, which the native kernels follow.

    Raises:
        VqError: for a number below 1.
    """
    if args.threads is None:
        return
    if args.threads < 1:
        raise VqError(f"--threads: expected at least 1, got {args.threads}")
    torch.set_num_threads(args.threads)


def progress(total: int, text: str, unit: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    """A progress bar on standard error, silent where that is no terminal.

    Returns:
        A function that takes the number done so far, and one that closes the bar.
    """
    from tqdm import tqdm

    bar = tqdm(total=total, desc=text, unit=unit, disable=None, file=sys.stderr, leave=False)

    def done(count: int) -> None:
        bar.update(count - bar.n)

    return done, bar.close


def need_transformers() -> None:
    """Raise with the command that helps where transformers is missing."""
    try:
        import transformers  # noqa: F401  (only looked for)
    except ImportError as error:
        raise ImportError(
            "this command needs transformers; install it with: pip install 'vq-toolkit[hf]'"
        ) from error
    quiet_transformers()


def quiet_transformers() -> None:
    """Keep transformers' own bars and advice off a command's output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
