"""A model without its weights, filled and emptied block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vq.codebooks.spec import nearest_names
from vq.compressors.source import ModelSource
from vq.errors import VqError


@dataclass(eq=False)
class Skeleton:
    """The modules of a causal language model, parameters on the meta device.

    Attributes:
        model: the whole model.
        blocks_name: qualified name of the list of decoder blocks.
        source: where the weights come from.
        dtype: of the calculation.
    """

    model: Any
    blocks_name: str
    source: ModelSource
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks."""
        found = self.model.get_submodule(self.blocks_name)
        assert isinstance(found, nn.ModuleList)
        return found

    def block_name(self, index: int) -> str:
        """Qualified name of a block."""
        return f"{self.blocks_name}.{index}"

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """Linear layers of a block by qualified name, in the model's order."""
        prefix = self.block_name(index)
        return {
            f"{prefix}.{name}": module
            for name, module in self.blocks[index].named_modules()
            if type(module) is nn.Linear
        }

    def fill(self, module: nn.Module, prefix: str, skip: Sequence[nn.Module] = ()) -> None:
        """Load a module's weights from the source; tensors below ``skip`` stay on the meta device."""
        for name, owner, leaf in _tensors(module, prefix, skip):
            value = owner._parameters.get(leaf)
            if value is None or not value.is_meta:
                continue
            loaded = self.source.read(name)
            if loaded.shape != value.shape:
                raise VqError(
                    f"{self.source.name}: tensor {name} is {list(loaded.shape)}, "
                    f"config.json asks for {list(value.shape)}"
                )
            loaded = loaded.to(self.device, self.dtype)
            owner._parameters[leaf] = nn.Parameter(loaded, requires_grad=False)

    def empty(self, module: nn.Module) -> None:
        """Give a module's weights back to the meta device."""
        for owner in module.modules():
            for leaf, value in owner._parameters.items():
                if value is not None and not value.is_meta:
                    owner._parameters[leaf] = nn.Parameter(value.to("meta"), requires_grad=False)

    def coverage(self, covered: set[str]) -> float:
        """Part of the block weights (everything of two or more dimensions) that the named layers hold."""
        total = hit = 0
        for index in range(len(self.blocks)):
            for name, value in self.blocks[index].named_parameters(self.block_name(index)):
                if value.ndim >= 2:
                    total += value.numel()
                    hit += value.numel() if name.removesuffix(".weight") in covered else 0
        return hit / max(total, 1)


def _tensors(
    module: nn.Module, prefix: str, skip: Sequence[nn.Module]
) -> Iterator[tuple[str, nn.Module, str]]:
    """Qualified name, owner and leaf name of each parameter outside ``skip``."""
    if any(module is other for other in skip):
        return
    for leaf in list(module._parameters):
        yield f"{prefix}.{leaf}".lstrip("."), module, leaf
    for name, child in module.named_children():
        yield from _tensors(child, f"{prefix}.{name}".lstrip("."), skip)


def build_skeleton(source: ModelSource, dtype: torch.dtype = torch.float32) -> Skeleton:
    """The model of a source on the meta device; buffers (rotary tables) are real.

    Raises:
        VqError: if transformers does not know the architecture, it is not a causal language model, or its blocks cannot
            be told.
    """
    model = _meta_model(source)
    model.eval()
    blocks_name = find_blocks(model, source.name)
    return Skeleton(model, blocks_name, source, dtype)


def _meta_model(source: ModelSource) -> nn.Module:
    try:
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM
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
    if getattr(config, "is_encoder_decoder", False):
        raise VqError(
            f"{source.name}: {kind} has an encoder; expected a decoder-only language model"
        )
    try:
        with init_empty_weights(include_buffers=False), no_init_weights():
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise VqError(
            f"{source.name}: {kind} is not a causal language model for transformers "
            f"({_short(str(error))})"
        ) from error


def _short(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + " ..."


def find_blocks(model: nn.Module, name: str) -> str:
    """Qualified name of the list of decoder blocks: the module list that holds the most parameters.

    Raises:
        VqError: if the model has no list of modules with linear layers.
    """
    best, most = "", 0
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and any(
            isinstance(m, nn.Linear) for m in module.modules()
        ):
            size = sum(p.numel() for p in module.parameters())
            if size > most:
                best, most = path, size
    if not best:
        raise VqError(
            f"{name}: found no list of decoder blocks with linear layers in this architecture"
        )
    return best


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Hidden states of a block's output; some architectures return a tuple."""
    return output[0] if isinstance(output, tuple) else output
