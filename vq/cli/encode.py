"""Turn images or sounds into tokens.

MODEL is the folder of a `vq train` run. Files that cannot be read are named and passed over. Give the same command
again and an encoding that was killed goes on; it ends with the same bytes as one that was not.

  vq encode runs/image-f4 photos/ -o tokens/ --packed
"""

from __future__ import annotations

import argparse

from vq.cli.common import add_common, apply_threads, progress
from vq.cli.tokens import add_model, finish, open_codec
from vq.errors import VqError

INTERMIXED = True  # positional arguments may follow options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq encode``."""
    add_model(parser)
    parser.add_argument("source", metavar="IN", help="folder, searched with subfolders, or file")
    parser.add_argument("-o", "--output", required=True, metavar="TOKENS", help="folder of tokens")
    parser.add_argument(
        "--packed",
        action="store_true",
        help="store the bits of each code and no more (default: whole bytes, quicker to read)",
    )
    parser.add_argument(
        "--shard-mb", type=float, default=64, metavar="MB", help="codes in a shard (default: 64)"
    )
    parser.add_argument("--restart", action="store_true", help="throw away what TOKENS holds")
    add_common(parser, seed=False)


def run(args: argparse.Namespace) -> None:
    """Encode and print sizes."""
    from vq.tokenizers.convert import encode_folder
    from vq.tokenizers.signals import signal_files

    apply_threads(args)
    if not args.shard_mb > 0:
        raise VqError(f"--shard-mb: expected more than 0, got {args.shard_mb}")
    codec = open_codec(args.model)
    done, close = progress(len(signal_files(args.source, codec.kind)), "encoding", "file")
    try:
        found = encode_folder(
            codec,
            args.source,
            args.output,
            storage="packed" if args.packed else "auto",
            shard_bytes=max(int(args.shard_mb * 1e6), 1),
            restart=args.restart,
            done=done,
        )
    finally:
        close()
    finish(args, codec, found, args.output, tokens=args.output)
