"""One dictionary of codebook families by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from vq.codebooks.spec import Spec, nearest_names

if TYPE_CHECKING:
    from vq.codebooks.base import Codebook

FAMILIES: dict[str, type[Codebook]] = {}

C = TypeVar("C", bound="type[Codebook]")


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a family known under ``name``.

    Raises:
        ValueError: if the name is taken.
    """

    def add(cls: C) -> C:
        if name in FAMILIES:
            raise ValueError(f"codebook family {name!r} is registered twice")
        cls.family = name
        FAMILIES[name] = cls
        return cls

    return add


def build(spec: str | Spec) -> Codebook:
    """The codebook a spec names, for instance ``build("trellis(bits=2, memory=12, code=hash)")``.

    A learned family comes back unfitted unless the library ships a table for the spec; see ``Codebook.fitted``.

    Raises:
        ValueError: if the text does not parse, the family or an argument is unknown, or a value is out of range.
    """
    parsed = Spec.parse(spec) if isinstance(spec, str) else spec
    family = FAMILIES.get(parsed.name)
    if family is None:
        raise ValueError(
            f"unknown codebook family {parsed.name!r} in {str(parsed)!r}; "
            f"{nearest_names(parsed.name, FAMILIES)}"
        )
    known = [p for p in inspect.signature(family.__init__).parameters if p != "self"]
    for key, _ in parsed.args:
        if key not in known:
            raise ValueError(
                f"codebook {parsed.name!r} has no argument {key!r}; {nearest_names(key, known)}"
            )
    try:
        return family(**dict(parsed.args))
    except TypeError as error:
        raise ValueError(f"codebook spec {str(parsed)!r}: {error}") from error
