"""How many tokens a second does a model write? Several models turn by turn in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def measure(
    models: Mapping[str, Any],
    prompt: Tensor,
    tokens: int = 32,
    rounds: int = 5,
    done: Callable[[str], None] = lambda name: None,
) -> list[dict[str, Any]]:
    """Rows of every model; the first is the one that ratios are about.

    All models continue the same prompt by the same number of tokens, the likeliest each time, ends of text ignored. A
    round gives every model its turn, and the order turns with it; one round more warms up. With one thread times are
    that thread's processor time, with more by the clock.

    Args:
        models: causal language models of transformers by name.
        prompt: token ids ``(1, n)``.
        tokens: how many to write; the first comes with the prompt and is not counted in the speed.
        rounds: of which medians are taken.
        done: hears of each turn.

    Returns:
        ``model``, ``tokens_per_second``, ``prompt_ms`` (until the first token), ``ratio`` (the first model's speed over
        this one's: median of the rounds' ratios), ``parameter_bytes``.

    Raises:
        ValueError: for fewer than 2 tokens or less than one round.
    """
    if tokens < 2 or rounds < 1:
        raise ValueError(
            f"expected at least 2 tokens and one round, got {tokens} tokens and {rounds} rounds"
        )
    names = list(models)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = write(models[name], prompt, tokens)
            if turn:
                times[name].append(taken)
            done(name)
    first = [seconds for _, seconds in times[names[0]]]
    return [
        {
            "model": name,
            "tokens_per_second": (tokens - 1) / statistics.median(s for _, s in times[name]),
            "prompt_ms": statistics.median(p for p, _ in times[name]) * 1e3,
            "ratio": statistics.median(
                theirs / ours for (_, theirs), ours in zip(times[name], first, strict=True)
            ),
            "parameter_bytes": stored_bytes(models[name]),
        }
        for name in names
    ]


@torch.no_grad()
def write(model: Any, prompt: Tensor, tokens: int) -> tuple[float, float]:
    """Seconds for the prompt, and for the tokens after the first."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    middle = clock()
    for _ in range(tokens - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
    return middle - start, clock() - middle


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers; what is shared counts once."""
    kept = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers()) if t.numel()}
    return sum(t.numel() * t.element_size() for t in kept.values())
