"""Write text with a model, compressed or not; tokens appear as they come, then the speed."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

from vq.analysis.environment import write_json
from vq.cli.common import add_common, apply_threads
from vq.cli.models import open_model
from vq.errors import VqError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq generate``."""
    parser.add_argument("model", metavar="MODEL", help="model folder, .gguf file or hub id")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what the text begins with")
    parser.add_argument(
        "--chat", action="store_true", help="put the prompt as a question to a chat model"
    )
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="at most N (default: 64)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="0 takes the likeliest (default)",
    )
    parser.add_argument("--mode", choices=("int8", "int15", "float"), help="activation mode")
    add_common(parser)


def run(args: argparse.Namespace) -> None:
    """Generate and print."""
    if args.tokens < 1 or args.temperature < 0:
        raise VqError("--tokens must be at least 1 and --temperature not negative")
    apply_threads(args)
    model, tokenizer = open_model(args.model, mode=args.mode)
    quiet = args.json == "-"
    text, count, seconds = generate(model, tokenizer, args, quiet)
    speed = (count - 1) / seconds if count > 1 else 0.0
    if args.json:
        data = {"model": args.model, "prompt": args.prompt, "text": text, "tokens": count}
        write_json(data | {"tokens_per_second": speed, "seed": args.seed}, args.json)
    if not quiet:
        print(f"\n[{count} tokens, {speed:.1f} tokens/s after the first]", file=sys.stderr)


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, args: argparse.Namespace, quiet: bool
) -> tuple[str, int, float]:
    """Token by token with the model's own cache.

    Returns:
        The new text, the number of new tokens, and the seconds from the first new token to the last.
    """
    generator = torch.Generator().manual_seed(args.seed)
    ids = _prompt(tokenizer, args)
    ends = _end_tokens(model, tokenizer)
    out = model(ids, use_cache=True)
    made: list[int] = []
    shown = ""
    started = time.perf_counter()
    while len(made) < args.tokens:
        token = _pick(out.logits[0, -1], args.temperature, generator)
        if token in ends:
            break
        made.append(token)
        text = tokenizer.decode(made, skip_special_tokens=True)
        if not quiet and not text.endswith("\ufffd"):
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
        if len(made) < args.tokens:
            out = model(
                torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True
            )
    if not quiet:
        print()
    seconds = max(time.perf_counter() - started, 1e-9)
    return tokenizer.decode(made, skip_special_tokens=True), len(made), seconds


def _prompt(tokenizer: Any, args: argparse.Namespace) -> torch.Tensor:
    if not args.chat:
        ids = tokenizer(args.prompt, return_tensors="pt")["input_ids"]
    elif tokenizer.chat_template is None:
        raise VqError(f"{args.model}: its tokenizer has no chat template; leave --chat away")
    else:
        talk = [{"role": "user", "content": args.prompt}]
        text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.shape[1] == 0:
        raise VqError("--prompt: the text has no tokens; give at least one word")
    return ids


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = tokenizer.eos_token_id if ends is None else ends
    return set(ends) if isinstance(ends, list) else {ends}


def _pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    probabilities = (logits.float() / temperature).softmax(-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
