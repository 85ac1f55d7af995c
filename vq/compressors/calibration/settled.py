"""Results of parts of a block that do not change while the rest of it is worked on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Settled:
    """Parts of a block that are run once for each window; later calls get what they gave."""

    def __init__(self) -> None:
        self._parts: dict[nn.Module, _Part] = {}
        self._window, self._turn = 0, 0

    def turn(self, window: int) -> None:
        """Say that the block is about to be run on a window."""
        self._window, self._turn = window, self._turn + 1

    def add(self, part: nn.Module, most: int) -> None:
        """Keep what a part gives, if it is a tensor or a tuple with one, and no larger than ``most`` numbers."""
        if part not in self._parts:
            self._parts[part] = _Part(self, part.forward, most)
            part.forward = self._parts[part]

    def clear(self) -> None:
        """Run all parts as before."""
        for part in self._parts:
            del part.forward
        self._parts.clear()

    @property
    def now(self) -> tuple[int, int]:
        """Window and number of the run."""
        return self._window, self._turn


class _Part:
    """Takes the place of a part's ``forward``."""

    def __init__(self, owner: Settled, forward: Callable[..., Any], most: int) -> None:
        self.owner, self.forward, self.most = owner, forward, most
        self.kept: dict[tuple[int, int], tuple[Any, list[int]]] = {}
        self.turn, self.calls = -1, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        window, turn = self.owner.now
        self.calls = (
            self.calls + 1 if turn == self.turn else 0
        )  # a part may be called twice in a run
        self.turn = turn
        place = (window, self.calls)
        if place in self.kept:
            output, versions = self.kept[place]
            if versions == _versions(output):
                return output
            self.kept.clear()  # it was written to: this block works in place
            self.most = 0
        output = self.forward(*args, **kwargs)
        if 0 < sum(x.numel() for x in _tensors(output)) <= self.most:
            self.kept[place] = output, _versions(output)
        return output


def _tensors(output: Any) -> list[Tensor]:
    """Tensors of an output; none if there is anything else that may change."""
    parts = output if isinstance(output, tuple) else (output,)
    if not all(x is None or isinstance(x, Tensor) for x in parts):
        return []
    return [x for x in parts if x is not None]


def _versions(output: Any) -> list[int]:
    return [x._version for x in _tensors(output)]
