"""The command ``vq``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import vq

COMMANDS = {
    "compress": "compress a language model to about 2 bits a weight",
    "plan": "choose a codebook for each matrix under a budget, forecast quality",
    "eval": "score a language model or a tokenizer: quality and real bits",
    "generate": "write text with a model, compressed or not",
    "train": "train an image or audio tokenizer on a folder of files",
    "encode": "turn images or sounds into tokens",
    "decode": "turn tokens back into files",
    "roundtrip": "check that tokens decode to what the tokenizer made",
    "analyze": "say what a codebook has learned and what is wrong with it",
    "codebooks": "list the codebooks with rate, entries and distortion",
    "bench": "measure codebooks and kernels",
    "info": "versions, CPU features, kernels in use and why",
}
_MODULES = {"eval": "evaluate"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the arguments after ``vq``; those of the process by default.

    Returns:
        0 on success, 2 for input the user can mend, 130 when interrupted.
    """
    # Waiting threads sleep instead of spinning: beside other busy processes spinning costs many times the work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Other libraries' progress bars; ours say themselves when to show.
    os.environ.setdefault("TQDM_DISABLE", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"vq {vq.__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        from vq.codebooks.spec import nearest_names

        return _complain(f"unknown command {name!r}; {nearest_names(name, COMMANDS)}")
    module = importlib.import_module(f"vq.cli.{_MODULES.get(name, name)}")
    parser = argparse.ArgumentParser(
        prog=f"vq {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    # argparse finds positionals after options only where it is told, and then it takes no subcommands.
    mixed = getattr(module, "INTERMIXED", False)
    parse = parser.parse_intermixed_args if mixed else parser.parse_args
    return _guarded(module.run, parse(arguments[1:]))


def _guarded(run: object, args: argparse.Namespace) -> int:
    """Turn what a user can mend into one line and exit code 2; anything else is ours and shows its traceback."""
    assert callable(run)
    try:
        return int(run(args) or 0)
    except KeyboardInterrupt:
        return _complain("interrupted; finished work is kept, run the same command to go on", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("VQ_DEBUG"):
            traceback.print_exc()
        return _complain(str(error) or type(error).__name__)


def _complain(text: str, code: int = 2) -> int:
    print(f"vq: error: {text}", file=sys.stderr)
    return code


def _overview() -> str:
    lines = "\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())
    return (
        f"vq {vq.__version__}: codebook quantization of weights and signals\n\n"
        f"usage: vq COMMAND [options]\n\n{lines}\n\n"
        "vq COMMAND --help tells a command's options. A first run:\n\n"
        "  vq compress MODEL -o OUT --calibration TEXT.txt\n"
        "  vq eval OUT --reference MODEL --text HELD_OUT.txt\n"
        "  vq train image --data FOLDER"
    )


if __name__ == "__main__":
    sys.exit(main())
