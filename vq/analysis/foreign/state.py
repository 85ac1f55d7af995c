"""Codebooks in state dicts of other libraries, known by the names of their tensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vq.analysis.files.open import FOREIGN, OWN, opener
from vq.analysis.foreign.files import PICKLES, Tensors, names_of, read_tensors
from vq.analysis.foreign.keys import ACCEPTED, FAMILIES, Family, families_of, no_table
from vq.analysis.foreign.weights import is_weights, open_weights
from vq.analysis.subject import Subject, Table
from vq.errors import VqError

_FIRST = (
    OWN - 1
)  # before folders of plain models: those of audio and image tokenizers are such folders too


def _looks_file(path: Path) -> bool:
    if not path.is_file():
        return False
    if path.suffix in PICKLES:
        return True
    names = names_of(path) if path.suffix in (".safetensors", ".npz") else []
    return is_weights(names) or bool(families_of(names)) or no_table(names) != ""


def _looks_folder(path: Path) -> bool:
    if not path.is_dir() or (path / "index.json").exists():
        return False
    if read_config(path).get("quantization_config", {}).get("quant_method") == "vq":
        return False
    names = names_of(path)
    if names:
        return is_weights(names) or bool(families_of(names))
    return any(path.glob("pytorch_model*.bin")) or any(path.glob("diffusion_pytorch_model*.bin"))


def read_config(path: Path) -> dict[str, Any]:
    """``config.json`` of a folder or beside a file; empty where there is none. Raises nothing."""
    folder = path if path.is_dir() else path.parent
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    if not isinstance(config.get("quantization_config", {}), dict):
        config.pop("quantization_config")
    return config


@opener("folder of another library's tokenizer or compressed weights", _looks_folder, _FIRST)
def open_foreign_folder(path: Path) -> Subject:
    """Tables of a Hugging Face or diffusers folder, layers of AQLM and VPTQ.

    Raises:
        VqError: as ``open_foreign``.
    """
    return open_foreign(path)


@opener(
    "state dict of another library (.safetensors, .npz, .pt, .pth, .ckpt, .bin)",
    _looks_file,
    FOREIGN,
)
def open_foreign(path: Path) -> Subject:
    """Tables or layers of a state dict.

    Raises:
        VqError: for a damaged or refused file, keys that nobody knows, or those of several libraries at once.
    """
    tensors = read_tensors(path)
    names = list(tensors.readers)
    if is_weights(names):
        return open_weights(tensors, read_config(path))
    lone = _lone(tensors)
    if lone is not None:
        return lone
    found = families_of(names)
    if len(found) == 1:
        return _subject(tensors, found[0])
    why = no_table(names)
    if not found and why:
        raise VqError(f"{path}: {why}")
    if found:
        said = f"tables of several libraries: {', '.join(f.library for f in found)}"
        raise VqError(f"{path}: {said}; {tensors.found()}. Save one of them alone")
    raise VqError(f"{path}: no codebook that is known; {tensors.found()}. Accepted: {ACCEPTED}")


def _lone(tensors: Tensors) -> Subject | None:
    """A pickle that is one float matrix is a table."""
    if set(tensors.readers) != {""}:
        return None
    values = tensors.get("")
    if values.ndim != 2 or not values.is_floating_point():
        raise VqError(
            f"{tensors.path}: expected a state dict or a float matrix (entries, dim), got one tensor "
            f"{tuple(values.shape)} {values.dtype}"
        )
    facts = {"arrays": {tensors.path.stem: list(values.shape)}}
    path = tensors.path
    return Subject("codebook", path.name, path, facts, (Table("", values.detach().float()),))


def _subject(tensors: Tensors, family: Family) -> Subject:
    places = sorted(
        (m for m in map(family.key.fullmatch, tensors.readers) if m),
        key=lambda m: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", m.string)],
    )
    tables: list[Table] = []
    for number, place in enumerate(places):
        tables += family.read(tensors, place, number)
    if not tables:
        raise VqError(f"{tensors.path}: {family.library}: no table in it; {tensors.found()}")
    structure = family.structure(tensors, [p.string for p in places], tables)
    facts: dict[str, Any] = {
        "library": family.library,
        "keys": [p.string for p in places][:8],
        "entries": [len(t.values) for t in tables],
        "dim": tables[0].values.shape[1],
        **structure.facts,
    }
    if len(tables) == 1:
        tables = [Table("", tables[0].values, tables[0].cosine, tables[0].counts)]
    path = tensors.path
    return Subject("foreign", path.name, path, facts, tuple(tables), structure.kind)


__all__ = ["FAMILIES", "open_foreign", "open_foreign_folder", "read_config"]
