"""Scores of speech models against their originals: teacher-forced loss and word error rate."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.calibration.speech import Listener, prompted
from vq.errors import VqError


@dataclass(frozen=True)
class SpeechScores:
    """Scores of a speech model against the transcripts of its original.

    Attributes:
        loss: mean negative log-likelihood of the original's transcript tokens, in nats, teacher-forced.
        reference_loss: the same of the original.
        word_error_rate: word errors against the original's transcripts over their words.
        words: of the original's transcripts.
        tokens: scored.
        files: transcribed.
        same: transcripts that are the original's, word for word.
    """

    loss: float
    reference_loss: float
    word_error_rate: float
    words: int
    tokens: int
    files: int
    same: int


@torch.no_grad()
def score_speech(
    model: nn.Module,
    reference: nn.Module,
    listener: Listener,
    files: Sequence[Path],
    done: Callable[[int], None] | None = None,
    known: dict[Path, Tensor] | None = None,
) -> SpeechScores:
    """Score a speech model against its original.

    Args:
        model: a speech encoder-decoder.
        reference: the original; its greedy transcripts count as true.
        listener: features and text.
        files: sounds.
        done: hears of the number of files finished.
        known: transcripts of the original by file; it is filled, for the next model of the same original.

    Raises:
        VqError: if a likelihood is not finite.
    """
    loss = reference_loss = 0.0
    tokens = words = errors = same = 0
    truth = {} if known is None else known
    for number, path in enumerate(files):
        features = listener.features(path).float()
        if path not in truth:
            truth[path] = prompted(reference, features)
        given = truth[path]
        ours, count = _forced(model, features, given, path)
        theirs, _ = _forced(reference, features, given, path)
        loss, reference_loss, tokens = loss + ours, reference_loss + theirs, tokens + count
        wanted = words_of(listener.text(given[0]))
        heard = words_of(listener.text(prompted(model, features)[0]))
        errors += word_errors(wanted, heard)
        words += len(wanted)
        same += wanted == heard
        if done is not None:
            done(number + 1)
    many = max(tokens, 1)
    rate = errors / max(words, 1)
    return SpeechScores(loss / many, reference_loss / many, rate, words, tokens, len(files), same)


def _forced(model: Any, features: Tensor, given: Tensor, path: Path) -> tuple[float, int]:
    """Sum of negative log-likelihoods of a transcript and its end, each token after the true ones; their number.

    Tokens of the prompt (language, task, no time stamps) are not scored: their numbers lie above the end's.
    """
    end = int(model.config.eos_token_id)
    own = features.to(next(p.dtype for p in model.parameters() if p.is_floating_point()))
    logits = model(input_features=own, decoder_input_ids=given, use_cache=False).logits[0]
    target = torch.cat([given[0, 1:], torch.tensor([end])])
    scored = target <= end
    total = float(
        nn.functional.cross_entropy(logits[scored].float(), target[scored], reduction="sum")
    )
    if not math.isfinite(total):
        raise VqError(f"{path}: the model's likelihood is not finite; it cannot be scored")
    return total, int(scored.sum())


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return re.findall(r"[\w']+", text.lower())


def word_errors(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Least number of words to put in, take out or change (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            cost = previous + (word != other)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, cost)
    return row[-1]
