"""Packing the embeddings, and the head, of a compressed folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks import Codebook
from vq.compressors.checkpoint.shards import write_shards
from vq.compressors.files.source import INDEX, weight_files
from vq.compressors.files.tensorfile import Pending, pending, read_header, write_json
from vq.compressors.layers.linear import header_for
from vq.compressors.options import CompressOptions
from vq.compressors.rounding.block import derived_seed
from vq.compressors.rounding.packing import pack, parts
from vq.compressors.rounding.round import RoundedMatrix, RoundingOptions, round_matrices
from vq.compressors.rounding.shelf import SHARED, fitted
from vq.errors import VqError
from vq.kernels.formats import PANELS


class NoEmbeddings(VqError):
    """The model has no table of embeddings that can be packed."""


_CHUNK = 1 << 24  # weights rounded at once: rows do not influence each other
_ID = "embeddings"  # of the codebook


def pack_embeddings(
    folder: Path, model: nn.Module, options: CompressOptions, max_shard_bytes: int
) -> dict[str, Any]:
    """Pack the embeddings of a folder that ``folder.assemble`` wrote, and a head that is not among its layers.

    Rows are rounded to the nearest codes: each row is as important as its token. A tied head takes the codes of the
    embeddings; one of its own is packed with the same codebook.

    Args:
        folder: changed in place; its report and config too.
        model: the modules, for their names; weights are read from the folder.
        options: ``packed_embeddings`` names the codebook.
        max_shard_bytes: largest weight file.

    Returns:
        The new report.

    Raises:
        NoEmbeddings: if the model has none that can be packed; the folder is as it was.
        VqError: if the codebook cannot be used for them.
    """
    book = fitted(options.packed_embeddings, options.seed)
    if header_for(book, 64, 64).layout != PANELS:
        raise VqError(f"embeddings: {book.spec} has no table; expected one such as uniform(bits=8)")
    tensors: dict[str, Pending] = {}
    for file in weight_files(folder):
        entries, _ = read_header(file)
        tensors.update({n: Pending(e.dtype, e.shape, e.read) for n, e in entries.items()})
    name, head, tied = _modules(model, set(tensors))
    packed, reports = {}, {}
    for module in [name] if tied or head is None else [name, head]:
        rotation = options.rotation if module == head or options.rotation == "none" else "input"
        dense = tensors.pop(f"{module}.weight")
        own, reports[module] = _packed(module, dense, book, rotation, options)
        packed.update(own)
    shared = {f"{SHARED}.{_ID}.{key}": pending(value) for key, value in book.state_dict().items()}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    scale = _scale(model.get_submodule(name))  # type: ignore[arg-type]
    _describe(config["quantization_config"], book, (name, head, tied), options, scale)
    report = json.loads((folder / "compression.json").read_text(encoding="utf-8"))
    moved = sum(item.size for item in packed.values())
    kept = {n: t for n, t in tensors.items() if not n.startswith(f"{SHARED}.{_ID}.")}
    report["embeddings"] = {"layers": reports, "bytes": moved}
    report["totals"]["other_bytes"] -= sum(r.pop("dense_bytes") for r in reports.values())
    _replace(folder, {**kept, **packed, **shared}, config, report, max_shard_bytes)
    return report


def _replace(
    folder: Path,
    tensors: dict[str, Pending],
    config: dict[str, Any],
    report: dict[str, Any],
    max_shard_bytes: int,
) -> None:
    """Write a folder anew, and put it in the place of the old one; the report learns of its files."""
    new = folder.with_name(folder.name + "-embeddings")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    report["files"] = write_shards(new, tensors, max_shard_bytes)
    for path in folder.iterdir():
        if path.suffix != ".safetensors" and path.name not in (INDEX, "config.json"):
            shutil.copyfile(path, new / path.name)
    write_json(new / "config.json", config)
    write_json(new / "compression.json", report)
    shutil.rmtree(folder)
    new.rename(folder)


def _modules(model: nn.Module, stored: set[str]) -> tuple[str, str | None, bool]:
    """Names of the embeddings and the head (None: no dense one is stored or tied), and whether they are tied."""
    library: Any = model
    names = {module: name for name, module in model.named_modules()}
    try:
        table, output = library.get_input_embeddings(), library.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        table = output = None
    name = names.get(table)
    if name is None or not isinstance(table, nn.Embedding) or f"{name}.weight" not in stored:
        raise NoEmbeddings(
            "embeddings: found no table of embeddings that is stored under its own name"
        )
    sharing = [
        other
        for other, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding)
        and other != name
        and f"{other}.weight" not in stored
        and module.weight.shape == table.weight.shape
    ]
    if sharing:
        raise NoEmbeddings(f"embeddings: {name} is shared with {', '.join(sharing)}")
    _scale(table)
    head = names.get(output) if isinstance(output, nn.Linear) else None
    tied = head is not None and f"{head}.weight" not in stored
    return name, head, tied


def _scale(table: nn.Embedding) -> float:
    """What a table multiplies its rows by: 1, or ``embed_scale`` of the scaled embeddings of Gemma and others.

    Raises:
        NoEmbeddings: for a table that computes something else.
    """
    if type(table).forward is nn.Embedding.forward:
        return 1.0
    found = getattr(table, "scalar_embed_scale", getattr(table, "embed_scale", None))
    if not isinstance(found, (int, float)):
        raise NoEmbeddings(f"embeddings: {type(table).__name__} is more than a look-up of rows")
    return float(found)


def _packed(
    name: str, dense: Pending, book: Codebook, rotation: str, options: CompressOptions
) -> tuple[dict[str, Pending], dict[str, Any]]:
    """Tensors and figures of one packed matrix."""
    weight = dense.load().float()
    settings = RoundingOptions("nearest", rotation, options.damping, options.scale)
    # rows that are rotated among each other stay together
    rows = len(weight) if rotation == "both" else max(64, _CHUNK // weight.shape[1])
    pieces: list[RoundedMatrix] = []
    error = energy = 0.0
    for chunk in weight.split(rows):  # equal seeds: all chunks share their signs
        seed = derived_seed(options.seed, name)
        piece = round_matrices({name: chunk}, None, book, settings, seed=seed)[name]
        pieces.append(piece)
        power = float(chunk.double().square().sum())
        error, energy = error + piece.proxy_error * power, energy + power
    whole = replace(
        pieces[0],
        codes=torch.cat([piece.codes for piece in pieces]),
        scales=torch.cat([piece.scales for piece in pieces]),
    )
    layer = pack(whole, book, weight.shape[1])
    report = {
        "codebook": str(book.spec),
        "shape": list(weight.shape),
        "bits_per_weight": round(layer.bits_per_weight, 6),
        "relative_error": error / max(energy, 1e-30),
        "dense_bytes": dense.size,
    }
    return {key: pending(_own(value)) for key, value in parts(name, layer).items()}, report


def _own(value: Tensor) -> Tensor:
    return value.contiguous()


def _describe(
    config: dict[str, Any],
    book: Codebook,
    modules: tuple[str, str | None, bool],
    options: CompressOptions,
    scale: float,
) -> None:
    """Write into ``quantization_config`` what is packed."""
    name, head, tied = modules
    config["codebooks"][_ID] = {"spec": str(book.spec), "version": book.version}
    config["embeddings"] = {
        "module": name,
        "codebook": _ID,
        "rotate": options.rotation != "none",
        "tied": head if tied else None,
        "scale": scale,
    }
    if head is not None and not tied:
        config["modules_to_not_convert"].remove(head)
        config["layers"][head] = _ID
