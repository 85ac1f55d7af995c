"""Machine, versions and seed: what every benchmark result carries."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from vq.errors import VqError

_PACKAGES = ("vq-toolkit", "torch", "numpy", "safetensors", "transformers", "faiss-cpu")


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, operating system."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that matter for a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def result(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The one shape of a benchmark's JSON: machine, versions, seed, threads, rows."""
    return {
        "machine": machine(),
        "versions": versions(),
        "seed": seed,
        "threads": torch.get_num_threads(),
        "rows": rows,
    }


def write_json(data: Any, target: str) -> None:
    """Write JSON to a file, or to standard output for ``-``.

    Raises:
        VqError: if the file's folder does not exist.
    """
    text = json.dumps(data, indent=2)
    if target == "-":
        sys.stdout.write(text + "\n")
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise VqError(f"cannot write {path}: the folder {path.parent} does not exist; create it")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def table(headers: list[str], rows: list[list[str]]) -> str:
    """A plain-text table: the first column to the left, the others to the right."""
    cells = [headers, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: list[str]) -> str:
        """One row, padded to the widths."""
        parts = [row[0].ljust(widths[0])]
        parts += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), "  ".join("-" * w for w in widths), *map(line, rows)])


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
