"""Calibration data of any kind, as the arguments of a model for each window."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vq.compressors.calibration.texts import choose_windows, load_tokenizer, read_texts, tokenize
from vq.compressors.files.source import ModelSource
from vq.compressors.options import CompressOptions
from vq.compressors.structure.skeleton import Skeleton
from vq.errors import VqError

Calibration = str | Path | Sequence[Any] | Iterable[Any]
TokenWeights = Callable[[Tensor], Tensor] | Sequence[Tensor]
_SPEECH = ("input_features", "input_values")


@dataclass(frozen=True, eq=False)
class Samples:
    """What a model is calibrated on.

    Attributes:
        inputs: arguments of the model for each window.
        digest: SHA-256 of all of them.
        summary: what the report says of them.
        weights: of the tokens of each window, ``(tokens,)``, or None for all alike.
        text: all tokens that the windows were taken from ``(tokens,)``; None for data that is no text.
    """

    inputs: list[dict[str, Any]]
    digest: str
    summary: dict[str, Any]
    weights: list[Tensor] | None = None
    text: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def tokens(self) -> int:
        """Vectors that the first argument holds over all windows: tokens, or frames."""
        return sum(next(iter(window.values())).shape[-1] for window in self.inputs)


def read_samples(
    calibration: Calibration,
    source: ModelSource,
    skeleton: Skeleton,
    options: CompressOptions,
    weights: TokenWeights | None = None,
) -> Samples:
    """Calibration windows of a model.

    Args:
        calibration: files or folders of text (of sound for a speech model); or an iterable of texts, of
            rows with a ``text``, of token tensors ``(tokens,)``, or of mappings with the arguments of the model.
        source: the model's files.
        skeleton: the model.
        options: how many windows, of which length, with which seed.
        weights: of tokens: ``(tokens,)`` for each window, or a function of a window's tokens.

    Raises:
        VqError: if the data is missing, too short, or does not fit the model.
    """
    model = skeleton.model
    items = [_text_of(item) for item in _items(calibration)]
    if items and all(isinstance(item, Mapping) for item in items):
        inputs = [dict(item) for item in items[: options.windows]]
        return _finish(inputs, {"windows": len(inputs)}, weights)
    if model.main_input_name in _SPEECH:
        from vq.compressors.calibration.speech import speech_windows

        inputs, summary = speech_windows(_paths(items, "sound files"), source, options)
        return _finish(inputs, summary, weights)
    if model.main_input_name != "input_ids":
        raise VqError(
            f"{source.name}: takes {model.main_input_name}, not text; pass the arguments of the model for each "
            "window in Python: compress(..., calibration=[{...}, ...])"
        )
    tokens = _tokens(items, source)
    _check_tokens(tokens, source, skeleton, options.context)
    chosen = choose_windows(tokens, options.windows, options.context, options.seed)
    count, context = chosen.tokens.shape
    summary = {"windows": count, "context": context, "text_tokens": chosen.available}
    inputs = [_arguments(model, row) for row in chosen.tokens]
    return replace(_finish(inputs, summary, weights, chosen.digest), text=tokens)


def _items(calibration: Calibration) -> list[Any]:
    """The calibration data as a list."""
    if isinstance(calibration, (str, Path)):
        return [calibration]
    if isinstance(calibration, Tensor):
        return list(calibration) if calibration.ndim > 1 else [calibration]
    return list(calibration)


def _text_of(item: Any) -> Any:
    """The text of a row of a data set; anything else as it is."""
    text = item.get("text") if isinstance(item, Mapping) else None
    return text if isinstance(text, str) else item


def _paths(items: list[Any], what: str) -> list[str | Path]:
    if not items or not all(isinstance(item, (str, Path)) for item in items):
        raise VqError(
            f"calibration: expected {what} or the arguments of the model for each window, got "
            f"{type(items[0]).__name__ if items else 'nothing'}"
        )
    return items


def _tokens(items: list[Any], source: ModelSource) -> Tensor:
    """All tokens of the user's data, one after another."""
    if items and all(isinstance(item, Tensor) for item in items):
        if any(item.is_floating_point() for item in items):
            raise VqError("calibration: expected tensors of whole numbers (tokens), got floats")
        return torch.cat([item.reshape(-1).to(torch.int64).cpu() for item in items])
    if not items or not all(isinstance(item, (str, Path)) for item in items):
        kind = type(items[0]).__name__ if items else "nothing"
        raise VqError(
            f"calibration: expected text files, texts, token tensors or arguments of the model, got {kind}"
        )
    return tokenize(read_any(items), load_tokenizer(source.folder))


def read_any(items: Sequence[str | Path]) -> list[str]:
    """Texts from paths and from strings that are texts themselves: such as hold white space and name no file."""
    texts: list[str] = []
    for item in items:
        is_text = isinstance(item, str) and len(item.split()) > 1 and not _exists(item)
        texts += [str(item)] if is_text else read_texts(item)
    return texts


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError):  # too long for a path
        return False


def _check_tokens(tokens: Tensor, source: ModelSource, skeleton: Skeleton, context: int) -> None:
    """Raise where the model cannot take these tokens, or so many at a time."""
    model = skeleton.model
    limit = getattr(model.config, "max_position_embeddings", None)
    if isinstance(limit, int) and context > limit:
        raise VqError(f"context: the model takes at most {limit} tokens, got {context}")
    size = model.get_input_embeddings().weight.shape[0]
    if tokens.numel() and int(tokens.max()) >= size:
        raise VqError(
            f"{source.name}: the tokenizer gives token {int(tokens.max())}, but the model knows "
            f"{size} tokens; they do not belong together"
        )


def _arguments(model: Any, row: Tensor) -> dict[str, Tensor]:
    """Arguments of a text model: an encoder-decoder reads the first half of a window and writes the second."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return {"input_ids": row[None]}
    half = len(row) // 2
    start = getattr(model.config, "decoder_start_token_id", None)
    start = start if isinstance(start, int) else 0
    written = torch.cat([torch.tensor([start]), row[half:-1]])
    return {"input_ids": row[None, :half], "decoder_input_ids": written[None]}


def _finish(
    inputs: list[dict[str, Any]],
    summary: dict[str, Any],
    weights: TokenWeights | None,
    digest: str | None = None,
) -> Samples:
    if not inputs:
        raise VqError("calibration: no window; pass more data")
    found = None if weights is None else _weights(inputs, weights)
    hashed = hashlib.sha256((digest or _digest(inputs)).encode())
    if found is not None:
        for weight in found:
            hashed.update(weight.numpy().tobytes())
    name = hashed.hexdigest() if found is not None or digest is None else digest
    return Samples(inputs, name, {**summary, "sha256": name}, found)


def _weights(inputs: list[dict[str, Any]], weights: TokenWeights) -> list[Tensor]:
    """One weight for each token of each window, checked."""
    found = []
    for number, window in enumerate(inputs):
        tokens = next(iter(window.values()))[0]
        given = weights(tokens) if callable(weights) else weights[number]
        weight = torch.as_tensor(given, dtype=torch.float32).detach().reshape(-1).cpu()
        if weight.numel() != tokens.shape[-1]:
            raise VqError(
                f"token weights of window {number}: expected {tokens.shape[-1]} numbers, got {weight.numel()}"
            )
        if not bool(torch.isfinite(weight).all()) or float(weight.min()) < 0 or not weight.any():
            raise VqError(
                f"token weights of window {number}: expected finite numbers, none below 0 and some above"
            )
        found.append(weight)
    return found


def _digest(inputs: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for window in inputs:
        for name, value in sorted(window.items()):
            digest.update(name.encode())
            if isinstance(value, Tensor):
                digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
                flat = value.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().tobytes())
            else:
                digest.update(repr(value).encode())
    return digest.hexdigest()
