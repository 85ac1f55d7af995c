"""Versions, CPU features, and which kernels run and why."""

from __future__ import annotations

import argparse
import os
from importlib import metadata
from typing import Any

import torch

from vq.analysis.environment import machine, versions, write_json
from vq.cli.common import add_common
from vq.kernels import dispatch

FORMATS = (
    "trellis(bits=2, memory=12, code=hash)",
    "trellis(bits=2, memory=12, code=lut)",
    "e8p()",
    "uniform(bits=2)",
    "uniform(bits=3)",
    "nf(bits=4)",
    "uniform(bits=8)",
    "kmeans(dim=4, entries=256)",
    "additive(stages=2, dim=8, entries=256)",
    "product(groups=2, of=kmeans(dim=4, entries=256))",
    "residual(stages=2, of=trellis(bits=2, memory=12, code=hash))",
)  # one of each kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq info``."""
    add_common(parser, seed=False)


def run(args: argparse.Namespace) -> None:
    """Print what is installed and what is chosen."""
    data = describe()
    if args.json:
        write_json(data, args.json)
    if args.json == "-":
        return
    for title in ("machine", "versions", "kernels", "formats"):
        print(title)
        wide = max(14, *map(len, data[title]))
        for key, value in data[title].items():
            print(f"  {key:<{wide}} {value}")


def describe() -> dict[str, Any]:
    """What ``vq info`` prints."""
    import vq.kernels.linear
    import vq.kernels.rows
    import vq.kernels.search
    import vq.kernels.trellis  # noqa: F401  (declares its operations)

    forced = os.environ.get("VQ_BACKEND")
    try:
        backend = dispatch.backend()
        reason = _reason(backend, forced)
    except RuntimeError as error:  # what is forced does not serve the CPU here
        backend, reason = "none", str(error)
    native = dispatch.native() if backend == "cpu" else None
    kernels: dict[str, Any] = {
        "backend": f"{backend} ({reason})",
        "gpu": _gpu(),
        "threads": torch.get_num_threads(),
    }
    if native is not None:
        why = "forced by VQ_ISA" if os.environ.get("VQ_ISA") else "the best this CPU can run"
        kernels["instructions"] = f"{native.isa()} ({why})"
        kernels["cpu features"] = native.cpu_features() or "none that the kernels use"
    kernels["operations"] = ", ".join(
        f"{name} [{_served(op, backend)}]" for name, op in sorted(dispatch.OPS.items())
    )
    return {
        "machine": machine(),
        "versions": versions(),
        "kernels": kernels,
        "formats": _formats() if backend != "none" else {},
    }


def _formats() -> dict[str, str]:
    """What multiplies by a packed layer of each format for one token, and why."""
    from vq.codebooks import build
    from vq.compressors.layers.linear import QuantizedLinear
    from vq.compressors.layers.sides import Sides, describe_sides
    from vq.kernels.formats import assemble

    found = {}
    for spec in FORMATS:
        layer = QuantizedLinear(64, 64, build(spec))
        empty = torch.zeros(layer.header.payload_bytes, dtype=torch.uint8)
        layer.weight = assemble(layer.header, empty)
        found[spec] = f"layout {layer.header.layout}: {layer.explain()}"
    found["beside any of these"] = describe_sides(
        QuantizedLinear(64, 64, build(FORMATS[0]), sides=Sides(outliers=20, rank=4))
    ).removeprefix("; ")
    return found


def _served(op: dispatch.Op, backend: str) -> str:
    """What serves an operation on the CPU, and that Triton serves it on a GPU."""
    if backend == "triton":
        backend = "cpu" if dispatch.native() is not None else "reference"
        if op.triton:
            return "triton, interpreted"
    names = ["native" if op.native and backend == "cpu" else "reference"]
    return ", ".join(
        names + (["triton on a GPU"] if op.triton and _gpu_backend() == "triton" else [])
    )


def _gpu_backend() -> str:
    try:
        return dispatch.backend("cuda")
    except RuntimeError:
        return "none"


def _gpu() -> str:
    """Which backend serves tensors on a GPU, and which GPU there is."""
    here = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU here"
    if not dispatch.triton_installed():
        return f"{_gpu_backend()} (triton is not installed); {here}"
    return f"{_gpu_backend()} (triton {metadata.version('triton')}); {here}"


def _reason(backend: str, forced: str | None) -> str:
    if forced:
        return f"forced by VQ_BACKEND={forced}"
    return "compiled kernels found" if backend == "cpu" else "no compiled kernels installed"
