import itertools
import math

import numpy as np
import pytest

from vq.compressors.planning.knapsack import Option, choose
from vq.errors import VqError


def random_items(rng, items, options, step=1):
    sizes = rng.integers(1, 30, (items, options)) * step + rng.integers(0, 5, (items, 1))
    losses = rng.random((items, options))
    return [
        [Option(f"{i}{j}", int(sizes[i, j]), float(losses[i, j])) for j in range(options)]
        for i in range(items)
    ]


def brute_force(items, budget):
    losses = [
        math.fsum(o.loss for o in picked)
        for picked in itertools.product(*items)
        if sum(o.size for o in picked) <= budget
    ]
    return min(losses, default=None)


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_best_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    items = random_items(rng, items=5, options=4, step=int(rng.integers(1, 9)))
    low = sum(min(o.size for o in options) for options in items)
    high = sum(max(o.size for o in options) for options in items)
    for budget in rng.integers(low, high + 20, 8).tolist():
        choice = choose(items, budget)
        picked = [options[i] for options, i in zip(items, choice.picks, strict=True)]
        assert choice.exact and sum(o.size for o in picked) == choice.size <= budget
        assert choice.loss == pytest.approx(brute_force(items, budget), abs=1e-12)


def test_sizes_too_many_to_tell_apart_are_rounded_up(monkeypatch):
    items = random_items(np.random.default_rng(0), items=6, options=3, step=7)
    items[0][0] = Option("odd", items[0][0].size + 1, items[0][0].loss)
    budget = sum(min(o.size for o in options) for options in items) + 300
    best = choose(items, budget)
    monkeypatch.setattr("vq.compressors.planning.knapsack._MAX_UNITS", 60)
    coarse = choose(items, budget)
    assert best.exact and not coarse.exact
    assert coarse.size <= budget and best.loss <= coarse.loss <= best.loss + 0.5


def test_a_budget_that_nothing_fits_names_the_smallest():
    items = [[Option("a", 10, 1.0), Option("b", 20, 0.5)], [Option("a", 7, 1.0)]]
    with pytest.raises(VqError, match="16 bytes: the smallest possible takes 17 bytes"):
        choose(items, 16)
    assert choose(items, 17).picks == (0, 0)
    assert choose(items, 10**9).picks == (1, 0)


def test_an_item_without_options():
    with pytest.raises(VqError, match="at least one codebook"):
        choose([[]], 5)
