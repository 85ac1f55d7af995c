"""Perplexity, divergence from a reference model, and agreement with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vq.errors import VqError

_ROWS = 256  # positions whose probabilities are held in float64 at a time


@dataclass(frozen=True)
class Scores:
    """Scores of a language model on windows of text.

    Attributes:
        perplexity: ``exp`` of the mean negative log-likelihood a token, in windows of ``context``
            tokens without any token before.
        context: tokens a window.
        tokens: predicted tokens (all but the first of each window).
        reference_perplexity: of the reference model on the same tokens, or None.
        kl: mean Kullback-Leibler divergence KL(reference || model) a token, in nats, or None.
        top1: share of tokens where both models' most likely next token is the same, or None.
    """

    perplexity: float
    context: int
    tokens: int
    reference_perplexity: float | None = None
    kl: float | None = None
    top1: float | None = None


def text_windows(ids: Tensor, context: int, limit: int | None = None) -> Tensor:
    """Cut a token sequence into windows that do not overlap.

    Args:
        ids: ``(tokens,)``.
        context: tokens a window, at least 2.
        limit: largest number of windows; if there are more, they are taken evenly spread over the text.

    Returns:
        ``(windows, context)``.

    Raises:
        VqError: if the text is shorter than one window.
    """
    if context < 2:
        raise VqError(f"--context: expected at least 2 tokens, got {context}")
    count = len(ids) // context
    if count == 0:
        raise VqError(
            f"the text has {len(ids)} tokens, fewer than one context of {context}; "
            f"give a longer text or --context {max(2, len(ids))} or less"
        )
    windows = ids[: count * context].reshape(count, context)
    if limit is None or count <= limit:
        return windows
    return windows[torch.linspace(0, count - 1, limit, dtype=torch.float64).round().long()]


@torch.no_grad()
def score(
    model: nn.Module,
    windows: Tensor,
    reference: nn.Module | None = None,
    done: Callable[[int], None] | None = None,
) -> Scores:
    """Score a causal language model, and against a reference if there is one.

    Args:
        model: called as ``model(ids).logits``.
        windows: ``(windows, context)`` token ids.
        reference: a model with the same vocabulary.
        done: hears of the number of windows finished.

    Raises:
        VqError: if the vocabularies differ, or the model's output is not finite.
    """
    nll = reference_nll = divergence = 0.0
    agree = 0
    for index, window in enumerate(windows):
        target = window[1:]
        logits = model(window[None], use_cache=False).logits[0, :-1]
        nll += _nll(logits, target)
        if not math.isfinite(nll):
            raise VqError(
                f"the model's likelihood of window {index} is not finite; it cannot be scored"
            )
        if reference is not None:
            wanted = reference(window[None], use_cache=False).logits[0, :-1]
            if wanted.shape != logits.shape:
                raise VqError(
                    f"the models' vocabularies differ: {logits.shape[-1]} and {wanted.shape[-1]} "
                    "tokens; the reference must be the original of the model"
                )
            reference_nll += _nll(wanted, target)
            divergence += _divergence(wanted, logits)
            agree += int((wanted.argmax(-1) == logits.argmax(-1)).sum())
        if done is not None:
            done(index + 1)
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    perplexity = math.exp(nll / tokens)
    if reference is None:
        return Scores(perplexity, windows.shape[1], tokens)
    return Scores(
        perplexity,
        windows.shape[1],
        tokens,
        reference_perplexity=math.exp(reference_nll / tokens),
        kl=divergence / tokens,
        top1=agree / tokens,
    )


def _nll(logits: Tensor, target: Tensor) -> float:
    """Sum of negative log-likelihoods; the log-sum-exp in float32, the sum in float64."""
    picked = logits.float().gather(1, target[:, None])[:, 0]
    return float((torch.logsumexp(logits.float(), -1) - picked).double().sum())


def _divergence(wanted: Tensor, logits: Tensor) -> float:
    """Sum over positions of KL(softmax(wanted) || softmax(logits))."""
    total = 0.0
    for start in range(0, len(wanted), _ROWS):
        p = wanted[start : start + _ROWS].float().log_softmax(-1)
        q = logits[start : start + _ROWS].float().log_softmax(-1)
        total += float((p.exp() * (p - q)).sum(-1).double().sum())
    return total
