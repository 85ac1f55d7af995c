"""Outliers, low-rank parts, coordinate descent and own tables of one matrix, against slower formulas."""

import itertools
import math

import pytest
import torch

from vq.codebooks import build
from vq.compressors.rounding.feedback import block_ldl, damp, feedback_rounding, from_tiles
from vq.compressors.rounding.low_rank import fit_low_rank
from vq.compressors.rounding.options import LowRankOptions, OutlierOptions, TableOptions
from vq.compressors.rounding.outliers import (
    choose_outliers,
    fit_outliers,
    freedom,
    most_sensitive,
    sensitivity,
)
from vq.compressors.rounding.polish import polish
from vq.compressors.rounding.round import RoundingOptions, restore, round_matrices
from vq.compressors.rounding.tables import OwnTables, improve_tables, start_tables
from vq.kernels.sparse import sparse_dense, sparse_linear


def data(rows, n, seed=0, spiky=False):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, n, generator=generator)
    if spiky:
        spikes = torch.rand(rows, n, generator=generator) < 0.01
        weight = torch.where(spikes, 12 * weight, weight)
    mix = torch.randn(max(2, n // 3), n, generator=generator)
    x = torch.randn(4 * n, len(mix), generator=generator) @ mix
    x = x + 0.3 * torch.randn(4 * n, n, generator=generator)
    return weight, x.t() @ x / len(x)


def loss(error, metric):
    error, metric = error.double(), metric.double()
    return float(((error @ metric) * error).sum())


def whitened(metric, damping=0.01):
    return damp(metric, damping)[0]


# sparse products


def test_sparse_product_is_the_dense_one():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(30, 20, generator=generator)
    dense[torch.rand(30, 20, generator=generator) < 0.8] = 0
    dense[4] = 0  # a row without any
    counts = (dense != 0).sum(1).to(torch.uint16)
    columns = dense.nonzero()[:, 1].to(torch.uint16)
    values = dense[dense != 0]
    assert torch.equal(sparse_dense(counts, columns, values, 20), dense)
    for shape in ((20,), (1, 20), (3, 5, 20)):
        x = torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        y = sparse_linear(x, counts, columns, values)
        torch.testing.assert_close(y, x @ dense.double().T)
        y.square().sum().backward()
        wanted = 2 * (x.detach() @ dense.double().T) @ dense.double()
        torch.testing.assert_close(x.grad, wanted)


# outliers


def test_outlier_values_minimise_the_error_row_by_row():
    error, metric = data(7, 16)
    kept = torch.rand(7, 16, generator=torch.Generator().manual_seed(3)) < 0.3
    kept[2] = False
    kept[5] = True
    found = fit_outliers(error, metric, kept).dense(16)
    for row in range(7):
        index = kept[row].nonzero()[:, 0]
        wanted = torch.zeros(16)
        if len(index):
            gram = metric[index][:, index].double()
            wanted[index] = torch.linalg.solve(gram, (error[row] @ metric)[index].double()).float()
        torch.testing.assert_close(found[row], wanted, rtol=2e-3, atol=2e-3)
    exact = fit_outliers(error, torch.eye(16), kept).dense(16)
    torch.testing.assert_close(exact, torch.where(kept, error, 0.0), rtol=1e-3, atol=1e-3)


def test_freedom_is_the_least_cost_of_an_error():
    """``1 / [H⁻¹]_jj`` is the minimum of ``d H dᵀ`` over all d with ``d_j = 1``."""
    _, metric = data(1, 9)
    metric = whitened(metric)
    for j in range(9):
        rest = [k for k in range(9) if k != j]
        inner = torch.linalg.solve(metric[rest][:, rest].double(), metric[rest][:, j].double())
        least = float(metric[j, j]) - float(metric[j, rest].double() @ inner)
        assert float(freedom(metric)[0][j]) == pytest.approx(least, rel=1e-3)


def test_sensitivity_is_error_times_freedom():
    weight, metric = data(5, 8)
    metric = whitened(metric)
    book = build("scalar(bits=2)")
    rms = torch.ones(5)
    rounded = book(weight[..., None])[..., 0]
    wanted = (weight - rounded).square() / torch.linalg.inv(metric.double()).diagonal().float()
    kept = torch.zeros(5, 8, dtype=torch.bool)
    kept[2, 3] = True
    wanted[2, 3] = 0
    got = sensitivity(weight, freedom(metric)[0], book, rms, kept)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


def test_the_number_of_outliers_follows_from_the_shape():
    weight, metric = data(20, 30, spiky=True)
    book, freed = build("scalar(bits=2)"), freedom(whitened(metric))
    largest = choose_outliers(weight, freed, book, 0.02, "magnitude", rotated=False)
    assert int(largest.sum()) == 12
    assert float(weight.abs()[largest].min()) >= float(weight.abs()[~largest].max())
    for rotated in (False, True):
        chosen = choose_outliers(weight, freed, book, 0.02, "sensitivity", rotated)
        assert int(chosen.sum()) == 12
    assert int(most_sensitive(weight, 0.0001).sum()) == 0


@pytest.mark.parametrize("spec", ["scalar(bits=2)", "kmeans(dim=4, entries=256)", "e8p()"])
def test_outliers_lower_the_error_and_sensitivity_beats_magnitude(spec):
    """On a matrix whose large weights stand in columns that do not matter."""
    weight, metric = data(48, 96, spiky=True)
    weight[:, :8] *= 6
    metric[:, :8] *= 0.02
    metric[:8] *= 0.02
    book = build(spec)

    def error(**options):
        settings = RoundingOptions(rotation="none", damping=0.01, **options)
        return round_matrices({"w": weight}, metric, book, settings)["w"].proxy_error

    plain = error()
    large = error(outliers=OutlierOptions(0.02, "magnitude"))
    sensitive = error(outliers=OutlierOptions(0.02, "sensitivity"))
    assert sensitive < 0.7 * plain
    assert sensitive < (1.0 if book.dim == 1 else 1.1) * large


def test_without_a_hessian_outliers_are_exact():
    weight, _ = data(20, 32, spiky=True)
    options = RoundingOptions(method="nearest", rotation="none", outliers=OutlierOptions(0.03))
    book = build("scalar(bits=2)")
    matrix = round_matrices({"w": weight}, None, book, options)["w"]
    dense = restore(matrix, book, (20, 32))
    kept = matrix.outliers.dense(32) != 0
    assert int(kept.sum()) == 19
    torch.testing.assert_close(dense[kept], weight[kept], rtol=1e-3, atol=1e-3)


def test_feedback_passes_over_kept_weights():
    """A kept weight is what it should be: it hands on no error, whatever its code stands for."""
    weight, metric = data(6, 12)
    kept = torch.rand(6, 12, generator=torch.Generator().manual_seed(2)) < 0.3
    book = build("scalar(bits=2)")
    feedback, _ = block_ldl(metric, 1, 0.01)
    codes, values = feedback_rounding(weight, feedback, book, kept)
    error, reached = torch.zeros(6, 12), torch.zeros(6, 12)
    for j in range(11, -1, -1):
        wanted = weight[:, j] + error @ feedback[:, j]
        rounded = book(wanted[:, None])[:, 0]
        reached[:, j] = torch.where(kept[:, j], wanted, rounded)
        error[:, j] = weight[:, j] - reached[:, j]
    expected = book.decode(codes)[..., 0]
    assert torch.equal(values, expected)
    torch.testing.assert_close(values[~kept], reached[~kept], rtol=0, atol=0)


# low rank


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
def test_low_rank_part_is_the_best_of_its_rank(shape):
    """Eckart-Young in the basis where the Hessian is the identity."""
    error, metric = data(*shape)
    metric = whitened(metric)
    factor = torch.linalg.cholesky(metric.double())
    tail = torch.linalg.svdvals(error.double() @ factor)[3:]
    found = fit_low_rank(error, metric, 3)
    assert found.left.shape == (shape[0], 3) and found.right.shape == (3, shape[1])
    assert found.left.dtype == found.right.dtype == torch.bfloat16
    got = loss(error - found.dense(), metric)
    assert float(tail.square().sum()) <= got * (1 + 1e-6)
    assert got == pytest.approx(float(tail.square().sum()), rel=5e-3)


def test_low_rank_takes_up_what_the_codes_leave():
    weight, metric = data(40, 60)
    generator = torch.Generator().manual_seed(9)
    thin = torch.randn(40, 3, generator=generator), torch.randn(3, 60, generator=generator)
    weight = weight + 2 * thin[0] @ thin[1]
    book = build("scalar(bits=2)")

    def error(rank, rounds):
        part = LowRankOptions(rank, rounds) if rank else None
        return round_matrices({"w": weight}, metric, book, RoundingOptions(low_rank=part))[
            "w"
        ].proxy_error

    errors = [error(0, 1), error(2, 1), error(6, 1), error(6, 3)]
    assert errors[0] > errors[1] > errors[2] > errors[3]


# coordinate descent


def test_polish_ends_where_no_single_vector_can_be_better():
    weight, metric = data(4, 6)
    metric = whitened(metric)
    for spec, block in (("scalar(bits=2)", 1), ("kmeans(dim=2, entries=16)", 2)):
        book = fitted(spec)
        feedback, _ = block_ldl(metric, block, 0.01)
        codes, values = feedback_rounding(weight, feedback, book)
        codes, values, _ = polish(weight, codes, values, metric, book, sweeps=50)
        best = loss(weight - values, metric)
        for row, column in itertools.product(range(4), range(6 // block)):
            for code in range(book.entries):
                other = codes.clone()
                other[row, column] = code
                tried = from_tiles(book.decode(other), book.tile)
                assert loss(weight - tried, metric) >= best * (1 - 1e-5), (spec, row, column, code)


def test_polish_comes_close_to_the_best_of_all_codes():
    """All 2^6 codes of a row by brute force: never above LDLQ, and the optimum in most rows."""
    book, hits, never = build("binary()"), 0, True
    for seed in range(30):
        weight, metric = data(1, 6, seed)
        metric = whitened(metric)
        feedback, _ = block_ldl(metric, 1, 0.01)
        codes, values = feedback_rounding(weight, feedback, book)
        first = loss(weight - values, metric)
        _, polished, _ = polish(weight, codes, values, metric, book, sweeps=20)
        got = loss(weight - polished, metric)
        every = torch.tensor(list(itertools.product([0, 1], repeat=6)))
        best = min(loss(weight - book.decode(c)[None, :, 0], metric) for c in every)
        never &= got <= first * (1 + 1e-6)
        hits += got <= best * (1 + 1e-5)
    assert never and hits >= 20


FAMILIES = [
    "scalar(bits=3)",
    "kmeans(dim=4, entries=256)",
    "e8p()",
    "additive(stages=2, dim=4, entries=8)",
    "pvq(dim=8, pulses=7, gain_bits=2)",
    "residual(stages=2, of=kmeans(dim=4, entries=16))",
    "trellis(bits=2, memory=8, code=lut)",
]


def fitted(spec):
    book = build(spec)
    if not book.fitted:
        book.fit(torch.randn(4096, book.dim, generator=torch.Generator().manual_seed(1)))
    return book


@pytest.mark.parametrize("spec", FAMILIES)
def test_the_loss_never_rises(spec):
    book = fitted(spec)
    weight, metric = data(70, 48)
    rows = -(-70 // book.tile[0]) * book.tile[0]
    weight = torch.nn.functional.pad(weight, (0, 0, 0, rows - 70))
    metric = whitened(metric)
    feedback, _ = block_ldl(metric, book.tile[1], 0.01)
    codes, values = feedback_rounding(weight, feedback, book)
    scale = torch.linspace(0.3, 3, rows)
    losses = []
    for _ in range(4):
        losses.append(loss((weight - values) * scale.sqrt()[:, None], metric))
        codes, values, _ = polish(weight, codes, values, metric, book, scale)
        assert torch.equal(values, from_tiles(book.decode(codes), book.tile))
    assert all(b <= a * (1 + 1e-6) for a, b in itertools.pairwise(losses))
    assert losses[-1] < 0.99 * losses[0]


def test_polish_through_the_options_lowers_the_error():
    weight, metric = data(40, 60)
    for rotation, spec in (("none", "scalar(bits=2)"), ("both", "kmeans(dim=4, entries=256)")):
        book, errors = build(spec), []
        for sweeps in (0, 1, 4):
            options = RoundingOptions(rotation=rotation, polish=sweeps)
            matrix = round_matrices({"w": weight}, metric, book, options)["w"]
            dense = restore(matrix, book, (40, 60))
            assert matrix.proxy_error == pytest.approx(
                loss(weight - dense, metric) / loss(weight, metric), rel=1e-3
            )
            errors.append(matrix.proxy_error)
        assert errors[0] > errors[1] > errors[2]


# tables


def test_scalar_tables_are_the_best_of_each_row():
    """Weighted one-dimensional k-means with 2 levels against all splits of the sorted row."""
    x, _ = data(5, 12)
    weight = torch.linspace(0.2, 3, 12)
    own = start_tables(x, weight, fitted("kmeans(dim=1, entries=2)"), [(5, 5)], 0)
    codes = own.encode(x[..., None])
    assert own.tables.shape == (5, 1, 2, 1) and codes.shape == (5, 12)
    got = ((x - own.decode(codes)[..., 0]).square() * weight).sum(1)
    for row in range(5):
        order = x[row].argsort()
        best = math.inf
        for cut in range(1, 12):
            cost = 0.0
            for part in (order[:cut], order[cut:]):
                w, v = weight[part], x[row][part]
                cost += float((w * (v - (w * v).sum() / w.sum()).square()).sum())
            best = min(best, cost)
        assert float(got[row]) == pytest.approx(best, rel=2e-3)


@pytest.mark.parametrize("stages", [1, 2])
def test_tables_solve_the_normal_equations(stages):
    x, metric = data(12, 16)
    metric = whitened(metric)
    generator = torch.Generator().manual_seed(4)
    group = torch.tensor([0] * 7 + [1] * 5)
    own = OwnTables(torch.randn(2, stages, 4, 2, generator=generator), group)
    codes = torch.randint(4, (12, 8, stages), generator=generator).squeeze(-1)
    weight = torch.rand(12, generator=generator) + 0.5
    found = improve_tables(x, codes, metric, own, weight)

    def value(tables):
        error = x.double() - spread(tables)
        return (((error @ metric.double()) * error).sum(1) * weight.double()).sum()

    def spread(tables):
        each = codes[..., None] if stages == 1 else codes
        parts = [tables[group[:, None], s, each[..., s]] for s in range(stages)]
        return sum(parts).reshape(12, 16)

    size = own.tables.numel()
    zero = torch.zeros(own.tables.shape, dtype=torch.float64)
    columns = []
    for i in range(size):
        unit = zero.clone()
        unit.view(-1)[i] = 1
        columns.append(spread(unit).flatten())
    design = torch.stack(columns, 1)
    whiten = torch.linalg.cholesky(metric.double())
    rows = weight.double().sqrt()[:, None, None]
    left = torch.einsum("rcp,cd->rdp", design.reshape(12, 16, size), whiten) * rows
    right = (x.double() @ whiten)[..., None] * rows
    best = torch.linalg.lstsq(left.reshape(-1, size), right.reshape(-1, 1), driver="gelsd").solution
    least = float(value(best.reshape(own.tables.shape)))
    assert float(value(found.tables.double())) < float(value(own.tables.double()))
    assert float(value(found.tables.double())) == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        ("kmeans(dim=1, entries=4)", 1),
        ("kmeans(dim=1, entries=4)", 0),
        ("kmeans(dim=2, entries=16)", 25),
        ("additive(stages=2, dim=4, entries=8)", 0),
    ],
)
@pytest.mark.parametrize("rotation", ["none", "input"])
def test_tables_beat_the_shared_one(spec, rows, rotation):
    weight, metric = data(50, 64)
    weight = weight.sign() * weight.abs() ** 1.7 * (1 + torch.arange(50)[:, None] % 3)
    book = fitted(spec)
    shared, start, own = (
        round_matrices(
            {"a": weight[:20], "b": weight[20:]}, metric, book, RoundingOptions(rotation=rotation, **more)
        )
        for more in ({"polish": 2}, {"tables": TableOptions(rows, 0)}, {"tables": TableOptions(rows, 2)})
    )  # fmt: skip
    for name, part in (("a", weight[:20]), ("b", weight[20:])):
        dense = restore(own[name], book, tuple(part.shape))
        got = loss(part - dense, metric) / loss(part, metric)
        assert got == pytest.approx(own[name].proxy_error, rel=1e-3)
        assert own[name].tables.shape[0] == (-(-len(part) // min(rows, len(part))) if rows else 1)
    total = [sum(found[n].proxy_error for n in "ab") for found in (shared, start, own)]
    assert total[2] < 0.95 * total[1]
    if (
        rows or rotation == "input"
    ):  # one table of four numbers for rows unlike each other gains nothing
        assert total[2] < total[0]


def test_many_small_tables_are_searched_like_few():
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(80, 1, 8, 2, generator=generator)
    x = torch.randn(160, 5, 2, generator=generator)
    own = OwnTables(tables, torch.arange(160) // 2)
    distance = (x[:, :, None] - own.tables[own.group, 0][:, None]).square().sum(-1)
    assert torch.equal(own.encode(x).long(), distance.argmin(-1))
    _, metric = data(1, 2)
    factor = torch.linalg.cholesky(whitened(metric))
    turned = ((x[:, :, None] - own.tables[own.group, 0][:, None]) @ factor).square().sum(-1)
    assert torch.equal(own.encode_under(x, factor).long(), turned.argmin(-1))


def test_a_family_without_a_table_is_refused():
    weight, metric = data(8, 16)
    options = RoundingOptions(tables=TableOptions())
    with pytest.raises(ValueError, match=r"tables: scalar\(bits=2\) has no table .*use kmeans"):
        round_matrices({"w": weight}, metric, build("scalar(bits=2)"), options)
