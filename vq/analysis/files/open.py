"""A path to what it is: openers look at the files, the first that knows them opens them.

An opener is a function from a path to a ``Subject``, registered with ``opener`` in a module of ``files`` (what this
library writes) or of ``foreign`` (what others write). Such modules are found by themselves.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vq.analysis.subject import Subject
from vq.errors import VqError

OWN, FOREIGN, BARE = 0, 10, 20
"""Orders: files of this library, files of others by their key names, bare arrays that could be anything."""


@dataclass(frozen=True)
class Opener:
    """One way to open a path.

    Attributes:
        name: what it opens, for messages: "folder of token shards".
        order: openers are asked in this order, those of one order by name.
        looks: whether a path is of this kind; cheap, and raises nothing.
        open: the subject; raises VqError for a file of this kind that is damaged.
    """

    name: str
    order: int
    looks: Callable[[Path], bool]
    open: Callable[[Path], Subject]


OPENERS: dict[str, Opener] = {}
Open = Callable[[Path], Subject]


def opener(
    name: str, looks: Callable[[Path], bool], order: int = FOREIGN
) -> Callable[[Open], Open]:
    """Decorator: register a function that opens paths which ``looks`` accepts.

    Raises:
        ValueError: if the name is taken.
    """

    def add(function: Open) -> Open:
        if name in OPENERS:
            raise ValueError(f"opener {name!r} is registered twice")
        OPENERS[name] = Opener(name, order, looks, function)
        return function

    return add


def open_subject(path: str | Path) -> Subject:
    """Open whatever lies at a path.

    Raises:
        VqError: if nothing is there, nobody knows it, or it is damaged; says what is accepted.
    """
    place = Path(path)
    if not place.exists():
        raise VqError(f"{place}: no such file or folder")
    for each in openers():
        if each.looks(place):
            return each.open(place)
    known = "; ".join(each.name for each in openers())
    raise VqError(f"{place}: {_found(place)}. vq analyze takes: {known}")


@functools.cache
def _load() -> None:
    """Import the modules that hold openers."""
    for name in ("vq.analysis.files", "vq.analysis.foreign"):
        folder = importlib.import_module(name)
        for module in pkgutil.iter_modules(folder.__path__):
            importlib.import_module(f"{name}.{module.name}")


def openers() -> list[Opener]:
    """All openers in the order they are asked."""
    _load()
    return sorted(OPENERS.values(), key=lambda each: (each.order, each.name))


def _found(place: Path) -> str:
    if not place.is_dir():
        return f"a file ending in {place.suffix or 'nothing'} with nothing that is known in it"
    names = sorted(p.name for p in place.iterdir())[:5]
    return f"a folder with {', '.join(names) or 'nothing'}, which is none that is known"
