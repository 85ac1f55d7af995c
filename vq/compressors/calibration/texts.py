"""Calibration windows: token sequences spread over the user's text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vq.errors import VqError


@dataclass(frozen=True, eq=False)
class Windows:
    """Token windows and where they come from.

    Attributes:
        tokens: int64 ``(windows, context)``.
        available: tokens of the whole text.
        digest: SHA-256 of the chosen tokens.
    """

    tokens: Tensor
    available: int
    digest: str


def read_texts(paths: str | Path | Sequence[str | Path]) -> list[str]:
    """Contents of text files; a folder stands for its ``.txt`` files in order of name.

    Raises:
        VqError: if a path is missing, a folder has no text, or a file is not UTF-8 or is empty.
    """
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files: list[Path] = []
    for given in listed:
        path = Path(given).expanduser()
        found = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        if not found:
            raise VqError(f"calibration text {path}: the folder holds no .txt file")
        files += found
    texts = []
    for path in files:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise VqError(f"calibration text {path}: no such file") from error
        except (UnicodeDecodeError, IsADirectoryError) as error:
            raise VqError(f"calibration text {path}: expected UTF-8 text ({error})") from error
    if not any(text.strip() for text in texts):
        raise VqError("calibration text: all files are empty; pass a text with --text")
    return texts


def load_tokenizer(folder: Path) -> Any:
    """Tokenizer of a model folder.

    Raises:
        VqError: if the folder has none, or transformers cannot read it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # a missing file gives OSError, TypeError or ValueError by version
        raise VqError(
            f"{folder}: no usable tokenizer ({type(error).__name__}: {str(error).splitlines()[0][:120]}); "
            "copy tokenizer.json and tokenizer_config.json into it"
        ) from error


def tokenize(texts: list[str], tokenizer: Any) -> Tensor:
    """All texts as one int64 sequence ``(tokens,)``, without special tokens."""
    rows = [tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]
    return torch.cat([torch.tensor(row, dtype=torch.int64) for row in rows])


def choose_windows(tokens: Tensor, windows: int, context: int, seed: int = 0) -> Windows:
    """Disjoint windows spread over a text: one at a random place of each of ``windows`` equal parts.

    Args:
        tokens: ``(n,)``.
        windows: how many; where the text is too short for them, all that fit are taken and a warning says so.
        context: tokens of a window.
        seed: of the places.

    Raises:
        VqError: if the text is shorter than one window.
    """
    if windows < 1 or context < 2:
        raise VqError(f"expected at least 1 window of 2 tokens, got {windows} of {context}")
    total = tokens.numel()
    if total < context:
        raise VqError(
            f"calibration text has {total} tokens, shorter than one context of {context}; "
            "pass more text or a smaller --context"
        )
    fitting = min(windows, total // context)
    if fitting < windows:
        warnings.warn(
            f"calibration text has {total} tokens: {fitting} windows of {context} instead of {windows}",
            stacklevel=2,
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(fitting):
        low, high = i * total // fitting, (i + 1) * total // fitting
        shift = int(torch.randint(high - low - context + 1, (1,), generator=generator))
        rows.append(tokens[low + shift : low + shift + context])
    chosen = torch.stack(rows)
    return Windows(chosen, total, digest(chosen))


def digest(tokens: Tensor) -> str:
    """SHA-256 of tokens."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
