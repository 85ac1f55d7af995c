"""A model without its weights, filled and emptied block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks.spec import nearest_names
from vq.compressors.files.source import ModelSource
from vq.compressors.structure.experts import Origin, fused_of, unfuse
from vq.compressors.structure.memory import release
from vq.compressors.structure.naming import Naming, read_naming
from vq.compressors.structure.stacks import find_stacks
from vq.compressors.structure.surgery import (
    is_linear,
    is_transposed_linear,
    reads_weight,
    sources,
    straighten,
)
from vq.errors import VqError


@dataclass(eq=False)
class Skeleton:
    """The modules of a model, parameters on the meta device, every matrix of a block a linear layer.

    Attributes:
        model: the whole model.
        stacks: qualified names of the lists of blocks, in the order in which they run.
        source: where the weights come from.
        naming: reads them by the names of the model as transformers builds it.
        origins: what became of fused experts and transposed layers.
        convertible: linear layers of the whole model as transformers builds it, for the config.
        dtype: of the calculation.
        device: of the calculation.
    """

    model: Any
    stacks: list[str]
    source: ModelSource
    naming: Naming
    origins: dict[str, Origin] = field(default_factory=dict)
    convertible: list[str] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def blocks_name(self) -> str:
        """Qualified name of the first stack."""
        return self.stacks[0]

    @property
    def blocks(self) -> Any:
        """The blocks of all stacks; of a single stack the module list itself, in which blocks may be replaced."""
        if len(self.stacks) == 1:
            return self.stack(self.stacks[0])
        return [block for name in self.stacks for block in self.stack(name)]

    def stack(self, name: str) -> nn.ModuleList:
        """The list of blocks of a stack."""
        found = self.model.get_submodule(name)
        assert isinstance(found, nn.ModuleList)
        return found

    def place(self, index: int) -> tuple[str, int]:
        """Stack of a block, and its number there."""
        for name in self.stacks:
            count = len(self.stack(name))
            if index < count:
                return name, index
            index -= count
        raise IndexError(index)

    def block_name(self, index: int) -> str:
        """Qualified name of a block."""
        name, number = self.place(index)
        return f"{name}.{number}"

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """Linear layers of a block by qualified name, in the model's order."""
        prefix, block = self.block_name(index), self.blocks[index]
        found = {}
        for name, module in block.named_modules():
            parent, _, leaf = name.rpartition(".")
            if isinstance(module, nn.Linear) and is_linear(module):
                if not reads_weight(block.get_submodule(parent), leaf):
                    found[f"{prefix}.{name}"] = module
        return found

    def read(self, name: str) -> Tensor:
        """A parameter by its name here, as stored."""
        origin = sources(self.origins, name)
        return origin.take(self.naming.read(origin.name))

    def stored(self, name: str) -> set[str]:
        """Names on disk of what a parameter is read from."""
        return self.naming.stored(sources(self.origins, name).name)

    def fill(self, module: nn.Module, prefix: str, skip: Sequence[nn.Module] = ()) -> None:
        """Load a module's weights from the source; tensors below ``skip`` stay on the meta device."""
        last: tuple[str, Tensor] | None = None  # a tensor of many experts is read once
        for name, owner, leaf in _tensors(module, prefix, skip):
            value = owner._parameters.get(leaf)
            if leaf in owner._buffers or value is None or not value.is_meta:
                self._fill_buffer(name, owner, leaf)
                continue
            origin = sources(self.origins, name)
            if last is None or last[0] != origin.name:
                last = (origin.name, self.naming.read(origin.name))
            loaded = origin.take(last[1])
            if loaded.shape != value.shape:
                raise VqError(
                    f"{self.source.name}: tensor {name} is {list(loaded.shape)}, "
                    f"config.json asks for {list(value.shape)}"
                )
            loaded = loaded.to(self.device, self.dtype)
            owner._parameters[leaf] = nn.Parameter(loaded, requires_grad=False)

    def _fill_buffer(self, name: str, owner: nn.Module, leaf: str) -> None:
        """Load a buffer that is part of the checkpoint, such as running statistics."""
        value = owner._buffers.get(leaf)
        if value is None or leaf in owner._non_persistent_buffers_set:
            return
        if self.naming.stored(name):
            loaded = self.naming.read(name)
            dtype = self.dtype if loaded.is_floating_point() else loaded.dtype
            owner._buffers[leaf] = loaded.reshape(value.shape).to(self.device, dtype)

    def empty(self, module: nn.Module) -> None:
        """Give a module's weights back to the meta device, and freed memory to the system."""
        for owner in module.modules():
            for leaf, value in owner._parameters.items():
                if value is not None and not value.is_meta:
                    owner._parameters[leaf] = nn.Parameter(value.to("meta"), requires_grad=False)
        release()

    def coverage(self, covered: set[str]) -> float:
        """Part of the block weights (everything of two or more dimensions) that the named layers hold."""
        total = hit = 0
        for index, block in enumerate(self.blocks):
            for name, value in block.named_parameters(self.block_name(index)):
                if value.ndim >= 2:
                    total += value.numel()
                    hit += value.numel() if name.removesuffix(".weight") in covered else 0
        return hit / max(total, 1)

    def weights(self) -> dict[str, int]:
        """Numbers in every tensor of two or more dimensions, tied ones once, by name."""
        ties = self.naming.ties
        return {
            name: value.numel()
            for name, value in self.model.named_parameters()
            if value.ndim >= 2 and name not in ties
        }

    def unfused(self, packed: set[str]) -> set[str]:
        """Fused expert modules of which a layer is among ``packed``."""
        return {name for layer in packed if (name := fused_of(layer)) is not None}


def _tensors(
    module: nn.Module, prefix: str, skip: Sequence[nn.Module]
) -> Iterator[tuple[str, nn.Module, str]]:
    """Qualified name, owner and leaf name of each parameter and buffer outside ``skip``."""
    if any(module is other for other in skip):
        return
    for leaf in [*module._parameters, *module._buffers]:
        yield f"{prefix}.{leaf}".lstrip("."), module, leaf
    for name, child in module.named_children():
        yield from _tensors(child, f"{prefix}.{name}".lstrip("."), skip)


def build_skeleton(
    source: ModelSource, dtype: torch.dtype = torch.float32, attention: str | None = None
) -> Skeleton:
    """The model of a source on the meta device; buffers (rotary tables) are real.

    Args:
        source: an open model.
        dtype: of the calculation.
        attention: implementation that transformers shall use, such as ``eager``; None for its choice.

    Raises:
        VqError: if transformers does not know the architecture, or it has no blocks with linear layers.
    """
    model = _meta_model(source, attention)
    model.eval()
    naming = read_naming(source, model)
    stacks = find_stacks(model, source.name)
    origins = unfuse(model)
    convertible = [n for n, m in model.named_modules() if is_linear(m) or is_transposed_linear(m)]
    origins |= straighten(model)
    return Skeleton(model, stacks, source, naming, origins, convertible, dtype)


def _meta_model(source: ModelSource, attention: str | None) -> Any:
    try:
        from accelerate import init_empty_weights
        from transformers import AutoConfig
        from transformers.initialization import no_init_weights
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise VqError(
            f"compressing needs transformers 5 and accelerate: pip install 'vq-toolkit[hf]' ({error})"
        ) from error
    kind = source.config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise VqError(
            f"{source.name}: unknown architecture: config.json says model_type {kind!r}; "
            f"{_short(nearest_names(str(kind), CONFIG_MAPPING.keys()))}"
        )
    config = AutoConfig.from_pretrained(source.folder)
    more = {} if attention is None else {"attn_implementation": attention}
    try:
        with init_empty_weights(include_buffers=False), no_init_weights():
            return model_class(source.config, source.name)._from_config(
                config, dtype=torch.float32, **more
            )
    except ValueError as error:
        raise VqError(
            f"{source.name}: transformers cannot build {kind} ({_short(str(error))})"
        ) from error


def model_class(config: dict[str, Any], name: str) -> Any:
    """The class that ``architectures`` in a config names; a causal language model where it names none.

    Args:
        config: content of ``config.json``.
        name: of the model, for the error.

    Raises:
        VqError: if transformers has no such class.
    """
    import transformers

    listed = config.get("architectures") or []
    for entry in listed:
        found = getattr(transformers, str(entry), None)
        if found is not None and hasattr(found, "from_pretrained"):
            return found
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    known, kind = transformers.CONFIG_MAPPING, str(config.get("model_type"))
    if not listed and kind in known and known[kind] in mapping:
        return mapping[known[kind]]
    raise VqError(
        f"{name}: config.json names the architectures {listed}, which transformers {transformers.__version__} does "
        "not have; a model with code of its own can be compressed in Python with vq.compress_module"
    )


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + " ..."


def first(output: Any) -> Tensor:
    """Hidden states of a block's output; some architectures return a tuple."""
    return output[0] if isinstance(output, tuple) else output
