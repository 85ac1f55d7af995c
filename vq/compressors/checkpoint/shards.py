"""The weight files of a compressed model: safetensors of a bounded size, and their index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vq.compressors.files.source import INDEX, SINGLE
from vq.compressors.files.tensorfile import Pending, write_json, write_tensors

FORMAT_VERSION = 1
METADATA = {"format": "pt", "vq_format": "vq-checkpoint", "vq_format_version": str(FORMAT_VERSION)}


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which layer 2 comes before layer 10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def write_shards(
    folder: Path, tensors: Mapping[str, Pending], max_bytes: int
) -> dict[str, dict[str, int]]:
    """Write weight files and, where there are several, their index; the same tensors always make the same bytes.

    Args:
        folder: exists already.
        tensors: by name; each is loaded only while it is written.
        max_bytes: largest file; a tensor that is larger has one of its own.

    Returns:
        ``bytes`` and ``crc32`` of each file.
    """
    shards = _divide(tensors, max_bytes)
    files: dict[str, dict[str, int]] = {}
    where: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = (
            SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        crc = write_tensors(folder / file, {n: tensors[n] for n in names}, METADATA)
        files[file] = {"bytes": (folder / file).stat().st_size, "crc32": crc}
        where.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        total = sum(item.size for item in tensors.values())
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return files


def _divide(tensors: Mapping[str, Pending], max_bytes: int) -> list[list[str]]:
    """Names of the tensors of each file, in the order of the model."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors, key=natural):
        if shards[-1] and size + tensors[name].size > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors[name].size
    return shards
