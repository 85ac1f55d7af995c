"""Opening models: compressed folders with all checks, and plain ones beside them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch

from vq.compressors.checkpoint.folder import REPORT
from vq.compressors.checkpoint.shards import FORMAT_VERSION
from vq.compressors.files.source import locate, open_folder, weight_files
from vq.compressors.files.tensorfile import read_header
from vq.compressors.structure.skeleton import model_class
from vq.errors import VqError

_CHUNK = 1 << 22


def load(model: str | Path, dtype: torch.dtype | None = None, mode: str | None = None) -> Any:
    """A model, ready to run; its class is the one that its config names.

    Args:
        model: a folder written by ``vq.compress``, or any plain Hugging Face folder, ``.gguf`` file or hub id.
        dtype: of what is not quantized; None for what is stored.
        mode: how packed layers treat activations: ``int15``, ``int8`` or ``float``; None for their default.

    Returns:
        A transformers model in evaluation mode.

    Raises:
        VqError: if the model is missing or damaged, has another format version, or its weights do not match its config.
    """
    folder, gguf = _locate(model)
    options: dict[str, Any] = {"dtype": dtype or "auto", "output_loading_info": True}
    if gguf:
        options["gguf_file"] = gguf
    elif is_compressed(folder):
        check_folder(folder)
    else:
        open_folder(folder, str(model))  # clear errors for missing and damaged files
    loaded, info = _load(folder, options, str(model))
    lost = {key: sorted(map(str, info.get(key, ()))) for key in ("missing_keys", "unexpected_keys")}
    lost["mismatched_keys"] = sorted(str(key) for key in info.get("mismatched_keys", ()))
    for key, names in lost.items():
        if names and not (gguf and key == "unexpected_keys"):
            raise VqError(
                f"{model}: {len(names)} {key.replace('_', ' ')}, first {names[0]}; the weights do not match "
                "config.json"
            )
    if mode is not None:
        set_mode(loaded, mode)
    return loaded.eval()


def _load(folder: Path, options: dict[str, Any], name: str) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    import vq.compressors.huggingface  # noqa: F401 - registers our format

    kind: Any = AutoModelForCausalLM
    if "gguf_file" not in options:
        kind = model_class(_config(folder), name)
    try:
        loaded: Any = kind.from_pretrained(folder, **options)
    except VqError:
        raise
    except (ValueError, RuntimeError) as error:
        raise VqError(f"{name}: transformers could not load it: {error}") from error
    model, info = loaded
    return model, info


def load_tokenizer(model: str | Path) -> Any:
    """Tokenizer of a model; see load.

    Raises:
        VqError: if there is none.
    """
    from transformers import AutoTokenizer

    from vq.compressors.calibration.texts import load_tokenizer as from_folder

    folder, gguf = _locate(model)
    return AutoTokenizer.from_pretrained(folder, gguf_file=gguf) if gguf else from_folder(folder)


def set_mode(model: Any, mode: str) -> None:
    """Set the activation mode of all packed layers.

    Raises:
        VqError: for an unknown mode.
    """
    from vq.compressors.layers.linear import QuantizedLinear
    from vq.kernels.linear import MODES

    if mode not in MODES:
        raise VqError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.mode = mode


def _locate(model: str | Path) -> tuple[Path, str | None]:
    """Folder of a model, and the name of its GGUF file if it is one."""
    path = locate(model)
    return (path.parent, path.name) if path.is_file() else (path, None)


def is_compressed(folder: Path) -> bool:
    """Whether a folder holds a model in our format."""
    return _quantization(folder).get("quant_method") == "vq"


def _quantization(folder: Path) -> dict[str, Any]:
    return _config(folder).get("quantization_config") or {}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise VqError(f"{folder}: no config.json; expected a Hugging Face model folder")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise VqError(f"{path}: not valid JSON ({error})") from error
    return config


def check_folder(folder: Path) -> None:
    """Raise VqError if a compressed folder has another version, or a file is missing, cut short or altered."""
    config = _quantization(folder)
    if config.get("format_version") != FORMAT_VERSION:
        raise VqError(
            f"{folder}: format version {config.get('format_version')} (written by vq "
            f"{config.get('library_version', 'unknown')}), this vq reads version {FORMAT_VERSION}; "
            "upgrade vq-toolkit or compress the model again"
        )
    files = weight_files(folder)
    for path in files:
        entries, metadata = read_header(path)
        if "vq_format" in metadata:
            _check_packed(path, entries)
    _check_files(folder, files)


def _check_packed(path: Path, entries: dict[str, Any]) -> None:
    """Checksums of the packed weights of a file, by name."""
    from vq.kernels.formats import read_packed

    for name, entry in entries.items():
        if name.endswith(".weight") and entry.dtype == torch.uint8 and len(entry.shape) == 1:
            try:
                read_packed(entry.read())
            except ValueError as error:
                raise VqError(
                    f"{path}: tensor {name} is damaged: {error}; fetch it again"
                ) from error


def _check_files(folder: Path, files: list[Path]) -> None:
    """Sizes and checksums of the files that the report lists; files that transformers saved anew are not listed."""
    report = folder / REPORT
    if not report.is_file():
        return
    try:
        listed = json.loads(report.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise VqError(f"{report}: damaged ({error}); fetch it again") from error
    for path in files:
        if path.name not in listed or "vq_format" not in read_header(path)[1]:
            continue
        wanted, size = listed[path.name], path.stat().st_size
        if size != wanted["bytes"]:
            raise VqError(f"{path}: expected {wanted['bytes']} bytes, got {size}; fetch it again")
        if _crc(path) != wanted["crc32"]:
            raise VqError(f"{path}: its checksum is not the one in {REPORT}; fetch it again")


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            crc = zlib.crc32(data, crc)
    return crc
