"""Makes ``import vq`` teach transformers our format, without importing transformers."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_TARGET = "transformers.quantizers.auto"


def install() -> None:
    """Register with transformers now or as soon as it loads its quantizers; repeating is harmless."""
    if _TARGET in sys.modules:
        _register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    importlib.import_module("vq.compressors.huggingface")  # registers itself


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for one module; everything else it leaves to the other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's usual spec, with a loader that registers us after it ran."""
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Runs the usual loader, then registers us."""

    def __init__(self, usual: importlib.abc.Loader) -> None:
        self.usual = usual

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As usual."""
        return self.usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As usual, then register."""
        self.usual.exec_module(module)
        _register()
