"""Tensors of files that other libraries wrote, by name; nothing in a file is ever executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vq.errors import VqError

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_NESTS = ("state_dict", "model_state_dict", "model", "best_state", "module", "generator", "ema")
_MOST_LISTED = 8


@dataclass(frozen=True, eq=False)
class Tensors:
    """Tensors by name, read when asked for.

    Attributes:
        path: file or folder.
        readers: one for each name.
    """

    path: Path
    readers: Mapping[str, Callable[[], Tensor]]

    def __contains__(self, name: str) -> bool:
        return name in self.readers

    def get(self, name: str) -> Tensor:
        """One tensor as it is stored.

        Raises:
            VqError: if it is missing or its file is damaged.
        """
        if name not in self.readers:
            raise VqError(f"{self.path}: tensor {name} is missing; {self.found()}")
        try:
            return self.readers[name]()
        except (OSError, ValueError, SafetensorError) as error:
            raise VqError(f"{self.path}: {name} cannot be read ({error})") from error

    def floats(self, name: str) -> Tensor:
        """One tensor as float32."""
        return self.get(name).detach().float()

    def found(self) -> str:
        """Names and shapes of the first tensors, for messages."""
        names = sorted(self.readers)
        listed = [f"{n} {tuple(self.get(n).shape)}" for n in names[:_MOST_LISTED]]
        more = len(names) - len(listed)
        tail = f" and {more} more" if more > 0 else ""
        return f"found {', '.join(listed) or 'no tensors'}{tail}"


def weight_files(path: Path) -> list[Path]:
    """Files with the tensors of a path: itself, or those of a Hugging Face folder; empty for none."""
    if path.is_file():
        return [path] if path.suffix in (".safetensors", ".npz", *PICKLES) else []
    for index in sorted(path.glob("*.index.json")):
        names = _index(index)
        if names:
            return [path / name for name in names]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "diffusion_pytorch_model*.bin"):
        files = sorted(path.glob(pattern))
        if files:
            return files
    return []


def _index(path: Path) -> list[str]:
    """Names of the shards of an index, only such that lie beside it."""
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(n for n in names if isinstance(n, str) and Path(n).name == n)


def names_of(path: Path) -> list[str]:
    """Names of the tensors without reading any; empty where that is not possible. Raises nothing."""
    names: list[str] = []
    try:
        for file in weight_files(path):
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as opened:
                    names += opened.keys()
            elif file.suffix == ".npz":
                with zipfile.ZipFile(file) as archive:
                    names += [n.removesuffix(".npy") for n in archive.namelist()]
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return []
    return names


def read_tensors(path: Path) -> Tensors:
    """All tensors of a file or a folder.

    Raises:
        VqError: for a file that is missing, damaged, or a pickle that holds more than tensors.
    """
    readers: dict[str, Callable[[], Tensor]] = {}
    for file in weight_files(path):
        if not file.is_file():
            raise VqError(f"{file}: named by the index but not there; get the folder again")
        readers.update(_readers(file))
    return Tensors(path, readers)


def _readers(file: Path) -> dict[str, Callable[[], Tensor]]:
    if file.suffix in PICKLES:
        return {name: _held(value) for name, value in read_pickle(file).items()}
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return {n: _held(torch.from_numpy(arrays[n])) for n in arrays.files}
        with safe_open(file, framework="pt") as opened:
            return {name: _stored(file, name) for name in opened.keys()}
    except (OSError, ValueError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        raise VqError(f"{file}: damaged ({error}); get it again") from error


def _held(value: Tensor) -> Callable[[], Tensor]:
    """A reader of what is in memory already."""
    return lambda: value


def _stored(file: Path, name: str) -> Callable[[], Tensor]:
    """A reader that opens the file when it is called."""

    def read() -> Tensor:
        with safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    return read


def read_pickle(file: Path) -> dict[str, Tensor]:
    """Tensors of a file of ``torch.save``, read with ``weights_only=True``, so that no code of the file runs.

    Raises:
        VqError: if the file holds objects beside tensors and plain values, is damaged, or has no tensors.
    """
    try:
        loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        why = next((line.strip() for line in reason if "GLOBAL" in line), reason[0][:200])
        raise VqError(
            f"{file}: refused, it holds Python objects beside tensors or is damaged ({why}). Opening it could run "
            "code from the file. Save the state dict alone: safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise VqError(f"{file}: damaged or not a file of torch.save ({error})") from error
    return _state(loaded)


def _state(loaded: Any) -> dict[str, Tensor]:
    """The innermost state dict under the usual names; a lone tensor has the name ''."""
    if isinstance(loaded, Tensor):
        return {"": loaded}
    if not isinstance(loaded, Mapping):
        return {}
    for nest in _NESTS:
        if isinstance(loaded.get(nest), Mapping):
            found = _state(loaded[nest])
            if found:
                return found
    return {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
