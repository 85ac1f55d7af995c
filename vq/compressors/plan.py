"""A plan: which codebook each matrix gets under a budget, and what size and quality that will give."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from vq.codebooks import build
from vq.compressors.knapsack import Choice, Option, choose
from vq.compressors.linear import QuantizedLinear
from vq.compressors.sensitivity import Findings
from vq.errors import VqError

_TRELLIS = "trellis(bits={:g}, memory=12, code=hash)"
_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def default_codebooks() -> list[str]:
    """Trellises of 1 to 4 bits in steps of a quarter: whole and half bits alone, quarters by shared columns."""
    whole = [_TRELLIS.format(bits / 2) for bits in range(2, 9)]
    quarters = [f"split(of=[{low}, {high}])" for low, high in pairwise(whole)]
    order = [spec for pair in zip(whole, quarters, strict=False) for spec in pair]
    return [*order, whole[-1]]


@lru_cache(maxsize=512)
def stored_bytes(spec: str, rows: int, columns: int) -> int:
    """Bytes of a matrix that is stored with a codebook: codes, header, scales and signs; not the codebook's tables."""
    layer = QuantizedLinear(columns, rows, build(spec), device="meta")
    return layer.stored_bytes


def parse_budget(text: str, weights: int) -> int:
    """Bytes of a budget.

    Args:
        text: bits per weight (``2.25``), or a size (``40MB``, ``32MiB``).
        weights: in all matrices.

    Raises:
        VqError: for anything else.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _UNITS:
        raise VqError(
            f"--budget: expected bits per weight such as 2.25, or a size such as 40MB, got {text!r}"
        )
    number = float(match.group(1))
    if unit:
        return int(number * _UNITS[unit])
    if not 0 < number <= 32:
        raise VqError(
            f"--budget: expected 1 to 32 bits per weight, or a size with a unit, got {text}"
        )
    return int(number * weights / 8)


@dataclass(frozen=True)
class Forecast:
    """What a choice of codebooks will give.

    Attributes:
        bytes: of all matrices.
        bits_per_weight: the same.
        kl: nats a token from the original, where rounding errors are small enough to add up.
        perplexity: of the original on the probe's texts, and times ``exp(kl)``.
    """

    bytes: int
    bits_per_weight: float
    kl: float
    perplexity: float


@dataclass(frozen=True, eq=False)
class Plan:
    """Codebooks of all matrices.

    Attributes:
        codebooks: spec by layer.
        forecast: of the plan.
        uniform: best plan of one codebook for all within the same budget, with its forecast.
        mixture: forecast of the mixture of two codebooks that fills the budget without looking at matrices, or None.
        exact: whether the knapsack was solved exactly.
    """

    codebooks: dict[str, str]
    forecast: Forecast
    uniform: tuple[str, Forecast]
    mixture: Forecast | None
    exact: bool


class Planner:
    """Chooses codebooks.

    Args:
        findings: sensitivities.
        codebooks: specs to choose from.

    Raises:
        VqError: for an unknown codebook, or one without a figure for its distortion.
    """

    def __init__(self, findings: Findings, codebooks: Sequence[str] | None = None) -> None:
        self.findings = findings
        self.codebooks = list(codebooks or default_codebooks())
        self.distortions: dict[str, float] = {}
        for spec in self.codebooks:
            try:
                value = build(spec).distortion
            except ValueError as error:
                raise VqError(f"codebook: {error}") from error
            if value is None:
                raise VqError(
                    f"codebook {spec}: its distortion is not known; fit and measure it first"
                )
            self.distortions[spec] = float(value)
        self.weights = sum(math.prod(layer.shape) for layer in findings.layers)

    def options(self) -> list[list[Option]]:
        """Every codebook for every matrix."""
        return [
            [
                Option(spec, stored_bytes(spec, *layer.shape), layer.slope * self.distortions[spec])
                for spec in self.codebooks
            ]
            for layer in self.findings.layers
        ]

    def forecast(self, codebooks: Mapping[str, str]) -> Forecast:
        """Forecast of any choice."""
        size, kl = 0, 0.0
        for layer in self.findings.layers:
            spec = codebooks[layer.layer]
            size += stored_bytes(spec, *layer.shape)
            kl += layer.slope * self.distortions[spec]
        perplexity = math.exp(self.findings.nll + kl)
        return Forecast(size, round(8 * size / self.weights, 6), kl, perplexity)

    def uniform(self, spec: str) -> dict[str, str]:
        """One codebook for all."""
        return dict.fromkeys((layer.layer for layer in self.findings.layers), spec)

    def plan(self, budget: int) -> Plan:
        """The best choice within a budget of bytes.

        The uniform choices are among those that the knapsack looks through, so the forecast is never worse than theirs.

        Raises:
            VqError: if nothing fits; names the smallest possible budget.
        """
        try:
            choice: Choice = choose(self.options(), budget)
        except VqError as error:
            low = min(self.codebooks, key=lambda s: self.forecast(self.uniform(s)).bytes)
            bits = self.forecast(self.uniform(low)).bits_per_weight
            raise VqError(
                f"--budget: {8 * budget / self.weights:.3f} bits per weight; {error} ({bits:.3f} bits per weight)"
            ) from error
        picked = {
            layer.layer: self.codebooks[i]
            for layer, i in zip(self.findings.layers, choice.picks, strict=True)
        }
        sized = {spec: self.forecast(self.uniform(spec)) for spec in self.codebooks}
        fitting = {spec: f for spec, f in sized.items() if f.bytes <= budget}
        best = min(fitting, key=lambda spec: fitting[spec].kl) if fitting else self.codebooks[0]
        plan = self.forecast(picked)
        assert not fitting or plan.kl <= sized[best].kl * (1 + 1e-9)
        return Plan(picked, plan, (best, sized[best]), self._mixture(budget), choice.exact)

    def mixture(self, budget: int) -> dict[str, str] | None:
        """The uniform choice for a budget between two codebooks: both, spread evenly over the model's bytes."""
        sized = {spec: self.forecast(self.uniform(spec)).bytes for spec in self.codebooks}
        below = [s for s in self.codebooks if sized[s] <= budget]
        above = [s for s in self.codebooks if sized[s] > budget]
        if not below or not above:
            return None
        low, high = max(below, key=lambda s: sized[s]), min(above, key=lambda s: sized[s])
        chosen = self.uniform(low)
        spent, share = sized[low], (budget - sized[low]) / (sized[high] - sized[low])
        due = 0.0
        for layer in self.findings.layers:
            more = stored_bytes(high, *layer.shape) - stored_bytes(low, *layer.shape)
            due += share * more
            if due >= more / 2 and spent + more <= budget:
                chosen[layer.layer] = high
                spent += more
                due -= more
        return chosen

    def _mixture(self, budget: int) -> Forecast | None:
        chosen = self.mixture(budget)
        return None if chosen is None else self.forecast(chosen)


def recipe(plan: Plan, base: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that compresses by a plan: the codebook that most matrices share, and the others by name.

    Args:
        plan: see Plan.
        base: the other keys of the recipe.
    """
    counts: dict[str, int] = {}
    for spec in plan.codebooks.values():
        counts[spec] = counts.get(spec, 0) + 1
    common = max(counts, key=lambda spec: (counts[spec], spec))
    layers = {name: spec for name, spec in plan.codebooks.items() if spec != common}
    return {**base, "codebook": common, "layers": layers}
