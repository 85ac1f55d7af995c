"""How an operation finds its implementation.

Every operation is declared once: a schema, a fake (shapes only) and a reference in plain torch that
works everywhere. A native CPU implementation may stand beside it, and one in Triton for tensors on a
GPU. ``VQ_BACKEND=reference``, ``=cpu`` or ``=triton`` forces one, and ``VQ_ISA`` (portable, neon, avx2, avx512)
forces an instruction set; without them the fastest that works is taken.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

BACKENDS = ("cpu", "reference", "triton")

library = torch.library.Library("vq", "DEF")


@dataclass(frozen=True)
class Op:
    """One declared operation and where it is implemented."""

    name: str
    schema: str
    native: bool
    triton: bool = False


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


@functools.cache
def triton() -> ModuleType | None:
    """The package triton, or None (with one warning where it is there and broken)."""
    if not triton_installed():
        return None
    try:
        return importlib.import_module("triton")
    except ImportError as error:
        warnings.warn(
            f"triton is installed and cannot be imported ({error}); tensors on a GPU use the reference backend",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def triton_installed() -> bool:
    """Whether there is a package triton; it is not imported for this."""
    try:
        return importlib.util.find_spec("triton") is not None
    except ValueError:  # something of this name without a spec stands in sys.modules
        return False


def interprets() -> bool:
    """Whether Triton runs kernels in its interpreter, which works on CPU tensors: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


def backend(device: str = "cpu") -> str:
    """Name of the backend that serves the tensors of a device now.

    Args:
        device: ``cpu`` or ``cuda``.

    Returns:
        ``cpu`` (compiled), ``triton`` or ``reference``; an operation that has no such implementation takes the next.

    Raises:
        ValueError: if the environment variable VQ_BACKEND names no known backend.
        RuntimeError: if VQ_BACKEND asks for a backend that is not installed or does not serve the device.
    """
    wish = os.environ.get("VQ_BACKEND", "")
    if wish and wish not in BACKENDS:
        raise ValueError(f"VQ_BACKEND={wish!r} is unknown; expected one of {', '.join(BACKENDS)}")
    if wish == "reference":
        return "reference"
    if wish == "triton":
        return _forced_triton(device)
    if device != "cpu":
        return "triton" if not wish and triton() is not None else "reference"
    if native() is None:
        if wish == "cpu":
            raise RuntimeError("VQ_BACKEND=cpu, but vq's compiled kernels are not installed")
        return "reference"
    return "cpu"


_ENVIRON: Any = getattr(os.environ, "_data", None)  # what os.environ keeps, encoded
_WISH: Any = os.environ.encodekey("VQ_BACKEND") if _ENVIRON is not None else None


def forced() -> bool:
    """Whether VQ_BACKEND is set; ``os.environ`` alone takes longer than all other checks of a small layer's call."""
    if _ENVIRON is None:
        return bool(os.environ.get("VQ_BACKEND"))
    return bool(_ENVIRON.get(_WISH))


def _forced_triton(device: str) -> str:
    if triton() is None:
        raise RuntimeError(
            "VQ_BACKEND=triton, but triton is not installed; pip install 'vq-toolkit[gpu]'"
        )
    if device == "cpu" and not interprets():
        raise RuntimeError(
            "VQ_BACKEND=triton, but these tensors are on the CPU and Triton compiles for GPUs; move them to a GPU, "
            "unset VQ_BACKEND, or set TRITON_INTERPRET=1 before Python starts to run Triton's (slow) interpreter"
        )
    return "triton"


def threads() -> int:
    """Threads a native kernel may use: what torch was given."""
    return torch.get_num_threads()


def declare(
    schema: str,
    *,
    fake: Callable[..., Any],
    reference: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    triton: str | None = None,
) -> Callable[..., Any]:
    """Declare an operation ``vq::name`` and register its implementations.

    Args:
        schema: torch schema, for instance ``"hadamard(Tensor x, Tensor signs) -> Tensor"``.
        fake: the same signature, returning empty tensors of the right shape and dtype.
        reference: the operation in plain torch, for every device.
        cpu: the compiled implementation for CPU tensors, or None.
        triton: ``module:function`` of the implementation in Triton, imported when it is first needed, or None.

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
    if cpu is not None or triton is not None:
        library.impl(name, _choose("cpu", cpu, triton, reference), "CPU")
    if triton is not None and triton_installed():
        library.impl(name, _choose("cuda", None, triton, reference), "CUDA")
    torch.library.register_fake(f"vq::{name}", fake, lib=library)
    OPS[name] = Op(name, schema, cpu is not None, triton is not None)
    return getattr(torch.ops.vq, name).default


def _choose(
    device: str, cpu: Callable[..., Any] | None, triton: str | None, reference: Callable[..., Any]
) -> Callable[..., Any]:
    """An implementation that asks at each call which backend serves."""

    @functools.wraps(reference)
    def call(*args: Any, **kwargs: Any) -> Any:
        serving = backend(device)
        if serving == "triton" and triton is not None:
            return _load(triton)(*args, **kwargs)
        if cpu is not None and serving != "reference" and native() is not None:
            return cpu(*args, **kwargs)
        return reference(*args, **kwargs)

    return call


@functools.cache
def _load(path: str) -> Callable[..., Any]:
    """The function that ``module:function`` names."""
    module, _, function = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
