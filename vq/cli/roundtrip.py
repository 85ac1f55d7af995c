"""Check a tokenizer's files: encode, write, read, decode, and compare with the model's output in memory, bit for bit.

Leaves nothing behind. Exit code 1 if a file came back different.

  vq roundtrip runs/image-f4 photos/
"""

from __future__ import annotations

import argparse
import sys

from vq.cli.common import add_common, apply_threads, progress
from vq.cli.tokens import add_model, finish, open_codec

INTERMIXED = True  # positional arguments may follow options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq roundtrip``."""
    add_model(parser)
    parser.add_argument("source", metavar="IN", help="folder, searched with subfolders, or file")
    add_common(parser, seed=False)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from vq.tokenizers.convert import roundtrip
    from vq.tokenizers.signals import signal_files

    apply_threads(args)
    codec = open_codec(args.model)
    done, close = progress(len(signal_files(args.source, codec.kind)), "round trip", "file")
    try:
        found = roundtrip(codec, args.source, done=done)
    finally:
        close()
    finish(args, codec, found, args.source, different=list(found.different))
    if found.different:
        names = ", ".join(found.different[:10])
        print(f"vq: {len(found.different)} files came back different: {names}", file=sys.stderr)
        return 1
    if args.json != "-":
        print("every file came back from its tokens as it was in memory, bit for bit")
    return 0
