"""How a matrix is rounded, and what is kept beside its codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from vq.codebooks.spec import nearest_names
from vq.kernels.formats import SCALE_COLUMNS

METHODS = ("ldlq", "nearest")
ROTATIONS = ("input", "both", "none")
OUTLIERS_BY = ("sensitivity", "magnitude")


@dataclass(frozen=True)
class OutlierOptions:
    """Weights that are kept beside the codes, in a sparse part.

    Attributes:
        share: of the weights of each matrix.
        by: ``sensitivity``: those whose rounding costs most under the Hessian; ``magnitude``: the largest.
    """

    share: float = 0.005
    by: str = "sensitivity"

    def __post_init__(self) -> None:
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 0.5:
            raise ValueError(
                f"outliers: share is a number above 0 and up to 0.5, got {self.share!r}"
            )
        if self.by not in OUTLIERS_BY:
            raise ValueError(f"outliers: by is {' or '.join(OUTLIERS_BY)}, got {self.by!r}")


@dataclass(frozen=True)
class LowRankOptions:
    """A product of two thin matrices beside the codes.

    Attributes:
        rank: columns of the left matrix.
        rounds: how often codes and product are found in turn, each given the other.
    """

    rank: int = 16
    rounds: int = 2

    def __post_init__(self) -> None:
        _whole("low_rank", "rank", self.rank, 1)
        _whole("low_rank", "rounds", self.rounds, 1)


@dataclass(frozen=True)
class TableOptions:
    """Tables that are learned for each matrix instead of one for the whole model.

    Attributes:
        rows: rows that share a table; 0 for all rows of a matrix.
        rounds: how often tables (least squares) and codes (coordinate descent) are improved in turn.
    """

    rows: int = 0
    rounds: int = 2

    def __post_init__(self) -> None:
        _whole("tables", "rows", self.rows, 0)
        _whole("tables", "rounds", self.rounds, 0)


@dataclass(frozen=True)
class ColumnOptions:
    """Columns with a second code for each of their weights.

    Attributes:
        share: of the columns of each matrix, at least one: those with the largest diagonal of the Hessian.
        dim: rows that a vector of the second codes covers.
        entries: of their table, which each matrix has for itself; a power of two.
    """

    share: float = 0.01
    dim: int = 1
    entries: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.share, (int, float)) or not 0 < self.share <= 0.5:
            raise ValueError(
                f"columns: share is a number above 0 and up to 0.5, got {self.share!r}"
            )
        _whole("columns", "dim", self.dim, 1)
        _whole("columns", "entries", self.entries, 2)
        if self.entries & (self.entries - 1) or self.entries > 1 << 16:
            raise ValueError(
                f"columns: entries is a power of two of at most 65536, got {self.entries}"
            )


@dataclass(frozen=True)
class RoundingOptions:
    """How a matrix is rounded.

    Attributes:
        method: ``ldlq`` (error feedback through the Hessian) or ``nearest``.
        rotation: ``input``, ``both`` sides, or ``none``.
        damping: part of the Hessian's mean diagonal that is added to its diagonal.
        scale: root mean square of a row in units of the codebook before rounding, or what the search for scales starts
            from (where nothing is rotated, and for groups of columns); scales are refitted after it.
        polish: sweeps of coordinate descent over the codes behind the first rounding.
        outliers: see OutlierOptions; None for none.
        low_rank: see LowRankOptions; None for none.
        tables: see TableOptions; None for the codebook's.
        columns: see ColumnOptions; None for none.
        group: columns that share a scale, a multiple of 32; 0: a row has one scale.
    """

    method: str = "ldlq"
    rotation: str = "input"
    damping: float = 0.03
    scale: float = 1.0
    polish: int = 0
    outliers: OutlierOptions | None = None
    low_rank: LowRankOptions | None = None
    tables: TableOptions | None = None
    columns: ColumnOptions | None = None
    group: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.method, METHODS),
            ("rotation", self.rotation, ROTATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        for name, number in (("damping", self.damping), ("scale", self.scale)):
            if not 0 < number < float("inf"):
                raise ValueError(f"{name}: expected a positive number, got {number!r}")
        _whole("rounding", "polish", self.polish, 0)
        self._check_group()
        if self.columns is not None and self.rotation != "none":
            raise ValueError(
                f"columns: a rotation leaves no column that stands out; expected rotation none, got {self.rotation}"
            )
        if self.columns is not None and self.outliers is not None:
            raise ValueError(
                "columns: not together with outliers; take one of them, or a larger share"
            )

    def _check_group(self) -> None:
        _whole("rounding", "group", self.group, 0)
        if self.group % SCALE_COLUMNS or self.group >= 1 << 16:
            raise ValueError(
                f"group: expected 0 or a multiple of {SCALE_COLUMNS} columns below 65536, got {self.group}; try 128"
            )
        for name, part in (("tables", self.tables), ("columns", self.columns)):
            if self.group and part is not None:
                raise ValueError(
                    f"{name}: not together with scales of groups of columns; leave out {name}, or take group 0"
                )


O = TypeVar("O", OutlierOptions, LowRankOptions, TableOptions, ColumnOptions)  # noqa: E741


def part_options(kind: type[O], key: str, values: Any) -> O | None:
    """Options of one part from a recipe's mapping; None for an empty one.

    Raises:
        ValueError: for an unknown key (with the nearest known), or a wrong value.
    """
    if not isinstance(values, Mapping):
        raise ValueError(
            f"{key}: expected keys and values such as {_example(kind)}, got {values!r}"
        )
    if not values:
        return None
    known = [f.name for f in fields(kind)]
    for name in values:
        if name not in known:
            raise ValueError(f"{key}: unknown key {name!r}; {nearest_names(str(name), known)}")
    return kind(**values)


def _example(kind: type) -> str:
    return "{" + ", ".join(f"{f.name}: {f.default}" for f in fields(kind)) + "}"


def _whole(part: str, name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{part}: {name} is a whole number of at least {low}, got {value!r}")
