"""Compressed models and, to compare with, models that are not: Hugging Face folders of safetensors."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vq.analysis.files.open import OWN, opener
from vq.analysis.files.packed import Header, decode_packed, rotate, signs_of, spread_scales
from vq.analysis.files.sides import COLUMNS, SIDES, beside, decode_own, second_codes
from vq.analysis.rules.words import natural
from vq.analysis.subject import Layer, Subject
from vq.codebooks import Codebook, build
from vq.errors import VqError

_SHARED = "vq_codebooks."
_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F32": 4, "I32": 4, "U32": 4,
          "F64": 8, "I64": 8, "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1}  # fmt: skip


def _config(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def _looks(path: Path) -> bool:
    config = _config(path) if path.is_dir() else None
    ours = (config or {}).get("quantization_config") or {}
    return isinstance(ours, dict) and ours.get("quant_method") == "vq"


def _looks_plain(path: Path) -> bool:
    config = _config(path) if path.is_dir() else None
    plain = config is not None and "model_type" in config and "quantization_config" not in config
    return plain and any(path.glob("*.safetensors"))


class _Files:
    """Tensors of a folder by name, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.where: dict[str, Path] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise VqError(f"{folder}: expected *.safetensors files, found none")
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():
                        part = opened.get_slice(name)
                        self.where[name] = file
                        self.shapes[name] = (tuple(part.get_shape()), part.get_dtype())
            except (OSError, SafetensorError) as error:
                raise VqError(f"{file}: damaged ({error}); get it again") from error
        self.bytes = sum(file.stat().st_size for file in files)

    def get(self, name: str) -> Tensor:
        """One tensor."""
        with safe_open(self.where[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def bits(self, name: str) -> int:
        """Stored bits of a tensor."""
        shape, kind = self.shapes[name]
        return 8 * math.prod(shape) * _BYTES[kind]


@opener("folder of a compressed model", _looks, OWN)
def open_model(path: Path) -> Subject:
    """Layers of a compressed model.

    Raises:
        VqError: for weights that are missing or damaged, or a codebook that cannot be built.
    """
    config = _config(path)
    assert config is not None
    about = config["quantization_config"]
    files = _Files(path)
    report = _report(path)
    books = {key: _book(path, files, key, entry) for key, entry in about["codebooks"].items()}
    packed = (
        name.removesuffix(".weight")
        for name, (_, kind) in files.shapes.items()
        if name.endswith(".weight") and kind == "U8" and not name.startswith(_SHARED)
    )
    chosen = dict(about.get("layers", {}))
    table = about.get("embeddings") or {}
    chosen |= {table["module"]: table["codebook"]} if table else {}
    apart = {n for n, key in chosen.items() if table and key == table["codebook"]}
    names = sorted((n for n in packed if n not in apart), key=natural)
    layers = tuple(
        _layer(
            files,
            name,
            books[chosen.get(name, about["default_codebook"])],
            report.get("layers", {}).get(name, {}),
        )
        for name in names
    )
    shared = sum(files.bits(n) for n in files.shapes if n.startswith(_SHARED))
    prefixes = tuple(f"{name}." for name in names)
    other = [n for n in files.shapes if not n.startswith((_SHARED, *prefixes))]
    facts = {
        "model_type": config.get("model_type"),
        "codebooks": {key: entry["spec"] for key, entry in about["codebooks"].items()},
        "rotation": about.get("rotation"),
        "rounding": about.get("rounding"),
        "library_version": about.get("library_version"),
        "file_bytes": files.bytes,
        "codebook_bits": shared,
        "other_bits": sum(files.bits(n) for n in other),
        "other_weights": sum(_weights(files, n, apart) for n in other),
        "options": report.get("options"),
    }
    return Subject(kind="model", name=path.name, path=path, facts=facts, layers=layers)


def _weights(files: _Files, name: str, apart: set[str]) -> int:
    """Weights in a tensor beside the layers: for packed embeddings and heads (``apart``) those they stand for."""
    module, _, part = name.rpartition(".")
    if module not in apart:
        return math.prod(files.shapes[name][0])
    if part != "weight":
        return 0
    header = Header.of(files.get(name)[:64].numpy().tobytes(), module)
    return header.out_features * header.in_features


def _report(path: Path) -> dict[str, Any]:
    """``compression.json``, empty where there is none."""
    try:
        found = json.loads((path / "compression.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _book(path: Path, files: _Files, key: str, entry: dict[str, Any]) -> Codebook:
    prefix = f"{_SHARED}{key}."
    state = {n.removeprefix(prefix): files.get(n) for n in files.shapes if n.startswith(prefix)}
    try:
        book = build(entry["spec"])
        book.load_state_dict(state, strict=False)
    except (ValueError, RuntimeError) as error:
        raise VqError(f"{path}: codebook {key}: {error}") from error
    return book


def _layer(files: _Files, name: str, book: Codebook, report: dict[str, Any]) -> Layer:
    head = files.get(f"{name}.weight")
    header = Header.of(head[:64].numpy().tobytes(), name)
    bits: dict[str, int] = {"codes": 8 * (len(head) - 64), "header": 8 * 64}
    for full in files.shapes:
        part = full.removeprefix(f"{name}.")
        if part != full and part not in ("weight", "bias"):
            bits[part] = files.bits(full)

    def units() -> Tensor:
        weight = files.get(f"{name}.weight")
        if f"{name}.tables" in files.shapes:
            found = decode_own(weight, files.get(f"{name}.tables"), name)
        else:
            found = decode_packed(weight, book, name)
        if f"{name}.column_index" not in files.shapes:
            return found
        parts = {part: files.get(f"{name}.{part}") for part in COLUMNS}
        return found + second_codes(parts, header.out_features, header.in_features, name)

    turn = functools.partial(_turn, files, name)
    has_rotation = f"{name}.signs_in" in files.shapes or f"{name}.signs_out" in files.shapes
    return Layer(
        name=name,
        shape=(header.out_features, header.in_features),
        spec=str(book.spec),
        bits=bits,
        report=report,
        dense=lambda: _dense(files, name, header, units),
        units=units,
        rotate=turn if has_rotation else None,
    )


def _dense(files: _Files, name: str, header: Header, units: Callable[[], Tensor]) -> Tensor:
    """The matrix as it is used: scales, then the rotation taken back, and what stands beside the codes."""
    matrix = units() * spread_scales(files.get(f"{name}.scales"), header, name)
    if f"{name}.signs_in" in files.shapes:
        signs = signs_of(files.get(f"{name}.signs_in"), matrix.shape[1])
        matrix = rotate(matrix) * signs
    if f"{name}.signs_out" in files.shapes:
        signs = signs_of(files.get(f"{name}.signs_out"), matrix.shape[0])
        matrix = (rotate(matrix.T.contiguous()) * signs).T.contiguous()
    parts = {p: files.get(f"{name}.{p}") for p in SIDES if f"{name}.{p}" in files.shapes}
    more = beside(parts, len(matrix), matrix.shape[1], name)
    return matrix if more is None else matrix + more


def _turn(files: _Files, name: str, matrix: Tensor) -> Tensor:
    """A dense matrix in the rotated space."""
    if f"{name}.signs_out" in files.shapes:
        signs = signs_of(files.get(f"{name}.signs_out"), matrix.shape[0])
        matrix = rotate((matrix.T * signs).contiguous()).T.contiguous()
    if f"{name}.signs_in" in files.shapes:
        signs = signs_of(files.get(f"{name}.signs_in"), matrix.shape[1])
        matrix = rotate(matrix * signs)
    return matrix


@opener("folder of a model, to compare with", _looks_plain, OWN)
def open_plain_model(path: Path) -> Subject:
    """Matrices of a model that is not compressed.

    Raises:
        VqError: for weights that are missing or damaged.
    """
    files = _Files(path)
    floats = ("F32", "F16", "BF16", "F64")
    weights = {
        name.removesuffix(".weight"): functools.partial(_float, files, name)
        for name, (shape, kind) in files.shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and kind in floats
    }
    facts = {"model_type": (_config(path) or {}).get("model_type"), "file_bytes": files.bytes}
    return Subject(kind="model", name=path.name, path=path, facts=facts, weights=weights)


def _float(files: _Files, name: str) -> Tensor:
    return files.get(name).to(torch.float32)
