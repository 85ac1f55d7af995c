"""Options and outputs that several subcommands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def read_text(files: list[str]) -> str:
    """Contents of text files and of the ``.txt`` files of folders, in sorted order, joined by blank lines.

    Raises:
        VqError: for a missing or empty file, a folder without text, or bytes that are not UTF-8.
    """
    paths: list[Path] = []
    for name in files:
        path = Path(name)
        found = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        if path.is_dir() and not found:
            raise VqError(f"{path}: no *.txt file in this folder")
        paths += found
    parts = []
    for path in paths:
        if not path.is_file():
            raise VqError(f"{path}: no such text file")
        try:
            parts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise VqError(f"{path}: not UTF-8 text ({error}); convert it first") from error
    text = "\n\n".join(parts)
    if not text.strip():
        raise VqError(f"{', '.join(files)}: the text is empty")
    return text


def tokenize(tokenizer: Any, text: str) -> torch.Tensor:
    """Token ids ``(tokens,)`` without special tokens or length warnings."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)
