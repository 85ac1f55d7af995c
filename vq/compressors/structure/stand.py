"""Modules that stand for a block of a model while others are looked at."""

from __future__ import annotations

from typing import Any

from torch import nn


class Stand(nn.Module):
    """Has the attributes of a block, which models ask for; what it computes is up to the subclass.

    Args:
        block: referenced, not registered.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = [block]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)
