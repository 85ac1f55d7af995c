"""Compressing any ``nn.Module`` that is in memory, with a function that runs it on calibration data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

import vq
from vq.codebooks import build
from vq.compressors.calibration.calibrate import WholeModel
from vq.compressors.files.tensorfile import pending, read_header, write_tensors
from vq.compressors.layers.sides import Sides
from vq.compressors.options import CompressOptions
from vq.compressors.report import module_warnings
from vq.compressors.rounding.block import SHARED, BlockQuantizer, Shelf
from vq.compressors.rounding.packing import from_parts
from vq.compressors.structure.experts import UnfusedExperts, fused_of, unfuse
from vq.compressors.structure.memory import release
from vq.compressors.structure.stacks import find_stacks
from vq.compressors.structure.surgery import is_linear, put_packed, reads_weight, straighten
from vq.errors import VqError

FORMAT_VERSION = 1
_KIND = "vq-module"
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class ModuleReport:
    """What was done to a module.

    Attributes:
        layers: figures of each packed layer by name.
        left_alone: numbers in each tensor of two or more dimensions that was not packed, by name.
        share_left: their share of all such numbers.
        bits_per_weight: of the packed layers: codes, headers, scales, signs and tables over their weights.
        warnings: what a user should know, by layer.
    """

    layers: dict[str, Any]
    left_alone: dict[str, int]
    share_left: float
    bits_per_weight: float
    warnings: list[str]


@dataclass(eq=False)
class _Blocks:
    """A live module in pieces that are quantized one after another.

    Attributes:
        blocks: the pieces; the module itself stands for what lies in no piece.
        layers: linear layers of each piece by their name in the module.
    """

    blocks: list[nn.Module] = field(default_factory=list)
    layers: list[dict[str, nn.Linear]] = field(default_factory=list)

    def linears(self, index: int) -> dict[str, nn.Linear]:
        """Linear layers of a piece."""
        return self.layers[index]


def compress_module(
    module: M,
    calibrate: Callable[[M], Any] | None = None,
    *,
    options: CompressOptions | None = None,
) -> tuple[M, ModuleReport]:
    """Put packed layers in place of a module's linear layers.

    Repeated blocks are found by structure and quantized in their order, each on what the quantized ones before it
    give; what lies outside of them comes last. With ``calibrate_on: original``, everything is calibrated at once.

    Args:
        module: changed in place; a layer whose weight is shared with another module is left alone.
        calibrate: runs the module on calibration data; called once for each block. None needs rounding ``nearest``.
        options: see CompressOptions; ``windows`` and ``context`` do not matter here.

    Returns:
        The module, and what was done.

    Raises:
        VqError: if there is no linear layer, or a pattern matches none.
    """
    chosen = options or CompressOptions(
        rounding="nearest" if calibrate is None else "ldlq", windows=int(calibrate is not None)
    )
    if calibrate is None and chosen.rounding == "ldlq":
        raise VqError("rounding ldlq needs calibrate, a function that runs the module on data")
    training = module.training
    module.eval()
    _take_apart(module)
    pieces = _pieces(module, chosen)
    shelf = Shelf(chosen, chosen.seed)
    quantizer = BlockQuantizer(pieces, shelf, chosen, windows=int(calibrate is not None))
    runs = None if calibrate is None else WholeModel([lambda: calibrate(module)], stop=False)
    tensors: dict[str, Tensor] = {}
    reports: dict[str, Any] = {}
    for index in range(len(pieces.blocks)):
        result = quantizer.quantize(index, runs)
        tensors.update(result.tensors)
        reports.update(result.reports)
        release()
    _put(module, tensors, reports, shelf)
    module.train(training)
    return module, _report(module, reports, chosen)


def _take_apart(module: nn.Module) -> None:
    """Fused experts and transposed layers as linear ones, with the weights they had."""
    stored = dict(module.named_parameters(remove_duplicate=False))
    origins = {**unfuse(module), **straighten(module)}
    for name, origin in origins.items():
        owner, _, leaf = name.rpartition(".")
        value = origin.take(stored[origin.name].detach())
        setattr(module.get_submodule(owner), leaf, nn.Parameter(value.clone(), False))
        bias = f"{owner}.bias"
        if leaf == "weight" and bias in stored and bias not in origins:
            module.get_submodule(owner).bias = nn.Parameter(stored[bias].detach(), False)


def _pieces(module: nn.Module, options: CompressOptions) -> _Blocks:
    """The blocks of a module, and last what is in none of them."""
    layers = _linears(module)
    if not layers:
        raise VqError(f"{type(module).__name__} has no linear layer to compress")
    for pattern in options.layers:
        alone = CompressOptions(layers={pattern: "keep"})
        if not any(alone.codebook_of(name) == "keep" for name in layers):
            raise VqError(f"layers: {pattern!r} matches no layer; names are such as {min(layers)}")
    found = _Blocks()
    try:
        stacks = find_stacks(module, type(module).__name__)
    except VqError:
        stacks = []
    names = [f"{s}.{i}" for s in stacks for i in range(len(module.get_submodule(s)._modules))]
    for name in names if options.calibrate_on == "quantized" else []:
        inside = {n: m for n, m in layers.items() if n == name or n.startswith(f"{name}.")}
        if inside:
            found.blocks.append(module.get_submodule(name))
            found.layers.append(inside)
    done = {name for piece in found.layers for name in piece}
    rest = {name: layer for name, layer in layers.items() if name not in done}
    if rest:
        found.blocks.append(module)
        found.layers.append(rest)
    return found


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers by name, but not those whose weight another module shares or looks at."""
    owners: dict[int, int] = {}
    for part in module.modules():
        for value in part._parameters.values():
            if value is not None:
                owners[id(value)] = owners.get(id(value), 0) + 1
    found = {}
    for name, layer in module.named_modules():
        parent, _, leaf = name.rpartition(".")
        if not isinstance(layer, nn.Linear) or not is_linear(layer) or not name:
            continue
        if owners[id(layer.weight)] == 1 and not reads_weight(module.get_submodule(parent), leaf):
            found[name] = layer
    return found


def _put(
    module: nn.Module, tensors: dict[str, Tensor], reports: dict[str, Any], shelf: Shelf
) -> None:
    """Packed layers in place of dense ones, and their codebooks at the root."""
    for name in reports:
        linear = module.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        book = shelf.books[shelf.id_of(name) or ""]
        layer = from_parts(name, tensors, book, linear)
        if linear.bias is not None:
            layer.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        module.set_submodule(name, layer.to(linear.weight.device))
    home = min(reports) if isinstance(module, nn.Sequential) else ""  # it runs all its children
    module.get_submodule(home).add_module(SHARED, nn.ModuleDict(shelf.books))


def _shelf_of(module: nn.Module) -> tuple[str, Any]:
    """Where the codebooks of a module with packed layers are, and they."""
    for name, part in module.named_modules():
        home, _, leaf = name.rpartition(".")
        if leaf == SHARED:
            return home, part
    raise VqError(f"{type(module).__name__} has no packed layer; compress_module it first")


def _report(module: nn.Module, reports: dict[str, Any], options: CompressOptions) -> ModuleReport:
    kept = {n: p.numel() for n, p in module.named_parameters() if p.ndim >= 2 and SHARED not in n}
    weights = sum(r["shape"][0] * r["shape"][1] for r in reports.values())
    bits = sum(r["shape"][0] * r["shape"][1] * r["bits_per_weight"] for r in reports.values())
    shared = _shelf_of(module)[1].state_dict().values()
    bits += 8 * sum(t.numel() * t.element_size() for t in shared)
    left = sum(kept.values())
    return ModuleReport(
        layers=reports,
        left_alone=kept,
        share_left=left / max(left + weights, 1),
        bits_per_weight=bits / max(weights, 1),
        warnings=module_warnings(reports, options),
    )


def save_module(module: nn.Module, path: str | Path) -> None:
    """Write a module with packed layers to one safetensors file.

    Args:
        module: what ``compress_module`` gave.
        path: of the file.

    Raises:
        VqError: if it has no packed layer.
    """
    from vq.compressors.layers.linear import QuantizedLinear

    packed = {n: m for n, m in module.named_modules() if isinstance(m, QuantizedLinear)}
    home, books = _shelf_of(module)
    ids = {id(book): key for key, book in books.items()}
    fused = [n for n, m in module.named_modules() if isinstance(m, UnfusedExperts)]
    state, aliases = _state(module)
    config = {
        "codebooks": {k: {"spec": str(b.spec), "version": b.version} for k, b in books.items()},
        "layers": {name: ids[id(layer.codebook)] for name, layer in packed.items()},
        "rotated": {
            n: [m.signs_in is not None, m.signs_out is not None] for n, m in packed.items()
        },
        "sides": {n: m.sides.to_list() for n, m in packed.items() if m.sides.any},
        "unfused_experts": fused,
        "home": home,
        "aliases": aliases,
        "library_version": vq.__version__,
    }
    metadata = {
        "vq_format": _KIND,
        "vq_format_version": str(FORMAT_VERSION),
        "config": json.dumps(config, sort_keys=True),
    }
    write_tensors(Path(path), {n: pending(t.detach()) for n, t in state.items()}, metadata)


def _state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a module, shared ones once, and the other names of those."""
    state: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride()) if tensor.numel() else name
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            state[name] = tensor
    return state, aliases


def load_module(module: M, path: str | Path) -> M:
    """Give a dense module of the same architecture the packed layers and weights of a file.

    Args:
        module: as it was before ``compress_module``, with any weights; changed in place.
        path: of a file that ``save_module`` wrote.

    Raises:
        VqError: if the file is of another kind or version, or its names are not those of the module.
    """
    entries, metadata = read_header(Path(path))
    if metadata.get("vq_format") != _KIND:
        raise VqError(f"{path}: expected a file of vq.save_module, got another safetensors file")
    if metadata.get("vq_format_version") != str(FORMAT_VERSION):
        raise VqError(
            f"{path}: format version {metadata.get('vq_format_version')}, this vq reads version {FORMAT_VERSION}"
        )
    config = json.loads(metadata["config"])
    known = dict(module.named_modules())
    for name in config["layers"]:
        if (fused_of(name) or name) not in known:
            raise VqError(f"{path}: holds a layer {name}, which the module does not have")
    books = {key: build(entry["spec"]) for key, entry in config["codebooks"].items()}
    unfuse(module, config["unfused_experts"])
    for rotated in {tuple(value) for value in config["rotated"].values()}:
        names = {n for n, value in config["rotated"].items() if tuple(value) == rotated}
        put_packed(
            module,
            lambda n, of=names: books[config["layers"][n]] if n in of else None,  # type: ignore[misc]
            (rotated[0], rotated[1]),
            lambda n, _rows, _columns: Sides(*config.get("sides", {}).get(n, ())),
        )
    module.get_submodule(config["home"]).add_module(SHARED, nn.ModuleDict(books))
    state = {name: entry.read() for name, entry in entries.items()}
    state |= {name: state[root] for name, root in config["aliases"].items()}
    lost, extra = module.load_state_dict(state, strict=False, assign=True)
    if lost or extra:
        what, names_ = ("lacks", lost) if lost else ("has a surplus of", extra)
        raise VqError(f"{path}: {what} {len(names_)} tensors of the module, first {names_[0]}")
    return module
