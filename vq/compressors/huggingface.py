"""The plug-in for transformers: ``import vq``, then ``AutoModelForCausalLM.from_pretrained`` reads our folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from vq.codebooks import Codebook, build
from vq.codebooks.spec import nearest_names
from vq.compressors.checkpoint.older import adopt_stored
from vq.compressors.checkpoint.shards import FORMAT_VERSION
from vq.compressors.files.tensorfile import read_header
from vq.compressors.layers.embedding import put_embedding
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.layers.sides import PARTS, Sides
from vq.compressors.rounding.shelf import SHARED
from vq.compressors.structure.experts import unfuse
from vq.compressors.structure.naming import renamed_keys
from vq.compressors.structure.surgery import put_packed
from vq.errors import VqError
from vq.kernels.formats import read_packed

_ROTATIONS = {"none": (False, False), "input": (True, False), "both": (True, True)}


class VqConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a model compressed by vq.

    Args:
        codebooks: spec and family version by short id.
        default_codebook: id of the codebook of layers that are not named.
        layers: id of the codebook of layers that differ.
        modules_to_not_convert: linear layers that are not quantized.
        rotation: ``none``, ``input`` or ``both``.
        unfused_experts: modules whose experts stand one by one.
        embeddings: packed embeddings: their module, codebook, rotation and tied head.
        outliers: ``share`` of the weights of each layer that stand in a sparse part; and how they were chosen.
        low_rank: ``rank`` of the low-rank part of each layer.
        tables: ``rows`` that share a table of the layer's own; 0 for all of them.
        columns: ``share`` of the columns of each layer that have second codes, ``dim`` and ``entries`` of their table.
        group: columns that share a scale; 0: a row has one scale.
        rounding: how codes were found, for the record.
        format_version: of the folder.
        library_version: that wrote it, for the record.
        quant_method: ``vq``.

    Raises:
        VqError: for another format version, or a value that this version does not know.
    """

    def __init__(
        self,
        codebooks: dict[str, dict[str, Any]] | None = None,
        default_codebook: str = "c0",
        layers: dict[str, str] | None = None,
        modules_to_not_convert: list[str] | None = None,
        rotation: str = "input",
        unfused_experts: list[str] | None = None,
        embeddings: dict[str, Any] | None = None,
        outliers: dict[str, Any] | None = None,
        low_rank: dict[str, Any] | None = None,
        tables: dict[str, Any] | None = None,
        columns: dict[str, Any] | None = None,
        group: int = 0,
        rounding: str = "",
        format_version: int = FORMAT_VERSION,
        library_version: str = "",
        quant_method: str = "vq",
        **unknown: Any,
    ) -> None:
        check_version(format_version, library_version)
        if unknown:
            raise VqError(f"quantization_config: unknown keys {', '.join(sorted(unknown))}")
        if rotation not in _ROTATIONS:
            raise VqError(
                f"quantization_config: rotation {rotation!r}; {nearest_names(rotation, _ROTATIONS)}"
            )
        self.quant_method = cast("Any", quant_method)  # an enumeration of transformers' own methods
        self.codebooks = dict(codebooks or {})
        self.default_codebook = default_codebook
        self.layers = dict(layers or {})
        self.modules_to_not_convert = list(modules_to_not_convert or [])
        self.unfused_experts = list(unfused_experts or [])
        self.embeddings = dict(embeddings or {})
        self.outliers, self.low_rank = dict(outliers or {}), dict(low_rank or {})
        self.tables = tables  # {} would be tables for all rows
        self.columns, self.group = dict(columns or {}), group
        self.rotation, self.rounding = rotation, rounding
        self.format_version, self.library_version = format_version, library_version
        used = {default_codebook, *self.layers.values()}
        if not used <= self.codebooks.keys():
            raise VqError(
                f"quantization_config: codebooks {sorted(used - self.codebooks.keys())} are used but not "
                f"described; described: {sorted(self.codebooks)}"
            )


def check_version(found: Any, library: Any) -> None:
    """Raise VqError for a folder of another format version."""
    if found != FORMAT_VERSION:
        raise VqError(
            f"the checkpoint has format version {found} (written by vq {library or 'unknown'}); this vq reads "
            f"version {FORMAT_VERSION}; upgrade vq-toolkit or compress the model again"
        )


class VqHfQuantizer(HfQuantizer):
    """Puts packed layers in place of linear ones before transformers loads the weights."""

    requires_calibration = True  # models are compressed by vq.compress, not while they are loaded
    quantization_config: VqConfig

    def is_serializable(self) -> bool:
        """``save_pretrained`` writes the packed layers as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Not yet."""
        return False

    @property
    def is_compileable(self) -> bool:
        """The operations of packed layers are traceable."""
        return True

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        install(model, self.quantization_config)
        files = [Path(file) for file in kwargs.get("checkpoint_files") or ()]
        if files and all(file.suffix == ".safetensors" for file in files):
            check_complete(model, files)
            adopt_stored(model, files)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        refresh(model, self.quantization_config)
        verify(model)
        return model


def install(model: nn.Module, config: VqConfig) -> None:
    """Replace linear layers by packed ones on the meta device, and add the shared codebooks to the root."""
    with _plain_defaults():
        books = {key: _codebook(key, entry) for key, entry in config.codebooks.items()}
    prefix = getattr(model, "base_model_prefix", "")
    kept = set(config.modules_to_not_convert)

    def listed(name: str) -> set[str]:
        return {name, f"{prefix}.{name}"}  # a headless model has no prefix

    def book_of(name: str) -> Codebook | None:
        if listed(name) & kept:
            return None
        found = [config.layers[n] for n in listed(name) if n in config.layers]
        return books[found[0] if found else config.default_codebook]

    parts = ("outliers", "low_rank", "tables", "columns", "group")
    beside = {part: getattr(config, part) for part in parts}

    def sides_of(name: str, rows: int, columns: int) -> Sides:
        apart = {config.layers.get(n) for n in listed(name)} & {"embeddings"}
        return Sides() if apart else Sides.of(beside, rows, columns)

    fused = set(config.unfused_experts)
    unfuse(model, [name for name, _ in model.named_modules() if listed(name) & fused])
    put_packed(model, book_of, _ROTATIONS[config.rotation], sides_of)
    put_embedding(model, config.embeddings, books, prefix)
    model.add_module(SHARED, nn.ModuleDict(books))


def check_complete(model: nn.Module, files: list[Path]) -> None:
    """Raise VqError if the files lack a tensor of a packed layer; transformers would only warn."""
    stored = {name for file in files for name in read_header(file)[0]}
    stored |= renamed_keys(stored, model)
    prefix = getattr(model, "base_model_prefix", "")
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            for part, _ in layer.named_buffers():
                if part in PARTS and not stored & {f"{name}.{part}", f"{prefix}.{name}.{part}"}:
                    raise VqError(
                        f"{files[0].parent}: tensor {name}.{part} is missing; fetch the model again"
                    )


def _codebook(key: str, entry: dict[str, Any]) -> Codebook:
    """A codebook of the config; its tables come from the checkpoint."""
    try:
        book = build(entry["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise VqError(f"quantization_config: codebook {key}: {error}") from error
    if entry.get("version") != book.version:
        raise VqError(
            f"quantization_config: codebook {key} {entry['spec']} has version {entry.get('version')}, this vq "
            f"reads version {book.version}; upgrade vq-toolkit or compress the model again"
        )
    return book


@contextlib.contextmanager
def _plain_defaults() -> Iterator[None]:
    """float32 on the CPU, whatever transformers has set while it builds a model."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)


def refresh(model: nn.Module, config: VqConfig) -> None:
    """Compute derived tables again: transformers leaves buffers that are not stored without a value."""
    with _plain_defaults():
        for key, entry in config.codebooks.items():
            fresh = dict(_codebook(key, entry).named_buffers())
            book = getattr(model, SHARED)[key]
            for path, buffer in list(book.named_buffers()):
                owner, _, leaf = path.rpartition(".")
                module = book.get_submodule(owner)
                if leaf in module._non_persistent_buffers_set:
                    module._buffers[leaf] = fresh[path].to(buffer.device)


def verify(model: nn.Module) -> None:
    """Raise VqError, with the name of the tensor, if a packed weight is damaged."""
    for name, layer in model.named_modules():
        if not isinstance(layer, QuantizedLinear) or layer.weight.is_meta:
            continue
        try:
            found = read_packed(layer.weight.cpu())
        except ValueError as error:
            raise VqError(f"tensor {name}.weight is damaged: {error}") from error
        if not found.same_format(layer.header):
            raise VqError(f"tensor {name}.weight holds {found}, the config asks for {layer.header}")


def register() -> None:
    """Make transformers know ``quant_method: vq``; doing so twice is harmless."""
    from transformers.quantizers import auto

    if "vq" not in auto.AUTO_QUANTIZATION_CONFIG_MAPPING:
        auto.register_quantization_config("vq")(VqConfig)
    if "vq" not in auto.AUTO_QUANTIZER_MAPPING:
        auto.register_quantizer("vq")(VqHfQuantizer)


register()
