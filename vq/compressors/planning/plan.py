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
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.planning.knapsack import Choice, Option, choose
from vq.compressors.planning.sensitivity import Findings
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


@lru_cache(maxsize=512)
def table_bytes(spec: str) -> int:
    """Bytes of a codebook's own tables, stored once a model."""
    return sum(t.numel() * t.element_size() for t in build(spec).state_dict().values())


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

    def options(self, codebooks: Sequence[str]) -> list[list[Option]]:
        """Some codebooks for every matrix."""
        return [
            [
                Option(spec, stored_bytes(spec, *layer.shape), layer.slope * self.distortions[spec])
                for spec in codebooks
            ]
            for layer in self.findings.layers
        ]

    def forecast(self, codebooks: Mapping[str, str]) -> Forecast:
        """Forecast of any choice."""
        size, kl = sum(table_bytes(spec) for spec in set(codebooks.values())), 0.0
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
        """The best choice within a budget of bytes, tables of codebooks included.

        For a set of codebooks the choice is exact. A set that costs more in tables than it brings is thinned out, one
        codebook at a time. If a uniform choice is forecast to be better, it is taken: a plan is never worse than that.

        Raises:
            VqError: if nothing fits; names the smallest possible budget.
        """
        sized = {spec: self.forecast(self.uniform(spec)) for spec in self.codebooks}
        low = min(sized, key=lambda spec: sized[spec].bytes)
        if sized[low].bytes > budget:
            raise VqError(
                f"--budget: no plan fits {budget} bytes ({8 * budget / self.weights:.3f} bits per weight); the "
                f"smallest possible takes {sized[low].bytes} bytes "
                f"({sized[low].bits_per_weight:.3f} bits per weight), {low}"
            )
        fitting = {spec: f for spec, f in sized.items() if f.bytes <= budget}
        best = min(fitting, key=lambda spec: fitting[spec].kl)
        picked, exact = self._thinned(budget)
        if picked is None or self.forecast(picked).kl > sized[best].kl:
            picked, exact = self.uniform(best), True
        mixed = self.mixture(budget)
        return Plan(
            picked,
            self.forecast(picked),
            (best, sized[best]),
            None if mixed is None else self.forecast(mixed),
            exact,
        )

    def _thinned(self, budget: int) -> tuple[dict[str, str] | None, bool]:
        """The best choice found, dropping codebooks as long as that helps; and whether each step was exact."""
        allowed, best, loss, exact = list(self.codebooks), None, math.inf, True
        candidates = [allowed]
        while candidates:
            found = []
            for names in candidates:
                choice = self._choose(names, budget)
                if choice is not None:
                    exact = exact and choice.exact
                    found.append((choice.loss, names, choice.picks))
            top = min(found, default=None)
            if top is not None and top[0] < loss:
                loss, allowed = top[0], top[1]
                best = self._named(allowed, top[2])
                allowed = [spec for spec in allowed if spec in set(best.values())]
            elif best is not None:
                break
            elif len(allowed) > 1:
                allowed = self._cheaper(allowed)
            else:
                break
            candidates = [[s for s in allowed if s != out] for out in allowed if len(allowed) > 1]
            if best is None:
                candidates = [allowed]
        return best, exact

    def _cheaper(self, names: Sequence[str]) -> list[str]:
        """A smaller set: without the codebook whose neighbours stand in for it best, the middle one."""
        return [spec for i, spec in enumerate(names) if i != len(names) // 2]

    def _choose(self, names: Sequence[str], budget: int) -> Choice | None:
        try:
            return choose(self.options(names), budget - sum(table_bytes(spec) for spec in names))
        except VqError:
            return None

    def _named(self, names: Sequence[str], picks: Sequence[int]) -> dict[str, str]:
        return {layer.layer: names[i] for layer, i in zip(self.findings.layers, picks, strict=True)}

    def mixture(self, budget: int) -> dict[str, str] | None:
        """The uniform choice for a budget between two codebooks: both, spread evenly over the model's bytes."""
        sized = {spec: self.forecast(self.uniform(spec)).bytes for spec in self.codebooks}
        below = [s for s in self.codebooks if sized[s] <= budget]
        above = [s for s in self.codebooks if sized[s] > budget]
        if not below or not above:
            return None
        low, high = max(below, key=lambda s: sized[s]), min(above, key=lambda s: sized[s])
        chosen = self.uniform(low)
        spent = sized[low] + table_bytes(high)
        share = (budget - spent) / (sized[high] - spent)
        due = 0.0
        for layer in self.findings.layers:
            more = stored_bytes(high, *layer.shape) - stored_bytes(low, *layer.shape)
            due += share * more
            if due >= more / 2 and spent + more <= budget:
                chosen[layer.layer] = high
                spent += more
                due -= more
        return chosen


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
