"""GGUF files: converted once to an fp16 Hugging Face folder, from which everything else reads."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from vq._files import sync_folder
from vq.errors import VqError


def convert(path: Path, target: Path) -> Path:
    """Folder with the model of a GGUF file in float16, made unless it is there.

    Block-quantized tensors are expanded: what is compressed is the model of this file, not the one it was made from.

    Args:
        path: a ``.gguf`` file.
        target: folder to make; it appears only when complete.

    Raises:
        VqError: if the file is not GGUF or cut short, transformers does not know its architecture, or a
            package is missing.
    """
    if target.is_dir():
        return target
    _check(path)
    try:
        import gguf  # noqa: F401 - transformers needs it and would say so later and longer
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise VqError(
            f"{path}: reading GGUF needs transformers and gguf: pip install 'vq-toolkit[hf]' ({error})"
        ) from error
    folder, name = str(path.parent), path.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.float16
        )
    except Exception as error:  # the loader raises whatever its parser stumbles over
        raise VqError(
            f"{path}: transformers cannot read this GGUF file ({type(error).__name__}: {error}); "
            "pass the original Hugging Face model instead"
        ) from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the expanded model is a plain one
    model.hf_quantizer = None
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    temporary.rename(target)
    sync_folder(target.parent)
    return target


def _check(path: Path) -> None:
    """Raise unless the file starts like GGUF."""
    if not path.is_file():
        raise VqError(f"{path}: no such file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise VqError(f"{path}: expected a GGUF file (magic b'GGUF'), got {magic!r}")
