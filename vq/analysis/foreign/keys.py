"""Names that other libraries give to the tensors of their codebooks, and how each is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from vq.analysis.foreign.files import Tensors
from vq.analysis.subject import Table
from vq.errors import VqError

Kind = Literal["one", "residual", "grouped"]
Read = Callable[[Tensors, "re.Match[str]", int], list[Table]]


@dataclass(frozen=True)
class Structure:
    """How tables make a vector, and what is to be told of it."""

    kind: Kind = "one"
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """Codebooks of one library.

    Attributes:
        library: its name and class, for people.
        key: matches the full name of a table; its group ``at`` is what stands before.
        read: tables of one match.
        structure: of all tables from the names and the tables.
    """

    library: str
    key: re.Pattern[str]
    read: Read
    structure: Callable[[Tensors, Sequence[str], Sequence[Table]], Structure]


def numbers(name: str) -> tuple[int, ...]:
    """Numbers among the parts of a name."""
    return tuple(int(part) for part in name.split(".") if part.isdigit())


def _title(name: str, number: int) -> str:
    found = numbers(name)
    if "rvqs." in name and len(found) >= 2:
        return f"group {found[-2]}, stage {found[-1]}"
    word = "semantic " if "semantic" in name or "rvq_first" in name else ""
    word = "acoustic " if "acoustic" in name or "rvq_rest" in name else word
    return f"{word}stage {found[-1] if found else number}"


def _matrix(tensors: Tensors, name: str) -> Tensor:
    values = tensors.floats(name)
    if values.ndim != 2 or min(values.shape) < 1:
        raise VqError(f"{tensors.path}: {name}: expected (entries, dim), got {tuple(values.shape)}")
    return values


def _counts(tensors: Tensors, name: str, entries: int) -> Tensor | None:
    """Moving averages of use ``(entries,)``; None where they are missing or nothing was ever counted."""
    if name not in tensors:
        return None
    counts = tensors.floats(name).reshape(-1)
    return counts if len(counts) == entries and float(counts.sum()) > 0 else None


def _unit(values: Tensor) -> bool:
    """Whether all rows have length 1: lookup is by direction."""
    return bool(((values.norm(dim=1) - 1).abs() < 1e-3).all())


def _read_heads(tensors: Tensors, place: re.Match[str], number: int) -> list[Table]:
    """``embed`` (heads, entries, dim) of vector-quantize-pytorch."""
    name, at = place.string, place["at"]
    values = tensors.floats(name)
    if values.ndim == 2:
        return _read_ema(tensors, place, number)  # EnCodec has the same names and no heads
    if values.ndim != 3 or min(values.shape) < 1:
        raise VqError(
            f"{tensors.path}: {name}: expected (heads, entries, dim), got {tuple(values.shape)}"
        )
    heads, entries = values.shape[:2]
    counts = f"{at}_codebook.cluster_size"
    uses = tensors.floats(counts) if counts in tensors else torch.zeros(heads, entries)
    found = []
    for head in range(heads):
        title = _title(name, number) if heads == 1 else f"{_title(name, number)}, head {head}"
        use = uses[head] if uses.shape == (heads, entries) and float(uses.sum()) > 0 else None
        found.append(Table(title, values[head], _unit(values[head]), use))
    return found


def _read_ema(tensors: Tensors, place: re.Match[str], number: int) -> list[Table]:
    """``embed`` (entries, dim) with ``cluster_size`` (entries,)."""
    values = _matrix(tensors, place.string)
    size = place.string.removesuffix("embed") + "cluster_size"
    return [Table(_title(place.string, number), values, False, _counts(tensors, size, len(values)))]


def _read_sums(tensors: Tensors, place: re.Match[str], number: int) -> list[Table]:
    """Mimi keeps sums of the vectors of each entry; its code vectors are sums over use."""
    sums = _matrix(tensors, place.string)
    name = place.string[: place.string.rindex("embed")] + "cluster_usage"
    use = tensors.floats(name).reshape(-1)
    if len(use) != len(sums):
        raise VqError(f"{tensors.path}: {name}: expected {len(sums)} numbers, got {len(use)}")
    values = sums / use.clamp_min(1e-5)[:, None]
    return [
        Table(_title(place.string, number), values, False, use if float(use.sum()) > 0 else None)
    ]


def _read_directions(tensors: Tensors, place: re.Match[str], number: int) -> list[Table]:
    """DAC looks up by direction in few dimensions."""
    return [Table(_title(place.string, number), _matrix(tensors, place.string), True)]


def _read_plain(tensors: Tensors, place: re.Match[str], number: int) -> list[Table]:
    """``quantize.embedding.weight``, with counts where the EMA variant keeps them."""
    values = _matrix(tensors, place.string)
    size = f"{place['at']}cluster_size"
    title = place["at"].rstrip(".") or f"table {number}"
    return [Table(title, values, _unit(values), _counts(tensors, size, len(values)))]


def _read_transformed(tensors: Tensors, place: re.Match[str], number: int) -> list[Table]:
    """SimVQ: the code vectors are a frozen table behind a trained linear map."""
    frozen, name = _matrix(tensors, place.string), f"{place['at']}code_transform.weight"
    if name not in tensors:
        raise VqError(
            f"{tensors.path}: {place.string} without {name}: only SimVQ with one linear map is read, save "
            "model.codebook as an array instead"
        )
    return [Table(_title(place.string, number), frozen @ tensors.floats(name).T)]


def _stages(tensors: Tensors, names: Sequence[str], tables: Sequence[Table]) -> Structure:
    """One table, residual stages, groups of such, or heads side by side."""
    if len(tables) == 1:
        return Structure()
    if len(tables) > len(names):
        kind: Kind = "grouped" if len(names) == 1 else "one"
        return Structure(kind, {"stages": f"{len(names)}, heads {len(tables) // len(names)}"})
    stems = {re.sub(r"\d+", "#", name) for name in names}
    if any("rvqs." in name for name in names):
        return Structure("one", {"stages": "residual in each of several groups"})
    widths = {t.values.shape[1] for t in tables}
    if any(f"mlps.{i}.proj_in.weight" in n for n in tensors.readers for i in (0,)):
        return Structure("one", {"stages": "residual, tables changed by a network (QINCo)"})
    together = len(stems) == 1 and len(widths) == 1 and all(numbers(name) for name in names)
    return Structure("residual") if together else Structure("one", {"stages": "separate tables"})


def _by_axes(tensors: Tensors, names: Sequence[str], tables: Sequence[Table]) -> Structure:
    """EnCodec and vector-quantize-pytorch have the same names; only the latter has an axis of heads."""
    found = _stages(tensors, names, tables)
    if tensors.get(names[0]).ndim == 3:
        return found
    return Structure(found.kind, {**found.facts, "library": "EnCodec"})


def _split(tensors: Tensors, names: Sequence[str], tables: Sequence[Table]) -> Structure:
    """Mimi: a semantic stage and residual acoustic stages, each behind its own projection."""
    said = "semantic and acoustic stages quantize the same input, the acoustic ones are residual"
    return Structure() if len(tables) == 1 else Structure("one", {"stages": said})


def _projected(tensors: Tensors, names: Sequence[str], tables: Sequence[Table]) -> Structure:
    """DAC: residual, each stage behind its own projection, so that the tables themselves do not add up."""
    energy = []
    for name, table in zip(names, tables, strict=True):
        out = out_projection(tensors, name.removesuffix("codebook.weight") + "out_proj")
        if out is None or out.shape[1] != table.values.shape[1]:
            return Structure("one", {"stages": "residual, each behind its own projection"})
        values = table.values @ out.T
        energy.append(float((values - values.mean(0)).square().sum(1).mean()))
    said = "residual, each behind its own projection (the tables do not add up)"
    return Structure("one", {"stages": said, "stage_energy": energy})


def out_projection(tensors: Tensors, at: str) -> Tensor | None:
    """Matrix (out, in) of a convolution of width 1, its weight norm ``g v / |v|`` multiplied out; None if missing."""
    norm, direction = f"{at}.weight_g", f"{at}.weight_v"
    if norm not in tensors:
        wrapped = f"{at}.parametrizations.weight.original"
        norm, direction = f"{wrapped}0", f"{wrapped}1"
    if norm in tensors and direction in tensors:
        v = tensors.floats(direction).flatten(1)
        return tensors.floats(norm).reshape(-1, 1) * v / v.norm(dim=1, keepdim=True)
    plain = f"{at}.weight"
    return tensors.floats(plain).flatten(1) if plain in tensors else None


def _family(library: str, key: str, read: Read, structure: Any = _stages) -> Family:
    return Family(library, re.compile(rf"(?P<at>(?:.*\.)?){key}"), read, structure)


FAMILIES = (
    _family("transformers EnCodec", r"layers\.\d+\.codebook\.embed", _read_ema),
    _family("transformers Mimi", r"layers\.\d+\.codebook\.embed_sum", _read_sums, _split),
    _family("Mimi", r"layers\.\d+\._codebook\.embedding_sum", _read_sums, _split),
    _family("DAC", r"quantizers\.\d+\.codebook\.weight", _read_directions, _projected),
    _family("VQGAN", r"quantize\.(?:embedding\.|embed\.)(?:weight)", _read_plain),
    _family("vector-quantize-pytorch SimVQ", r"frozen_codebook", _read_transformed),
    _family("vector-quantize-pytorch", r"_codebook\.embed", _read_heads, _by_axes),
)
"""Known families; a name belongs to the first that matches it."""

ACCEPTED = (
    "vector-quantize-pytorch (_codebook.embed, layers.N._codebook.embed, frozen_codebook), VQGAN and diffusers "
    "(quantize.embedding.weight), EnCodec (quantizer.vq.layers.N._codebook.embed, quantizer.layers.N.codebook.embed), "
    "DAC (quantizer.quantizers.N.codebook.weight), Mimi (layers.N.codebook.embed_sum), AQLM (codes, codebooks, "
    "scales), VPTQ (indices, centroids.weight); a single array: .npy"
)


def families_of(names: Iterable[str]) -> list[Family]:
    """Families that have a table among names, in the order of ``FAMILIES``."""
    found = []
    for name in names:
        family = next((f for f in FAMILIES if f.key.fullmatch(name)), None)
        if family is not None and family not in found:
            found.append(family)
    return sorted(found, key=FAMILIES.index)


def no_table(names: Iterable[str]) -> str:
    """Why names without a table are those of a quantizer all the same; empty where they are not."""
    last = {
        name.rpartition(".")[0].rpartition(".")[2] + "." + name.rpartition(".")[2] for name in names
    }
    ends = {name.rpartition(".")[2] for name in names}
    if {"project_in.weight", "project_out.weight"} <= last or ends == {"mask"}:
        return (
            "a quantizer on a fixed grid (FSQ, LFQ, latent scalars) has no table in its state; analyze its codes: "
            "vq analyze CODES.npy, or the grid itself: vq analyze 'fsq(levels=[8, 5, 5])'"
        )
    return ""
