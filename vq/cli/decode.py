"""Turn tokens back into images (PNG) or sounds (WAV of 16 bits), at the size, length and loudness they had.

Sounds come back at the sample rate of the tokenizer. Tokens of another model are refused.

  vq decode runs/speech-16k tokens/ -o out/ --stages 2
"""

from __future__ import annotations

import argparse

from vq.cli.common import add_common, apply_threads, progress
from vq.cli.tokens import add_model, finish, open_codec

INTERMIXED = True  # positional arguments may follow options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq decode``."""
    add_model(parser)
    parser.add_argument("tokens", metavar="TOKENS", help="folder that `vq encode` wrote")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for the files")
    parser.add_argument(
        "--stages", type=int, metavar="N", help="use the first N stages (default: all)"
    )
    parser.add_argument(
        "--force", action="store_true", help="decode tokens of another model of the same layout"
    )
    add_common(parser, seed=False)


def run(args: argparse.Namespace) -> None:
    """Decode and print how much."""
    from vq.tokenizers.convert import decode_folder
    from vq.tokenizers.tokenreader import TokenReader

    apply_threads(args)
    codec = open_codec(args.model)
    done, close = progress(len(TokenReader(args.tokens, verify=False)), "decoding", "file")
    try:
        found = decode_folder(
            codec, args.tokens, args.output, stages=args.stages, force=args.force, done=done
        )
    finally:
        close()
    stages = args.stages or len(codec.prefix_bits)
    finish(args, codec, found, args.output, tokens=args.tokens, output=args.output, stages=stages)
