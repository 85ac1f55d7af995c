"""Bare arrays: float matrices are tables of code vectors, integers are codes; .npy, .npz, .safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from vq.analysis.files.open import BARE, opener
from vq.analysis.subject import Chunk, Codes, Subject, Table
from vq.errors import VqError

_SUFFIXES = (".npy", ".npz", ".safetensors")
_MOST_STREAMS = 64
_CHUNK = 1 << 22
_VECTORS, _LABELS = ("vectors", "features", "x", "data"), ("labels", "label", "y", "factors")


def _looks(path: Path) -> bool:
    return path.is_file() and path.suffix in _SUFFIXES


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name; ``.npy`` holds one, without a name.

    Raises:
        VqError: for a file that is damaged, holds Python objects, or is of another kind.
    """
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: _numpy(file.get_tensor(name)) for name in file.keys()}
    except (OSError, ValueError, SafetensorError) as error:
        raise VqError(f"{path}: cannot be read ({error})") from error
    raise VqError(f"{path}: expected a file of {', '.join(_SUFFIXES)}")


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


@opener("array of code vectors or of codes (.npy, .npz, .safetensors)", _looks, BARE)
def open_array(path: Path) -> Subject:
    """Tables and codes of a file, by their types and names.

    Raises:
        VqError: if there is neither a float matrix nor integers in it.
    """
    arrays = read_arrays(path)
    tables: list[Table] = []
    more: dict[str, Any] = {}
    for name, array in arrays.items():
        short = name.rpartition(".")[2].lower()
        if short in _LABELS and np.issubdtype(array.dtype, np.integer):
            more["labels"] = array
        elif short in _VECTORS and _is_matrix(array):
            more["vectors"] = _reader(array)
        elif _is_matrix(array):
            tables += _tables(name, array)
        elif np.issubdtype(array.dtype, np.integer) and array.size > 1 and "codes" not in more:
            more["codes"] = codes_of(array)
    if not tables and "codes" not in more:
        found = ", ".join(
            f"{n or 'array'} {a.dtype} {a.shape}" for n, a in list(arrays.items())[:5]
        )
        raise VqError(
            f"{path}: expected a float matrix (entries, dim) or integers, got {found or 'nothing'}"
        )
    if len(tables) == 1:
        tables = [Table("", tables[0].values)]
    kind = "codebook" if tables else "tokens"
    facts = {"arrays": {n or path.stem: list(a.shape) for n, a in arrays.items()}}
    return Subject(kind=kind, name=path.name, path=path, facts=facts, tables=tuple(tables), **more)  # type: ignore[arg-type]  # made above by name


def _is_matrix(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating) and array.ndim in (2, 3) and min(array.shape) > 0


def _tables(name: str, array: np.ndarray) -> list[Table]:
    """One table, or one for each row of a stack ``(stages, entries, dim)``."""
    values = torch.from_numpy(np.array(array, np.float32))
    if values.ndim == 2:
        return [Table(name, values)]
    return [Table(f"{name} stage {i}".strip(), table) for i, table in enumerate(values)]


def _reader(array: np.ndarray) -> Any:
    return lambda: torch.from_numpy(np.array(array, np.float32)).flatten(0, -2)


def codes_of(array: np.ndarray, entries: tuple[int, ...] | None = None) -> Codes:
    """Codes ``(n,)``, ``(Q, n)`` or ``(n, Q)`` (the shorter side is Q), or ``(items, Q, n)``.

    Args:
        array: integers; -1 is nothing.
        entries: values each code can take; None for one more than the largest there is.

    Raises:
        VqError: for another number of axes.
    """
    if array.ndim == 1:
        streams = array[None]
    elif array.ndim == 2:
        streams = array if array.shape[0] <= min(array.shape[1], _MOST_STREAMS) else array.T
        if streams.shape[0] > _MOST_STREAMS:
            streams = array.reshape(1, -1)
    elif array.ndim == 3:
        streams = array.transpose(1, 0, 2).reshape(array.shape[1], -1)
    else:
        raise VqError(f"codes: expected (n,), (Q, n), (n, Q) or (items, Q, n), got {array.shape}")
    each = array.shape[2] if array.ndim == 3 else streams.shape[1]
    found = entries or tuple(max(int(row.max()) + 1, 2) for row in streams)

    def read() -> Iterator[Chunk]:
        """All streams from the beginning, a piece at a time, with the places where items begin."""
        for start in range(0, streams.shape[1], _CHUNK):
            part = streams[:, start : start + _CHUNK]
            first = -(-start // each) * each
            yield Chunk(part, np.arange(first, start + part.shape[1], each) - start)

    items = streams.shape[1] // max(each, 1)
    names = tuple(f"code {q}" for q in range(len(streams))) if len(streams) > 1 else ()
    return Codes(found, read, streams.shape[1], items, names)
