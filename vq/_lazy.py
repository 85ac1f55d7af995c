"""Names of a package that are loaded when they are first used, so that importing it stays light."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its dotted name.
        homes: the module that each name is defined in.
    """

    def load(name: str) -> Any:
        """Load a public name when it is first used."""
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    def names() -> list[str]:
        """What is there already, and what would be loaded."""
        return sorted({*vars(importlib.import_module(package)), *homes})

    return load, names
