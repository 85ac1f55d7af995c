"""Names of tensors on disk and in the model: prefixes, renamed layers, and experts stored one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from vq.compressors.files.source import ModelSource
from vq.errors import VqError


@dataclass(frozen=True)
class _Made:
    """A tensor of the model that transformers computes from tensors on disk."""

    first: str  # first of the tensors that are made together
    converter: Any
    stored: tuple[tuple[str, str], ...]  # name on disk, pattern it answers to


@dataclass(eq=False)
class Naming:
    """Reads a model's tensors by the names of its modules.

    Attributes:
        source: the files.
        model: the model on the meta device, as transformers builds it.
        simple: name on disk by name in the model.
        made: tensors that must be computed.
        ties: names that share a tensor with another; on disk one of them is enough.
    """

    source: ModelSource
    model: Any
    simple: dict[str, str] = field(default_factory=dict)
    made: dict[str, _Made] = field(default_factory=dict)
    ties: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """A tensor of the model, as stored.

        Raises:
            VqError: if the files hold nothing of this name.
        """
        found = self._find(name)
        if found in self.made:
            return self._make(found)
        return self.source.read(self.simple.get(found, found))

    def stored(self, name: str) -> set[str]:
        """Names on disk of what a tensor of the model is read from."""
        found = self._find(name)
        if found in self.made:
            return {key for key, _ in self.made[found].stored}
        return {self.simple.get(found, found)} & self.source.entries.keys()

    def _find(self, name: str) -> str:
        """The name, or one that is tied to it, for which there is something on disk."""
        tied = self.ties.get(name)
        group = [other for other, root in self.ties.items() if tied in (root, other)]
        names = [name, *([tied] if tied else []), *group]
        names += [other for other, root in self.ties.items() if root == name]
        for candidate in names:
            if candidate in self.simple or candidate in self.made:
                return candidate
        return name

    def _make(self, name: str) -> Tensor:
        """Compute a tensor with transformers' own conversion."""
        made = self.made[name]
        converter = copy.deepcopy(made.converter)
        for key, pattern in made.stored:
            converter.add_tensor(made.first, key, pattern, self._loader(key))
        try:
            result = converter.convert(made.first, model=self.model, config=self.model.config)
        except Exception as error:  # operations raise whatever goes wrong in them
            raise VqError(
                f"{self.source.name}: {name} could not be made from {made.stored[0][0]} and "
                f"{len(made.stored) - 1} more ({type(error).__name__}: {error})"
            ) from error
        if name not in result:
            raise VqError(
                f"{self.source.name}: {name} is not among {sorted(result)} made from {made.stored[0][0]}"
            )
        value = result[name]
        return value[0] if isinstance(value, list) else value

    def _loader(self, key: str) -> Any:
        return lambda: self.source.read(key)


def read_naming(source: ModelSource, model: nn.Module) -> Naming:
    """How the files of a model name its tensors, by the rules of transformers."""
    naming = Naming(source, model, ties=dict(getattr(model, "all_tied_weights_keys", None) or {}))
    wanted = set(model.state_dict()) & source.entries.keys()
    if not model.state_dict().keys() - wanted - naming.ties.keys():
        naming.simple = {name: name for name in wanted}
        return naming
    groups: dict[str, list[tuple[str, str]]] = {}
    converters: dict[str, Any] = {}
    for key, name, pattern, converter in _renamed(source.entries, model):
        if converter is None:
            naming.simple.setdefault(name, key)
        else:
            groups.setdefault(name, []).append((key, pattern))
            converters[name] = converter
    for name, stored in groups.items():
        converter = converters[name]
        made = _Made(name, converter, tuple(stored))
        for target in converter.target_patterns:
            naming.made[name.replace(converter.target_patterns[0], target, 1)] = made
    return naming


def _renamed(keys: Iterable[str], model: Any) -> Iterable[tuple[str, str, str, Any]]:
    """Key on disk, name in the model, and for what is computed the pattern and the converter."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    state = model.state_dict()
    for key in sorted(keys, key=dot_natural_key):
        prefix = model.base_model_prefix
        name, pattern = rename_source_key(key, renamings, converters, prefix, state)
        if name not in state and key in state:  # it was in the model's way of naming already
            name, pattern = rename_source_key(key, [], [], prefix, state)
        yield key, name, pattern or "", by_pattern[pattern] if pattern else None


def renamed_keys(keys: Iterable[str], model: Any) -> set[str]:
    """Names in the model of tensors on disk."""
    return {name for _, name, _, _ in _renamed(keys, model)}
