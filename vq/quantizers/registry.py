"""One dictionary of quantizer kinds by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vq.codebooks.spec import nearest_names

if TYPE_CHECKING:
    from vq.quantizers.base import Quantizer

KINDS: dict[str, type[Quantizer]] = {}

Q = TypeVar("Q", bound="type[Quantizer]")


def register(name: str) -> Callable[[Q], Q]:
    """Class decorator: make a quantizer known under ``name``.

    Raises:
        ValueError: if the name is taken.
    """

    def add(cls: Q) -> Q:
        if name in KINDS:
            raise ValueError(f"quantizer {name!r} is registered twice")
        cls.kind = name
        KINDS[name] = cls
        return cls

    return add


def make(kind: str, **config: Any) -> Quantizer:
    """The quantizer of a kind, for instance ``make("vq", codebook="kmeans(dim=8, entries=1024)")``.

    Raises:
        ValueError: for an unknown kind or argument (with the nearest known ones), or a value out of range.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise ValueError(f"unknown quantizer {kind!r}; {nearest_names(kind, KINDS)}")
    known = [p for p in inspect.signature(cls.__init__).parameters if p != "self"]
    for key in config:
        if key not in known:
            raise ValueError(
                f"quantizer {kind!r} has no argument {key!r}; {nearest_names(key, known)}"
            )
    try:
        return cls(**config)
    except TypeError as error:
        raise ValueError(f"quantizer {kind!r}: {error}") from error
