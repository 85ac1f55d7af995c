"""What a trellis state stands for: computed codes, random tables, and the trained tables we ship."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch
from safetensors import safe_open
from torch import Tensor

from vq._data_files import data_path

HASH_FILES = {64: "trellis-hash.json", 32: "trellis-hash-32.json", 16: "trellis-hash-16.json"}
HASH_COUNTS = tuple(HASH_FILES)
HYBRID_FILE = "trellis-hybrid.safetensors"
FIGURES_FILE = "trellis-figures.json"
HYBRID_ROWS = 512
DEFAULT_SCALE = 0.97  # of unit-power values, where the best was not measured


@dataclass(frozen=True)
class HashCode:
    """The hash code for one rate and memory.

    Attributes:
        constant: odd 16-bit factor.
        step: values are ``levels * step``.
        distortion: measured mean squared error on N(0, 1) over its variance.
    """

    constant: int
    step: float
    distortion: float


@dataclass(frozen=True)
class TrainedTable:
    """A shipped table.

    Attributes:
        table: ``(2**memory, symbols)`` float32.
        distortion: measured on held-out N(0, 1) over its variance.
    """

    table: Tensor
    distortion: float


@functools.cache
def _hash_data(count: int) -> dict[str, object]:
    data: dict[str, object] = json.loads(data_path("codebooks", HASH_FILES[count]).read_text())
    return data


def hash_levels(count: int = 64) -> Tensor:
    """The levels that all hash codes of ``count`` levels share, int8 ``(64,)``; 16 or 32 are repeated.

    So the two upper bits of an index into 16 levels change nothing, and all forms are one format.
    """
    levels = torch.tensor(_hash_data(count)["levels"], dtype=torch.int8)
    return levels.repeat(64 // count)


def hash_code(bits: float, memory: int, count: int = 64) -> HashCode:
    """Searched constant and step for a rate and a number of levels.

    Raises:
        ValueError: if no constant was searched for this rate and memory.
    """
    codes = _hash_data(count)["codes"]
    assert isinstance(codes, dict)
    found = codes.get(f"bits={bits:g}, memory={memory}")
    if found is None:
        form = "" if count == 64 else f" of {count} levels"
        raise ValueError(
            f"trellis: no hash code{form} for bits={bits:g}, memory={memory}; known: {'; '.join(codes)}"
        )
    return HashCode(**found)


def hash_indices(memory: int, constant: int) -> Tensor:
    """Indices into the levels, ``(2**memory, 2)`` int64: bits 16..21 and 8..13 of the product.

    Args:
        memory: bits L of a state s.
        constant: C in ``p = (s << (16 - L)) * C mod 2**32``.
    """
    product = ((torch.arange(1 << memory) << (16 - memory)) * constant) & 0xFFFFFFFF
    return torch.stack([(product >> 16) & 63, (product >> 8) & 63], dim=1)


def hash_table(memory: int, constant: int, step: float, levels: Tensor | None = None) -> Tensor:
    """Values of all states of a hash code, ``(2**memory, 2)`` float32."""
    chosen = hash_levels() if levels is None else levels
    return chosen[hash_indices(memory, constant)].float() * step


def _byte_sum(words: Tensor) -> Tensor:
    return sum(((words >> shift) & 255 for shift in (0, 8, 16, 24)), torch.zeros_like(words))


def mad1_table(memory: int) -> Tensor:
    """Sum of the four bytes of a linear congruence, ``(2**memory, 1)`` float32.

    Reference:
        Tseng et al., "QTIP", NeurIPS 2024, algorithm 1 (1MAD).
    """
    words = (torch.arange(1 << memory) * 34038481 + 76625530) & 0xFFFFFFFF
    return ((_byte_sum(words) - 510).double() / 147.8).float().unsqueeze(1)


def mul1_table(memory: int) -> Tensor:
    """Sum of the four bytes of one product, ``(2**memory, 1)`` float32."""
    words = (torch.arange(1 << memory) * 0x83DCD12D) & 0xFFFFFFFF
    return ((_byte_sum(words) - 510).double() / 147.8).float().unsqueeze(1)


def _half_sum(words: Tensor) -> Tensor:
    """Sum of the two half-precision numbers that 32 bits hold after a mask and a flip, at unit power, ``(n, 1)``."""
    words = (words & 0x8FFF8FFF) ^ 0x3B603B60
    halves = torch.stack([words & 0xFFFF, words >> 16], dim=1)
    signed = torch.where(halves > 32767, halves - 65536, halves).to(torch.int16)
    return signed.view(torch.float16).double().sum(1, keepdim=True).div(1.2437).float()


def inst3_table(memory: int) -> Tensor:
    """Sum of two half-precision numbers made from the bits of a linear congruence, ``(2**memory, 1)``.

    Reference:
        Tseng et al., "QTIP", NeurIPS 2024, algorithm 2 (3INST).
    """
    return _half_sum((torch.arange(1 << memory) * 89226354 + 64248484) & 0xFFFFFFFF)


def mcg_table(memory: int) -> Tensor:
    """``inst3_table`` with a multiplicative congruence, no term added: ``(2**memory, 1)``."""
    return _half_sum((torch.arange(1 << memory) * 0xCBAC1FED) & 0xFFFFFFFF)


def hybrid_indices(memory: int) -> tuple[Tensor, Tensor]:
    """Row and sign of every state of the hybrid code: int64 ``(2**memory,)`` and float32 of +1 and -1.

    With ``w = s << (16 - memory)`` and ``h = w * w + w mod 2**32``, the row is bits 6..14 of h, and bit 15 flips the
    second value. At memory 16 this is the published code; shifting a shorter state up keeps all its bits in use.

    Reference:
        Tseng et al., "QTIP", NeurIPS 2024, algorithm 3 (HYB).
    """
    wide = torch.arange(1 << memory) << (16 - memory)
    mixed = (wide * wide + wide) & 0xFFFFFFFF
    return (mixed >> 6) & (HYBRID_ROWS - 1), (1 - 2 * ((mixed >> 15) & 1)).float()


def hybrid_table(rows: Tensor, memory: int) -> Tensor:
    """Values of all states of the hybrid code, ``(2**memory, 2)`` float32, from its ``rows`` ``(512, 2)``."""
    index, sign = hybrid_indices(memory)
    table = rows.float()[index]
    table[:, 1] *= sign
    return table


def hybrid_rows(memory: int) -> Tensor:
    """The trained rows of the hybrid code, ``(512, 2)`` float32; those that no state of a short memory uses are zero.

    Raises:
        ValueError: if no rows were trained for this memory.
    """
    with safe_open(data_path("codebooks", HYBRID_FILE), framework="pt") as file:
        names = sorted(file.keys())
        if f"memory={memory:02d}" not in names:
            raise ValueError(
                f"trellis: no hybrid code for memory={memory}; known: {', '.join(names)}"
            )
        rows: Tensor = file.get_tensor(f"memory={memory:02d}").float()
    return rows


def random_table(memory: int, symbols: int, seed: int) -> Tensor:
    """Independent N(0, 1) values, ``(2**memory, symbols)`` float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1 << memory, symbols, generator=generator)


COMPUTED = {"mad1": mad1_table, "inst3": inst3_table, "mcg": mcg_table, "mul1": mul1_table}
PAIRS = ("hash", "hybrid")  # codes of two values a step


@dataclass(frozen=True)
class Figure:
    """What was measured of a code at one rate and memory.

    Attributes:
        scale: best factor of the code's values.
        distortion: on held-out N(0, 1) with this scale, over its variance.
    """

    scale: float
    distortion: float


@functools.cache
def _figures() -> dict[str, dict[str, list[float]]]:
    data: dict[str, dict[str, list[float]]] = json.loads(
        data_path("codebooks", FIGURES_FILE).read_text()
    )["codes"]
    return data


def figure(code: str, bits: float, memory: int) -> Figure | None:
    """The figure of a computed or hybrid code, or None where nothing was measured."""
    found = _figures().get(code, {}).get(f"bits={bits:g}, memory={memory}")
    return None if found is None else Figure(*found)


def state_values(code: str, bits: float, memory: int, symbols: int, seed: int) -> Tensor:
    """Table ``(2**memory, symbols)`` float32 of any code but the hash code; zeros for ``lut`` where none is shipped."""
    if code == "lut":
        shipped = trained_table(bits, memory, symbols)
        return torch.zeros(1 << memory, symbols) if shipped is None else shipped.table.clone()
    if code == "random":
        return random_table(memory, symbols, seed) * DEFAULT_SCALE
    found = figure(code, bits, memory)
    scale = DEFAULT_SCALE if found is None else found.scale
    if code == "hybrid":
        return hybrid_table(hybrid_rows(memory), memory) * scale
    return COMPUTED[code](memory) * scale


def table_name(bits: float, memory: int, symbols: int) -> str:
    """File name of a trained table."""
    return f"trellis-bits{bits:g}-memory{memory}-symbols{symbols}.safetensors"


@functools.cache
def trained_table(bits: float, memory: int, symbols: int) -> TrainedTable | None:
    """The shipped table, or None where there is none for these numbers."""
    try:
        path = data_path("codebooks", table_name(bits, memory, symbols))
    except FileNotFoundError:
        return None
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        return TrainedTable(file.get_tensor("table").float(), float(about["mse"]))
