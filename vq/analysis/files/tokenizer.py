"""Tokenizers: the tables of their quantizer, from the folder's configuration and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from vq.analysis.files.open import OWN, opener
from vq.analysis.files.tables import split_state, tables_of_quantizer
from vq.analysis.subject import Subject
from vq.errors import VqError

_FORMAT = "vq-tokenizer"


def read_config(folder: Path) -> dict[str, Any] | None:
    """``config.json`` of a tokenizer's folder, None where it is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and config.get("format") == _FORMAT else None


def _looks(path: Path) -> bool:
    return path.is_dir() and read_config(path) is not None


@opener("folder of a tokenizer", _looks, OWN)
def open_tokenizer(path: Path) -> Subject:
    """The tables of a tokenizer's quantizer.

    Raises:
        VqError: if its weights are missing or damaged.
    """
    config = read_config(path)
    assert config is not None
    try:
        state = load_file(path / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise VqError(f"{path}: the tokenizer's weights cannot be read ({error})") from error
    quantizer = config.get("quantizer") or {}
    tables, structure = tables_of_quantizer(quantizer, split_state(state))
    facts = {
        "kind": config.get("kind"),
        "backbone": config.get("backbone", {}).get("name"),
        "quantizer": quantizer.get("kind"),
        "codebook": quantizer.get("codebook"),
        "sample_rate": config.get("sample_rate"),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "model_hash": config.get("model_hash"),
    }
    return Subject(
        kind="tokenizer", name=path.name, path=path, facts=facts, tables=tables, structure=structure
    )
