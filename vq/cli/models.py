"""Opening models for evaluation and generation, compressed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vq.cli.common import need_transformers
from vq.errors import VqError


def open_model(name: str, dtype: str = "float32", mode: str | None = None) -> tuple[Any, Any]:
    """A causal language model in evaluation mode and its tokenizer.

    Args:
        name: a folder written by ``vq compress`` or by transformers, a ``.gguf`` file, or a hub id.
        dtype: of what is not quantized.
        mode: activation mode of packed layers; None for the default.

    Raises:
        VqError: if there is no such model.
    """
    need_transformers()
    from vq.compressors.loading import load, load_tokenizer

    try:
        return load(name, dtype=getattr(torch, dtype), mode=mode).eval(), load_tokenizer(name)
    except OSError as error:
        if Path(name).exists():
            raise
        raise VqError(f"{name}: no such model folder or file, and not to be had online") from error
