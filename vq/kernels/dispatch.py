"""How an operation finds its implementation.

Every operation is declared once: a schema, a fake (shapes only) and a reference in plain torch that
works everywhere. A native CPU implementation may stand beside it. ``VQ_BACKEND=reference`` or ``=cpu``
forces one, and ``VQ_ISA`` (portable, avx2, avx512) forces an instruction set; without them the fastest
that works is taken.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

BACKENDS = ("cpu", "reference")

library = torch.library.Library("vq", "DEF")


@dataclass(frozen=True)
class Op:
    """One declared operation and where it is implemented."""

    name: str
    schema: str
    native: bool


OPS: dict[str, Op] = {}


@functools.cache
def native() -> ModuleType | None:
    """The compiled kernels, or None (with one warning) where they are not installed."""
    try:
        return importlib.import_module("vq.kernels._native")
    except ImportError as error:
        if os.environ.get("VQ_BACKEND") != "reference":
            warnings.warn(
                f"vq's compiled CPU kernels are not available ({error}); the reference backend in plain "
                "torch is used, which is correct but much slower. Install a C++17 compiler and reinstall "
                "vq-toolkit, or set VQ_BACKEND=reference to silence this.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None


def backend() -> str:
    """Name of the backend that serves CPU tensors now: ``cpu`` (compiled) or ``reference``.

    Raises:
        ValueError: if the environment variable VQ_BACKEND names no known backend.
        RuntimeError: if VQ_BACKEND asks for the compiled kernels and they are not installed.
    """
    wish = os.environ.get("VQ_BACKEND", "")
    if wish and wish not in BACKENDS:
        raise ValueError(f"VQ_BACKEND={wish!r} is unknown; expected one of {', '.join(BACKENDS)}")
    if wish == "reference":
        return "reference"
    if native() is None:
        if wish == "cpu":
            raise RuntimeError("VQ_BACKEND=cpu, but vq's compiled kernels are not installed")
        return "reference"
    return "cpu"


def threads() -> int:
    """Threads a native kernel may use: what torch was given."""
    return torch.get_num_threads()


def declare(
    schema: str,
    *,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Declare an operation ``vq::name`` and register its implementations.

    Args:
        schema: torch schema, for instance ``"hadamard(Tensor x, Tensor signs) -> Tensor"``.
        fake: the same signature, returning empty tensors of the right shape and dtype.
        reference: the operation in plain torch, for every device.
        cpu: the compiled implementation for CPU tensors, or None.

    Returns:
        The callable operation ``torch.ops.vq.<name>.default``.

    Raises:
        ValueError: if an operation of this name was declared before.
    """
    name = schema.partition("(")[0].strip()
    if name in OPS:
        raise ValueError(f"operation vq::{name} is declared twice")
    library.define(schema)
    library.impl(name, reference, "CompositeExplicitAutograd")
    if cpu is not None:
        library.impl(name, _choose(cpu, reference), "CPU")
    torch.library.register_fake(f"vq::{name}", fake, lib=library)
    OPS[name] = Op(name, schema, cpu is not None)
    return getattr(torch.ops.vq, name).default


def _choose(cpu: Callable[..., Any], reference: Callable[..., Any]) -> Callable[..., Any]:
    """An implementation that asks at each call which backend serves."""

    @functools.wraps(reference)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (cpu if backend() == "cpu" else reference)(*args, **kwargs)

    return call
