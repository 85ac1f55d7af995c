"""Scales of groups of columns: the search, the refit, feedback and polish in original units, by slower formulas."""

import math

import pytest
import torch

from vq.codebooks import build
from vq.compressors.rounding.feedback import block_ldl, damp, feedback_rounding
from vq.compressors.rounding.options import LowRankOptions, OutlierOptions
from vq.compressors.rounding.packing import pack
from vq.compressors.rounding.polish import polish
from vq.compressors.rounding.round import RoundingOptions, restore, round_matrices
from vq.compressors.rounding.scales import (
    FACTORS,
    GroupScales,
    first_scales,
    refit_groups,
    search_scales,
    spread_scales,
)

LLOYD_MAX = {2: 0.11748, 3: 0.03454, 4: 0.009497}  # J. Max 1960, mean squared error on N(0, 1)


def data(rows=24, width=80, seed=0):
    """A matrix whose columns have very different magnitudes, and a Hessian with correlations."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator)
    weight[:, :32] *= 0.02
    x = torch.randn(3 * width, width, generator=generator)
    x = x @ torch.randn(width, width, generator=generator) / math.sqrt(width)
    return weight, x.t() @ x / len(x)


def loss(error, metric):
    error, metric = error.double(), metric.double()
    return ((error @ metric) * error).sum(1)


def test_first_scales_are_those_of_the_pieces():
    weight, _ = data()
    weight[3, 32:64] = 0
    aside = torch.zeros_like(weight).bool()
    aside[0, :5] = True
    found = first_scales(weight, aside, 32)
    assert found.shape == (24, 3) and found[3, 1] == 1
    assert found[0, 0] == pytest.approx(float(weight[0, 5:32].square().mean().sqrt()), rel=1e-6)
    assert found[7, 2] == pytest.approx(float(weight[7, 64:].square().mean().sqrt()), rel=1e-6)
    assert torch.equal(first_scales(weight, None, 0), weight.square().mean(1).sqrt())


def test_the_search_finds_the_best_factor():
    weight, metric = data(6)
    levels = build("scalar(bits=2)").decode(torch.arange(4)).flatten()
    importance = metric.diagonal()

    def nearest(x):
        return levels[(x[..., None] - levels).abs().argmin(-1)]

    start = GroupScales(first_scales(weight, None, 32), 32)
    found = search_scales(weight, None, start, importance, nearest)
    for r in range(6):
        for g, columns in enumerate((slice(0, 32), slice(32, 64), slice(64, 80))):
            w, costs = weight[r, columns], []
            for factor in FACTORS:
                s = start.scales[r, g] * factor
                error = w - nearest(w / s) * s
                costs.append(float((error.square() * importance[columns]).sum()))
            best = FACTORS[costs.index(min(costs))]
            assert found[r, g] == pytest.approx(float(start.scales[r, g]) * best, rel=1e-6)


def test_the_refit_is_joint_least_squares():
    weight, metric = data()
    values = weight.sign() * (1 + torch.rand(24, 80, generator=torch.Generator().manual_seed(1)))
    start = GroupScales(first_scales(weight, None, 32), 32)
    found = refit_groups(weight, values, metric, start)
    assert found.dtype == torch.float16 and found.shape == (24, 3)
    root = torch.linalg.cholesky(metric.double() + 1e-9 * torch.eye(80))
    for r in range(24):
        parts = torch.zeros(3, 80, dtype=torch.float64)
        for g in range(3):
            parts[g, 32 * g : 32 * g + 32] = values[r, 32 * g : 32 * g + 32]
        design, wanted = (parts @ root).t(), weight[r].double() @ root
        best = torch.linalg.lstsq(design, wanted[:, None]).solution[:, 0]
        if bool((best > 0).all()):
            torch.testing.assert_close(found[r].double(), best, rtol=3e-3, atol=1e-5)
    before, after = (
        loss(weight - values * spread_scales(s, 32, 80), metric) for s in (start.scales, found)
    )
    assert bool((after <= before * (1 + 1e-3)).all()) and float(after.sum() / before.sum()) < 0.9


def test_the_refit_keeps_what_it_cannot_find():
    weight, metric = data(4)
    values = torch.zeros(4, 80)  # nothing to scale
    start = GroupScales(torch.full((4, 3), 0.5), 32)
    assert torch.equal(refit_groups(weight, values, metric, start), start.scales.half())
    flipped = refit_groups(weight, -weight, torch.eye(80), start)  # the best scales are negative
    assert torch.equal(flipped, start.scales.half())


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_groups_of_other_magnitudes_gain_what_the_formula_says(bits):
    """One scale for halves of deviation 1 and 1/16, against the optimum of each."""
    generator, small = torch.Generator().manual_seed(0), 1 / 16
    weight = torch.randn(64, 1024, generator=generator)
    weight.reshape(64, 8, 128)[:, ::2] *= small
    book, errors = build(f"scalar(bits={bits})"), {}
    for group in (0, 128):
        options = RoundingOptions("nearest", "none", group=group)
        matrix = round_matrices({"w": weight}, None, book, options)["w"]
        dense = restore(matrix, book, (64, 1024))
        errors[group] = float((weight - dense).square().sum() / weight.square().sum())
        assert errors[group] == pytest.approx(matrix.proxy_error, rel=1e-4)
    levels = book.decode(torch.arange(2**bits)).flatten().double()
    z = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    rms, tried = math.sqrt((1 + small**2) / 2), []
    for factor in FACTORS:
        scale, cross, square = factor * rms, 0.0, 0.0
        for sigma in (1.0, small):
            edges = (levels[1:] + levels[:-1]) / 2
            q = levels[torch.bucketize(sigma * z / scale, edges)]
            cross += float((density * sigma * z * q).sum()) / 2
            square += float((density * q.square()).sum()) / 2
        nearest = rms**2 - 2 * scale * cross + scale**2 * square
        tried.append((nearest, 1 - cross**2 / square / rms**2))
    expected = min(tried)[1]  # the best factor of those, and after the refit of the row scale
    assert errors[0] == pytest.approx(expected, rel=0.02)
    assert (
        0.8 < errors[128] / LLOYD_MAX[bits] < 1.005
    )  # 128 weights can be served better than N(0, 1)
    assert errors[0] / errors[128] > 0.99 * expected / LLOYD_MAX[bits] > 1.5


def test_feedback_is_in_original_units():
    weight, metric = data(5)
    book = build("scalar(bits=3)")
    levels = book.decode(torch.arange(8)).flatten()
    scales = GroupScales(first_scales(weight, None, 32), 32)
    feedback, _ = block_ldl(metric, 1, 0.01)
    codes, values = feedback_rounding(weight, feedback, book, scales=scales)
    error = torch.zeros_like(weight)
    for j in range(79, -1, -1):
        for r in range(5):
            wanted = weight[r, j] + error[r, j + 1 :] @ feedback[j + 1 :, j]
            s = scales.scales[r, j // 32]
            code = int((wanted / s - levels).abs().argmin())
            assert code == int(codes[r, j])
            assert values[r, j] == levels[code]
            error[r, j] = weight[r, j] - levels[code] * s


def test_polish_ends_where_no_other_code_is_better():
    weight, metric = data(3, 64)
    damped = damp(metric, 0.01)[0]
    book = build("scalar(bits=2)")
    levels = book.decode(torch.arange(4)).flatten()
    scales = GroupScales(first_scales(weight, None, 32), 32)
    spread = scales.spread(64)
    codes = book.encode((weight / spread)[..., None])
    values = book.decode(codes)[..., 0]
    before = loss(weight - values * spread, damped)
    codes, values, changed = polish(weight, codes, values, damped, book, sweeps=50, scales=scales)
    after = loss(weight - values * spread, damped)
    assert changed and bool((after < before).all())
    for r in range(3):
        for j in range(64):
            for level in levels:
                other = values[r].clone()
                other[j] = level
                cost = loss((weight[r] - other * spread[r])[None], damped)
                assert float(cost) >= float(after[r]) * (1 - 1e-5)


@pytest.mark.parametrize("spec", ["scalar(bits=4)", "kmeans(dim=4, entries=16)", "e8p"])
@pytest.mark.parametrize("rotation", ["none", "input", "both"])
def test_a_packed_matrix_is_the_rounded_one(spec, rotation):
    weight, metric = data(40, 100)
    book = build(spec)
    if not book.fitted:
        book.fit(torch.randn(2000, book.dim, generator=torch.Generator().manual_seed(1)))
    beside = {"outliers": OutlierOptions(0.01), "low_rank": LowRankOptions(2), "polish": 1}
    for more in ({}, {"method": "nearest"}, beside):
        options = RoundingOptions(rotation=rotation, group=64, **more)
        found = round_matrices({"a": weight, "b": weight[:9] * 3}, metric, book, options, seed=2)
        for name, own in (("a", weight), ("b", weight[:9] * 3)):
            layer, dense = pack(found[name], book, 100), restore(found[name], book, own.shape)
            assert layer.scales.shape == (len(own), 2)
            torch.testing.assert_close(layer.dequantize(), dense, rtol=1e-4, atol=1e-5)
            error = float(loss(own - dense, metric).sum() / loss(own, metric).sum())
            assert error == pytest.approx(found[name].proxy_error, rel=1e-3) and error < 0.5


def test_groups_beat_one_scale_without_a_rotation():
    weight, metric = data(64, 160)
    book, errors = build("scalar(bits=3)"), {}
    for method in ("nearest", "ldlq"):
        for group in (0, 32):
            options = RoundingOptions(method, "none", group=group)
            matrix = round_matrices({"w": weight}, metric, book, options)["w"]
            errors[method, group] = matrix.proxy_error
    assert errors["nearest", 32] < 0.8 * errors["nearest", 0]
    assert errors["ldlq", 32] < 0.9 * errors["ldlq", 0]
    assert errors["ldlq", 32] < 0.9 * errors["nearest", 32]


@pytest.mark.parametrize(
    ("spec", "message"),
    [("trellis(bits=2, memory=8, code=hash)", "layout 2"), ("pvq(dim=16, pulses=13)", "layout 1"),
     ("kmeans(dim=3, entries=8)", "multiple of 96 columns")],
)  # fmt: skip
def test_codebooks_that_cannot_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        round_matrices({"w": torch.randn(64, 96)}, None, build(spec), RoundingOptions(group=32))
