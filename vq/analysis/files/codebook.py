"""Codebooks of the library: a file with a spec in its metadata, as those that are shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vq.analysis.files.open import OWN, opener
from vq.analysis.files.tables import tables_of
from vq.analysis.subject import Subject
from vq.codebooks import Codebook, build
from vq.errors import VqError


def _looks(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "spec" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


@opener("codebook of this library (.safetensors with a spec)", _looks, OWN)
def open_codebook(path: Path) -> Subject:
    """A codebook with its tables.

    Raises:
        VqError: if the spec names no codebook or the tables do not fit it.
    """
    with safe_open(path, framework="pt") as file:
        about = dict(file.metadata() or {})
        state = {key: file.get_tensor(key).float() for key in file.keys()}
    try:
        book = build(about["spec"])
        unknown = book.load_state_dict(state, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"tensors {', '.join(unknown)} do not belong to {about['spec']}")
    except (ValueError, RuntimeError) as error:
        raise VqError(f"{path}: {error}") from error
    return subject_of(book, path, {k: v for k, v in about.items() if k != "mse"})


def subject_of(book: Codebook, path: Path, facts: dict[str, Any] | None = None) -> Subject:
    """What is to be measured of a codebook that can encode."""
    tables, structure = tables_of(book)
    about = {
        **(facts or {}),
        "spec": str(book.spec),
        "dim": book.dim,
        "rate": book.rate,
        "entries": book.entries,
        "distortion": book.distortion,
        "units": "N(0, 1)",
    }

    def encode(x: Tensor) -> Tensor:
        return book.encode(x).reshape(len(x), -1)

    return Subject(
        kind="codebook",
        name=str(book.spec),
        path=path,
        facts=about,
        tables=tables,
        structure=structure,
        encode=encode if book.fitted else None,
        quantize=book if book.fitted else None,
    )
