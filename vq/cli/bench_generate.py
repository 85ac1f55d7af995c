"""``vq bench generate``: tokens a second of a compressed model next to its original in float32 and bfloat16."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from vq.analysis.bench.generate import measure
from vq.analysis.environment import result, table, write_json
from vq.cli.common import add_common, apply_threads, progress
from vq.cli.models import open_model
from vq.errors import VqError

_PROMPT = "Once upon a time, in a village by the sea, there was a clockmaker who"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq bench generate``."""
    parser.add_argument("model", metavar="MODEL", help="folder written by vq compress")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="the original (default: its architecture with random weights, which takes the same time)",
    )
    parser.add_argument(
        "--prompt", default=_PROMPT, metavar="TEXT", help="what all models continue"
    )
    parser.add_argument(
        "--tokens", type=int, default=32, metavar="N", help="to write (default: 32)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="of which medians are taken (default: 5)"
    )
    parser.add_argument("--mode", choices=("int8", "int15", "float"), help="activation mode")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Measure and print."""
    if args.tokens < 2 or args.rounds < 1:
        raise VqError("--tokens must be at least 2 and --rounds at least 1")
    apply_threads(args)
    torch.manual_seed(args.seed)
    compressed, tokenizer = open_model(args.model, mode=args.mode)
    prompt = tokenizer(args.prompt, return_tensors="pt")["input_ids"]
    if prompt.shape[1] == 0:
        raise VqError("--prompt: the text has no tokens; give at least one word")
    models = {"compressed": compressed}
    for name in ("float32", "bfloat16"):
        models[name] = _original(args, getattr(torch, name))
    done, close = progress(len(models) * (args.rounds + 1), "generate", "turn")
    count = iter(range(1, len(models) * (args.rounds + 1) + 1))
    rows = measure(models, prompt, args.tokens, args.rounds, lambda _: done(next(count)))
    close()
    data = {**result(rows, args.seed), "model": args.model, "reference": args.reference}
    data |= {"prompt_tokens": prompt.shape[1], "tokens": args.tokens, "rounds": args.rounds}
    if args.json:
        write_json(data, args.json)
    if args.json != "-":
        print(_report(data))


def _original(args: argparse.Namespace, dtype: torch.dtype) -> Any:
    """The model in full, or one of its architecture."""
    if args.reference is not None:
        return open_model(args.reference, dtype=str(dtype).removeprefix("torch."))[0]
    from transformers import AutoConfig, AutoModelForCausalLM

    from vq.compressors.loading import is_compressed

    folder = Path(args.model)
    if not folder.is_dir() or not is_compressed(folder):
        raise VqError(f"{args.model}: no folder written by vq compress; give --reference MODEL")
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    torch.manual_seed(args.seed)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


def _report(data: dict[str, Any]) -> str:
    """The rows as a table under a line about the machine."""
    against = data["reference"] or "random weights of its architecture"
    lines = [
        f"{data['machine']['cpu']}, {data['threads']} threads, torch {data['versions']['torch']}; {data['model']} "
        f"against {against}; prompt of {data['prompt_tokens']} tokens, {data['tokens']} written, "
        f"{data['rounds']} rounds"
    ]
    cells = [
        [
            row["model"],
            f"{row['tokens_per_second']:.1f}",
            f"{row['prompt_ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['parameter_bytes'] / 1e6:.1f}",
        ]
        for row in data["rows"]
    ]
    heads = ["model", "tokens/s", "prompt ms", "compressed is x", "MB"]
    return "\n".join([*lines, table(heads, cells)])
