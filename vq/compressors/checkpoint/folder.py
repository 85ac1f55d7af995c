"""Writing a compressed model as a Hugging Face folder, and putting it in its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import vq
from vq.compressors.calibration.samples import Samples
from vq.compressors.checkpoint.shards import FORMAT_VERSION, write_shards
from vq.compressors.files.source import INDEX, ModelSource
from vq.compressors.files.tensorfile import Pending, pending, read_header, write_json
from vq.compressors.files.workfolder import WorkFolder
from vq.compressors.options import CompressOptions
from vq.compressors.report import experts_of, left_alone
from vq.compressors.rounding.shelf import SHARED, Shelf
from vq.compressors.structure.experts import fused_of
from vq.compressors.structure.skeleton import Skeleton
from vq.errors import VqError

REPORT = "compression.json"
_COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
_NOT_COPIED = {"config.json", INDEX, REPORT, "adapter_config.json"}


def check_output(target: Path, overwrite: bool) -> None:
    """Raise VqError if the output cannot or must not be written."""
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise VqError(
                f"{target}: the folder exists and is not empty; choose another output or use --overwrite"
            )
        if not (target / "config.json").is_file():
            raise VqError(f"{target}: not a model folder (no config.json), it is not overwritten")
    elif target.exists() and not target.is_dir():
        raise VqError(f"{target}: a file is in the way; expected a folder to make")


def assemble(
    source: ModelSource,
    work: WorkFolder,
    skeleton: Skeleton,
    shelf: Shelf,
    options: CompressOptions,
    max_shard_bytes: int,
    samples: Samples | None,
) -> tuple[Path, dict[str, Any]]:
    """Write the complete folder inside the work folder.

    Returns:
        The folder, and the report that is in it.
    """
    folder = work.path / "assembled"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    packed, layers = _finished(skeleton, work)
    tuned = {
        n: packed.pop(n)
        for n in list(packed)
        if n in source.entries and n[: -len(".weight")] not in layers
    }
    shared = _codebook_tensors(shelf)
    plain = _plain(source, skeleton, set(layers)) | tuned
    report = {
        **_report(layers, {**packed, **shared}, plain, options),
        "files": write_shards(folder, {**plain, **packed, **shared}, max_shard_bytes),
        "coverage": round(skeleton.coverage(set(layers)), 6),
        "left_alone": left_alone(skeleton, set(layers)),
        "calibration": None if samples is None else samples.summary,
        "tuning": work.tuning_report(),
    }
    experts = experts_of(layers)
    if experts:
        report["experts"] = experts
    config = {**source.config, "quantization_config": quantization_config(skeleton, shelf, options)}
    write_json(folder / "config.json", config)
    _copy_others(source.folder, folder)
    write_json(folder / REPORT, report)
    return folder, report


def _finished(skeleton: Skeleton, work: WorkFolder) -> tuple[dict[str, Pending], dict[str, Any]]:
    """Packed tensors and layer reports of all blocks."""
    packed: dict[str, Pending] = {}
    layers: dict[str, Any] = {}
    for index in range(len(skeleton.blocks)):
        entries, metadata = read_header(work.block_file(index))
        layers.update(json.loads(metadata["reports"]))
        packed.update({n: Pending(e.dtype, e.shape, e.read) for n, e in entries.items()})
    packed.update({n: Pending(e.dtype, e.shape, e.read) for n, e in work.tuned().items()})
    return packed, layers


def _plain(source: ModelSource, skeleton: Skeleton, packed: set[str]) -> dict[str, Pending]:
    """What is not packed: tensors of the source, and from fused experts what is left of them."""
    used = {key for layer in packed for key in skeleton.stored(f"{layer}.weight")}
    fused = skeleton.unfused(packed)
    rest: dict[str, Pending] = {}
    for name, origin in skeleton.origins.items():
        if origin.index is None or fused_of(name) not in fused:
            continue
        used |= skeleton.stored(name)
        layer, _, part = name.rpartition(".")
        if layer not in packed or part != "weight":
            rest[name] = _from_origin(skeleton, name)
    entries = {
        name: Pending(entry.dtype, entry.shape, entry.read)
        for name, entry in source.entries.items()
        if name not in used
    }
    return {**entries, **rest}


def _from_origin(skeleton: Skeleton, name: str) -> Pending:
    """A part of a fused tensor that is written on its own."""
    shape = tuple(skeleton.model.get_parameter(name).shape)
    dtype = skeleton.source.entries[min(skeleton.stored(name))].dtype
    return Pending(dtype, shape, lambda: skeleton.read(name).contiguous())


def publish(folder: Path, target: Path) -> None:
    """Put the finished folder in its place; an older one leaves only when the new one is complete."""
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if not target.exists():
        folder.rename(target)
        return
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    folder.rename(target)
    shutil.rmtree(old)


def _codebook_tensors(shelf: Shelf) -> dict[str, Pending]:
    """Tables of the codebooks, each once."""
    return {
        f"{SHARED}.{book_id}.{name}": pending(tensor)
        for book_id, book in shelf.books.items()
        for name, tensor in book.state_dict().items()
    }


def quantization_config(
    skeleton: Skeleton, shelf: Shelf, options: CompressOptions
) -> dict[str, Any]:
    """The ``quantization_config`` entry of ``config.json``."""
    blocks = {n for i in range(len(skeleton.blocks)) for n in skeleton.linears(i)}
    ids = {name: shelf.id_of(name) if name in blocks else None for name in skeleton.convertible}
    packed = {name for name, book_id in ids.items() if book_id is not None}
    fused = skeleton.unfused(packed)
    names = [n for n in ids if fused_of(n) is None or fused_of(n) in fused]
    more = {"unfused_experts": sorted(fused)} if fused else {}
    return {
        **more,
        "quant_method": "vq",
        "format_version": FORMAT_VERSION,
        "library_version": vq.__version__,
        "codebooks": {
            book_id: {"spec": str(book.spec), "version": book.version}
            for book_id, book in shelf.books.items()
        },
        "default_codebook": "c0",
        "layers": {n: i for n, i in ids.items() if i not in (None, "c0")},
        "modules_to_not_convert": sorted(n for n in names if ids[n] is None),
        "rotation": options.rotation,
        "rounding": options.rounding,
        **options.sides(),
    }


def _copy_others(source: Path, folder: Path) -> None:
    """Tokenizer, generation settings, chat template, license."""
    for pattern in _COPIED:
        for path in sorted(source.glob(pattern)):
            if path.is_file() and path.name not in _NOT_COPIED:
                shutil.copyfile(path, folder / path.name)


def _report(
    layers: dict[str, Any],
    quantized: dict[str, Pending],
    plain: dict[str, Pending],
    options: CompressOptions,
) -> dict[str, Any]:
    """Content of ``compression.json``; the file holds no times, so that equal runs give equal bytes."""
    stored = sum(item.size for item in quantized.values())
    weights = sum(layer["shape"][0] * layer["shape"][1] for layer in layers.values())
    errors = [layer["proxy_error"] for layer in layers.values()]
    return {
        "format": "vq-compression-report",
        "format_version": FORMAT_VERSION,
        "library_version": vq.__version__,
        "options": options.to_dict(),
        "layers": layers,
        "totals": {
            "quantized_weights": weights,
            "quantized_bytes": stored,
            "bits_per_weight": round(8 * stored / max(weights, 1), 6),
            "other_bytes": sum(item.size for item in plain.values()),
            "mean_proxy_error": sum(errors) / max(len(errors), 1),
        },
    }
