"""Versions, CPU features, and which kernels run and why."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch

from vq.analysis.environment import machine, versions, write_json
from vq.cli.common import add_common
from vq.kernels import dispatch


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
    for title in ("machine", "versions", "kernels"):
        print(title)
        for key, value in data[title].items():
            print(f"  {key:<14} {value}")


def describe() -> dict[str, Any]:
    """What ``vq info`` prints."""
    import vq.kernels.linear
    import vq.kernels.search
    import vq.kernels.trellis  # noqa: F401  (declares its operations)

    backend = dispatch.backend()
    native = dispatch.native() if backend == "cpu" else None
    forced = os.environ.get("VQ_BACKEND")
    kernels: dict[str, Any] = {
        "backend": f"{backend} ({_reason(backend, forced)})",
        "threads": torch.get_num_threads(),
    }
    if native is not None:
        why = "forced by VQ_ISA" if os.environ.get("VQ_ISA") else "the best this CPU can run"
        kernels["instructions"] = f"{native.isa()} ({why})"
        kernels["cpu features"] = native.cpu_features() or "none that the kernels use"
    kernels["operations"] = ", ".join(
        f"{name} [{'native' if op.native and backend == 'cpu' else 'reference'}]"
        for name, op in sorted(dispatch.OPS.items())
    )
    return {"machine": machine(), "versions": versions(), "kernels": kernels}


def _reason(backend: str, forced: str | None) -> str:
    if forced:
        return f"forced by VQ_BACKEND={forced}"
    return "compiled kernels found" if backend == "cpu" else "no compiled kernels installed"
