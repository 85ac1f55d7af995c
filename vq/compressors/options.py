"""What determines a compressed model, apart from the model and the text."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch

from vq.codebooks import Spec
from vq.codebooks.spec import nearest_names
from vq.compressors.rounding.options import (
    ColumnOptions,
    LowRankOptions,
    OutlierOptions,
    RoundingOptions,
    TableOptions,
    part_options,
)
from vq.compressors.tuning.options import TuneOptions
from vq.errors import VqError

KEEP = "keep"  # in place of a codebook: leave the layer as it is
_INPUTS = ("quantized", "original")
_TOKEN_WEIGHTS = ("none", "attention")
_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class CompressOptions:
    """How a model is compressed; the keys of a recipe.

    Attributes:
        codebook: spec of the codebook of all layers.
        layers: exceptions: a pattern of layer names (``*`` matches anything) to a codebook spec or ``keep``; the
            last one that matches counts. One that starts with ``?`` may match no layer of the model at hand.
        embeddings: spec of the codebook of the embeddings and of the head, such as ``uniform(bits=8)``; ``keep`` leaves
            them as they are. One that starts with ``?`` may meet a model without a table that can be packed.
        rounding: ``ldlq`` or ``nearest``.
        rotation: ``input``, ``both`` or ``none``.
        damping: see RoundingOptions.
        scale: see RoundingOptions.
        polish: sweeps of coordinate descent behind the rounding, which accept only improvements; 0 for none.
        outliers: weights kept beside the codes, ``{share: 0.005, by: sensitivity}``; empty for none.
        low_rank: a low-rank part beside the codes, ``{rank: 16, rounds: 2}``; empty for none.
        tables: tables learned for each matrix, ``{rows: 0, rounds: 2}``; empty for those of the codebook.
        columns: columns whose weights have a second code, ``{share: 0.01, dim: 1, entries: 16}``; empty for none.
        group: columns that share a scale in each row, a multiple of 32 such as 128; 0: a row has one scale.
        windows: calibration windows; 0 for none (then Hessians are the identity).
        context: tokens of a window.
        sequential: within a block, calibrate each layer on the already quantized ones before it (one more
            pass a group).
        precision: of the Hessian sums, ``float32`` or ``float64``.
        calibrate_on: what a block sees while it is calibrated: what the ``quantized`` blocks before it give, or
            what those of the ``original`` model gave.
        token_weights: how tokens count in a Hessian: ``none`` for all alike, ``attention`` by how much attention they
            receive in the block.
        seed: of window places and rotation signs.
        tuning: see TuneOptions; empty for none.
        budget: bits per weight (``2.25``) or size (``40MB``) that a plan is made for before anything is rounded; the
            plan replaces ``codebook`` and ``layers``. Empty for no plan.
    """

    codebook: str = "trellis(bits=2, memory=12, code=hash)"
    layers: Mapping[str, str] = field(default_factory=dict)
    embeddings: str = KEEP
    rounding: str = "ldlq"
    rotation: str = "input"
    damping: float = 0.03
    scale: float = 1.0
    polish: int = 0
    outliers: Mapping[str, Any] = field(default_factory=dict)
    low_rank: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    group: int = 0
    windows: int = 32
    context: int = 1024
    sequential: bool = False
    precision: str = "float32"
    calibrate_on: str = "quantized"
    token_weights: str = "none"
    seed: int = 0
    tuning: Mapping[str, Any] = field(default_factory=dict)
    budget: str = ""

    def __post_init__(self) -> None:
        try:
            self.rounding_options()
            specs = {
                "codebook": self.codebook,
                "embeddings": self.packed_embeddings,
                **dict(self.layers),
            }
            for spec in specs.values():
                if spec != KEEP:
                    Spec.parse(spec)
        except (TypeError, ValueError) as error:
            raise VqError(str(error)) from error
        if self.codebook == KEEP:
            raise VqError(
                "codebook: 'keep' is for single layers; expected a spec such as scalar(bits=2)"
            )
        if self.precision not in _PRECISIONS:
            raise VqError(f"precision: expected float32 or float64, got {self.precision!r}")
        self._check_calibration()
        for name, value, low in (("windows", self.windows, 0), ("context", self.context, 2)):
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise VqError(f"{name}: expected a whole number of at least {low}, got {value!r}")
        if not isinstance(self.sequential, bool) or not isinstance(self.seed, int):
            raise VqError(
                f"sequential is true or false and seed a whole number, "
                f"got {self.sequential!r} and {self.seed!r}"
            )
        self._check_text(TuneOptions.from_dict(self.tuning).used)
        self._check_parts()

    def _check_text(self, tuned: bool) -> None:
        """Raise VqError for what needs calibration where there is none."""
        if self.windows:
            return
        if tuned:
            raise VqError("tuning needs calibration text: windows must be at least 1")
        if self.budget:
            raise VqError("budget: a plan needs calibration text: windows must be at least 1")
        if self.rounding == "ldlq":
            raise VqError(
                "rounding ldlq needs calibration: windows must be at least 1, or use nearest"
            )

    def _check_parts(self) -> None:
        """Raise VqError for parts beside the codes that do not go together with something else."""
        if self.polish and not self.windows:
            raise VqError("polish needs calibration: windows must be at least 1, or polish 0")
        if self.columns and not self.windows:
            raise VqError("columns needs calibration: windows must be at least 1, or no columns")
        if self.budget and self.sides():
            raise VqError(
                f"budget: a plan does not count {', '.join(self.sides())}; choose a codebook instead of a budget, or "
                "leave them out"
            )
        specs = [
            Spec.parse(spec) for spec in (self.codebook, *self.layers.values()) if spec != KEEP
        ]
        for spec in specs:
            if self.tables and spec.name not in ("kmeans", "additive"):
                raise VqError(
                    f"tables: {spec} has no table that could be learned for each matrix; use kmeans(dim=1, entries=4) "
                    "for scalars of 2 bits, kmeans(dim=..., entries=...) or additive(...)"
                )

    def sides(self) -> dict[str, Any]:
        """What stands beside the codes and row scales of each layer, as a checkpoint describes it."""
        found: dict[str, Any] = {}
        rounding = self.rounding_options()
        if rounding.outliers is not None:
            found["outliers"] = {"share": rounding.outliers.share, "by": rounding.outliers.by}
        if rounding.low_rank is not None:
            found["low_rank"] = {"rank": rounding.low_rank.rank}
        if rounding.tables is not None:
            found["tables"] = {"rows": rounding.tables.rows}
        if rounding.columns is not None:
            found["columns"] = asdict(rounding.columns)
        if rounding.group:
            found["group"] = rounding.group
        return found

    def _check_calibration(self) -> None:
        """Raise for a way of calibrating that there is not."""
        for name, chosen, known in (
            ("calibrate_on", self.calibrate_on, _INPUTS),
            ("token_weights", self.token_weights, _TOKEN_WEIGHTS),
        ):
            if chosen not in known:
                raise VqError(f"{name}: expected {' or '.join(known)}, got {chosen!r}")
        if self.sequential is True and self.calibrate_on == "original":
            raise VqError(
                "sequential calibrates on quantized layers; calibrate_on must be quantized"
            )

    def rounding_options(self) -> RoundingOptions:
        """The part that concerns one matrix."""
        return RoundingOptions(
            method=self.rounding,
            rotation=self.rotation,
            damping=self.damping,
            scale=self.scale,
            polish=self.polish,
            outliers=part_options(OutlierOptions, "outliers", self.outliers),
            low_rank=part_options(LowRankOptions, "low_rank", self.low_rank),
            tables=part_options(TableOptions, "tables", self.tables),
            columns=part_options(ColumnOptions, "columns", self.columns),
            group=self.group,
        )

    @property
    def hessian_dtype(self) -> torch.dtype:
        """``precision`` as a dtype."""
        return _PRECISIONS[self.precision]

    @property
    def packed_embeddings(self) -> str:
        """Spec of the embeddings, or ``keep``."""
        return self.embeddings.removeprefix("?")

    def codebook_of(self, layer: str) -> str:
        """Spec of a layer, or ``keep``."""
        chosen = self.codebook
        for pattern, spec in self.layers.items():
            if fnmatch.fnmatchcase(layer, pattern):
                chosen = spec
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        mappings = ("layers", "tuning", "outliers", "low_rank", "tables", "columns")
        return {**asdict(self), **{key: dict(getattr(self, key)) for key in mappings}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "options") -> CompressOptions:
        """Options from a mapping.

        Raises:
            VqError: for an unknown key (with the nearest known) or a wrong value.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise VqError(f"{where}: unknown key {key!r}; {nearest_names(str(key), known)}")
        try:
            return cls(**{key: _number(key, value) for key, value in values.items()})
        except (TypeError, ValueError) as error:
            raise VqError(f"{where}: {error}") from error


def _number(key: str, value: Any) -> Any:
    """YAML writes 1 for 1.0 and 1e-2 as a text; both mean a number here. A budget is a text."""
    if key == "budget":
        return str(value)
    if (
        key in ("damping", "scale")
        and isinstance(value, (int, str))
        and not isinstance(value, bool)
    ):
        return float(value)
    return value
