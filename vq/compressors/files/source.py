"""Opening a model for reading one tensor at a time: a Hugging Face folder, a hub id, a GGUF or CTranslate2 file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vq.codebooks.spec import nearest_names
from vq.compressors.files.ctranslate2 import is_ctranslate2
from vq.compressors.files.tensorfile import TensorEntry, fingerprint, read_header
from vq.errors import VqError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class ModelSource:
    """A model on disk whose tensors are read one by one.

    Attributes:
        name: what the user called it.
        folder: Hugging Face folder with config, tokenizer and safetensors.
        config: content of ``config.json``.
        entries: where each tensor lies.
        origin: file or folder whose content identifies the model.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    entries: dict[str, TensorEntry]
    origin: Path

    def read(self, name: str) -> Tensor:
        """A tensor as stored.

        Raises:
            VqError: if there is none of this name (nearest names are given), or it holds NaN or infinity.
        """
        if name not in self.entries:
            raise VqError(
                f"{self.name}: no tensor {name!r} in the checkpoint; its names may follow another layout "
                f"(load it with transformers and save_pretrained it again). {_near(name, self.entries)}"
            )
        tensor = self.entries[name].read()
        if tensor.is_floating_point() and tensor.itemsize > 1:
            finite = torch.isfinite(tensor)
            if not bool(finite.all()):
                index = [int(i) for i in (~finite).nonzero()[0]]
                raise VqError(
                    f"{self.name}: tensor {name}{index} is {float(tensor[tuple(index)])} "
                    f"({int((~finite).sum())} of {tensor.numel()} numbers are not finite); "
                    "the checkpoint is damaged, fetch or export it again"
                )
        return tensor

    def identity(self) -> dict[str, Any]:
        """What tells this model from another: a fingerprint of every file that is read."""
        if self.origin.is_file():
            return {self.origin.name: fingerprint(self.origin)}
        files = sorted(
            {entry.path for entry in self.entries.values()} | {self.folder / "config.json"}
        )
        return {path.name: fingerprint(path) for path in files}


def _near(name: str, known: dict[str, TensorEntry]) -> str:
    text = nearest_names(name, known)
    return text if len(text) < 400 else text[:400] + " ..."


def open_source(model: str | Path, work: Path) -> ModelSource:
    """Open a model.

    Args:
        model: a folder, a ``.gguf`` file, the ``model.bin`` of a CTranslate2 Whisper, or an id on the hub (used only
            if no such path exists).
        work: folder for a converted copy, where one is needed.

    Raises:
        VqError: if there is no such model, its files are missing, cut short or pickles, or it is quantized already.
    """
    path = locate(model)
    if path.is_file():
        from vq.compressors.files import ctranslate2, gguf

        convert = gguf.convert if path.suffix == ".gguf" else ctranslate2.convert
        folder = convert(path, work / f"source-{fingerprint(path)[:16]}")
        return open_folder(folder, str(model), origin=path)
    return open_folder(path, str(model))


def locate(model: str | Path) -> Path:
    """The folder or file of a model, fetched from the hub if there is no such path.

    Raises:
        VqError: for any other kind of file, or if there is no such model.
    """
    path = Path(model).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if not path.is_file():
        return _download(str(model))
    if path.suffix == ".bin" and is_ctranslate2(path):
        return path
    if path.suffix == ".safetensors":
        raise VqError(
            f"{path}: expected the folder that holds this file and config.json; pass the folder"
        )
    raise VqError(
        f"{path}: expected a Hugging Face folder, a hub id, a .gguf file or a CTranslate2 Whisper; "
        f"{_advice(path.suffix)}"
    )


def _advice(suffix: str) -> str:
    if f"*{suffix}" in _PICKLES:
        return (
            "pickled checkpoints are never opened, for they can run code; "
            "save the model with save_pretrained(folder), which writes safetensors"
        )
    return "got something else"


def _download(name: str) -> Path:
    """Folder of a hub model; only safe files are fetched."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise VqError(f"{name}: no such file or folder")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise VqError(
            f"{name}: no such folder, and to fetch it from the hub huggingface-hub is needed: "
            "pip install 'vq-toolkit[hf]'"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # the hub raises a dozen kinds, all mean: not to be had
        reason = str(error).strip().split("\n")[0]
        raise VqError(
            f"{name}: no such folder, and the hub did not give it ({type(error).__name__}: {reason}); "
            "check the name and the network, or pass a local folder"
        ) from error


def open_folder(folder: Path, name: str, origin: Path | None = None) -> ModelSource:
    """Open a Hugging Face folder; see open_source."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise VqError(f"{name}: no config.json in {folder}; expected a Hugging Face model folder")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VqError(f"{config_file}: not valid JSON ({error})") from error
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise VqError(
            f"{name}: already quantized (quant_method {method!r}); pass the original model instead"
        )
    entries: dict[str, TensorEntry] = {}
    for path in weight_files(folder):
        for key, entry in read_header(path)[0].items():
            if key in entries:
                raise VqError(
                    f"{name}: tensor {key} is in {entries[key].path.name} and {path.name}"
                )
            entries[key] = entry
    return ModelSource(name, folder, config, entries, origin or folder)


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a Hugging Face folder, in order.

    Raises:
        VqError: if there are none, an indexed one is missing, or an indexed tensor is not where the index says.
    """
    index, single = folder / INDEX, folder / SINGLE
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            where = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise VqError(f"{index}: damaged index ({error}); fetch it again") from error
        files = sorted(set(where.values()))
        for file in files:
            present = read_header(folder / file)[0]
            lost = [name for name, home in where.items() if home == file and name not in present]
            if lost:
                raise VqError(f"{folder / file}: tensor {lost[0]} is missing, but {INDEX} lists it")
        return [folder / file for file in files]
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles:
        raise VqError(f"{folder}: has only {pickles[0]}; {_advice('.bin')}")
    raise VqError(
        f"{folder}: no {SINGLE} and no {INDEX}; expected a folder with safetensors weights"
    )
