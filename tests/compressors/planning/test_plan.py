import math

import pytest

from vq.codebooks import build
from vq.compressors.options import CompressOptions
from vq.compressors.planning.plan import (
    Planner,
    default_codebooks,
    parse_budget,
    recipe,
    stored_bytes,
    table_bytes,
)
from vq.compressors.planning.sensitivity import Findings, Sensitivity
from vq.errors import VqError

SPECS = [f"trellis(bits={bits}, memory=12, code=hash)" for bits in (1, 2, 3, 4)]


def findings(slopes=(8.0, 0.1, 1.0, 0.5)):
    shapes = [(640, 640), (1280, 640), (640, 1280), (1920, 640)]
    return Findings(
        [Sensitivity(f"m.{i}", s, a, 1.0, 0.1) for i, (s, a) in enumerate(zip(shapes, slopes, strict=True))],
        nll=3.0,
    )  # fmt: skip


@pytest.fixture
def planner():
    return Planner(findings(), SPECS)


def test_default_codebooks_are_quarter_bits_apart():
    rates = [build(spec).rate for spec in default_codebooks()]
    assert rates == [1 + i / 4 for i in range(13)]


def test_bytes_are_those_of_a_stored_layer(planner):
    plan = planner.plan(10**7)
    assert plan.forecast.bytes == table_bytes(SPECS[-1]) + sum(
        stored_bytes(SPECS[-1], *layer.shape) for layer in planner.findings.layers
    )
    assert table_bytes(SPECS[0]) == sum(t.nbytes for t in build(SPECS[0]).state_dict().values())
    assert stored_bytes(SPECS[1], 64, 64) == 64 + 64 * 64 * 2 // 8 + 2 * 64 + 8


def test_a_plan_gives_bits_where_they_count(planner):
    budget = parse_budget("2.4", planner.weights)
    plan = planner.plan(budget)
    rate = {name: build(spec).rate for name, spec in plan.codebooks.items()}
    assert rate["m.0"] > rate["m.1"] and plan.forecast.bytes <= budget and plan.exact
    assert plan.forecast.kl < plan.mixture.kl and plan.forecast.kl < plan.uniform[1].kl
    assert (
        plan.uniform[0] == SPECS[0]
        or planner.forecast(planner.uniform(plan.uniform[0])).bytes <= budget
    )
    assert plan.forecast.perplexity == pytest.approx(math.exp(3.0 + plan.forecast.kl))


def test_equal_matrices_get_no_worse_than_uniform():
    equal = Planner(findings((1.0, 1.0, 1.0, 1.0)), SPECS)
    for bits in ("1.5", "2.3", "3.1"):
        budget = parse_budget(bits, equal.weights)
        plan = equal.plan(budget)
        assert plan.forecast.kl <= plan.uniform[1].kl and plan.forecast.bytes <= budget


def test_the_mixture_keeps_the_budget_and_uses_both(planner):
    budget = parse_budget("2.6", planner.weights)
    mixed = planner.mixture(budget)
    assert set(mixed.values()) == {SPECS[1], SPECS[2]}
    assert planner.forecast(mixed).bytes <= budget


def test_a_budget_that_no_plan_meets(planner):
    with pytest.raises(VqError, match=r"0\.500 bits per weight.*smallest possible.*1\.\d+ bits"):
        planner.plan(parse_budget("0.5", planner.weights))


@pytest.mark.parametrize(
    ("text", "value"), [("2", 250), ("2.5", 312), ("40MB", 40_000_000), ("1KiB", 1024), ("12b", 12)]
)
def test_budgets(text, value):
    assert parse_budget(text, 1000) == value


@pytest.mark.parametrize("text", ["", "two", "2 apples", "-1", "0", "99"])
def test_wrong_budgets(text):
    with pytest.raises(VqError, match="--budget"):
        parse_budget(text, 1000)


def test_unknown_codebooks():
    with pytest.raises(VqError, match="codebook"):
        Planner(findings(), ["trelis(bits=2)"])
    with pytest.raises(VqError, match="distortion is not known"):
        Planner(findings(), ["kmeans(dim=3, entries=17)"])


def test_the_recipe_compresses_by_the_plan(planner):
    plan = planner.plan(parse_budget("2.4", planner.weights))
    options = CompressOptions.from_dict(recipe(plan, CompressOptions().to_dict()))
    assert {name: options.codebook_of(name) for name in plan.codebooks} == plan.codebooks
