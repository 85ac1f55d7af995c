"""Score a model on data it has not seen; what MODEL is decides how.

A language model on held-out text: perplexity, and against its original KL divergence and top-1 agreement. Bits per
weight are counted from the bytes of the checkpoint: codes, headers, scales, signs and tables of the quantized layers,
divided by their weights.

A tokenizer (the folder of a `vq train` run) on a folder of files: PSNR and SSIM, or SI-SDR, STFT and mel distance, with
confidence intervals over files; bits, counted from a real token file; use of the codes; all of it for every number of
stages.

  vq eval OUT --reference MODEL --text HELD_OUT.txt
  vq eval runs/image-f4 photos/ --held-out
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vq.analysis.environment import machine, table, versions, write_json
from vq.cli.common import add_common, apply_threads, progress
from vq.cli.models import open_model
from vq.errors import VqError

INTERMIXED = True  # positional arguments may follow options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq eval``."""
    parser.add_argument(
        "model", metavar="MODEL", help="model folder, .gguf file or hub id; tokenizer or its run"
    )
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="tokenizers: folder of images or sounds, or a file"
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="tokenizers: only the files of DATA that `vq train` holds out of it",
    )
    parser.add_argument("--text", nargs="+", metavar="FILE", help="held-out text: files or folders")
    parser.add_argument("--reference", metavar="MODEL", help="the original, for KL and agreement")
    parser.add_argument(
        "--context", type=int, default=1024, metavar="N", help="tokens a window (default: 1024)"
    )
    parser.add_argument(
        "--windows", type=int, metavar="N", help="at most N windows, spread evenly (default: all)"
    )
    parser.add_argument("--mode", choices=("int8", "int15", "float"), help="activation mode")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Score and print."""
    apply_threads(args)
    if _is_tokenizer(args.model):
        from vq.cli.eval_tokenizer import run as run_tokenizer

        return run_tokenizer(args)
    if args.data is not None or args.held_out:
        raise VqError(
            f"{args.model} is no tokenizer of `vq train`; a language model is scored on text, --text FILE"
        )
    if args.text is None:
        raise VqError("--text FILE: expected held-out text for a language model")
    _run_language_model(args)


def _is_tokenizer(name: str) -> bool:
    """Whether this is the folder of a tokenizer, or of a run that makes one."""
    from vq.tokenizers.codec import find_tokenizer

    return find_tokenizer(name) is not None or (Path(name) / "run.json").is_file()


def _run_language_model(args: argparse.Namespace) -> None:
    from vq.compressors.evaluate import score, text_windows
    from vq.compressors.texts import read_texts, tokenize

    texts = read_texts(args.text)
    model, tokenizer = open_model(args.model, mode=args.mode)
    windows = text_windows(tokenize(texts, tokenizer), args.context, args.windows)
    reference = open_model(args.reference)[0] if args.reference else None
    done, close = progress(len(windows), "scoring", "window")
    scores = score(model, windows, reference, done)
    close()
    data = {"model": args.model, "reference": args.reference, **asdict(scores), **_size(args.model)}
    data |= {"seed": args.seed, "machine": machine(), "versions": versions()}
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(_report(data))


def _size(name: str) -> dict[str, Any]:
    """Bits and bytes, where the model is a folder of safetensors or one file."""
    from vq.compressors.size import measure_size

    path = Path(name)
    if path.is_dir():
        size = measure_size(path)
        return {
            "bits_per_weight": size.bits_per_weight,
            "total_bits_per_weight": size.total_bits_per_weight,
            "file_bytes": size.file_bytes,
        }
    nothing = {"bits_per_weight": None, "total_bits_per_weight": None}
    return {**nothing, "file_bytes": path.stat().st_size if path.is_file() else None}


def _report(data: dict[str, Any]) -> str:
    """The scores as a table of two columns."""
    rows = [["perplexity", f"{data['perplexity']:.3f}"]]
    if data["reference_perplexity"] is not None:
        ratio = data["perplexity"] / data["reference_perplexity"]
        rows += [
            ["perplexity of the reference", f"{data['reference_perplexity']:.3f}"],
            ["ratio", f"{ratio:.3f}"],
            ["KL to the reference (nats a token)", f"{data['kl']:.4f}"],
            ["top-1 agreement", f"{data['top1']:.1%}"],
        ]
    rows += [["context", str(data["context"])], ["tokens", str(data["tokens"])]]
    if data["bits_per_weight"] is not None:
        rows.append(["bits per weight, quantized layers", f"{data['bits_per_weight']:.3f}"])
        rows.append(["bits per weight, whole model", f"{data['total_bits_per_weight']:.3f}"])
    if data["file_bytes"] is not None:
        rows.append(["file, MB", f"{data['file_bytes'] / 1e6:.1f}"])
    return table([data["model"], ""], rows)
