"""Second codes of columns: which columns, which codes, what they bring, and what is refused."""

import numpy as np
import pytest
import torch

from vq.codebooks import build
from vq.compressors.options import CompressOptions
from vq.compressors.rounding.columns import choose_columns, fit_columns
from vq.compressors.rounding.feedback import block_ldl, feedback_rounding
from vq.compressors.rounding.options import ColumnOptions, OutlierOptions
from vq.compressors.rounding.packing import pack
from vq.compressors.rounding.round import RoundingOptions, restore, round_matrices
from vq.errors import VqError

ROWS, WIDTH = 30, 24


def inputs(count, seed):
    """Inputs of which two stand out, and all depend on each other."""
    mix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    mix[:, [4, 19]] *= 8
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) @ mix


@pytest.fixture(scope="module")
def data():
    weight = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    x = inputs(500, 1)
    return weight, x.t() @ x / len(x)


def loss(error, metric, mass):
    return float(torch.einsum("r,ri,ij,rj->", mass, error, metric, error))


def fields(packed, bits, count):
    """The codes, by numbers of any length instead of bits of bytes."""
    number = int.from_bytes(packed.numpy().tobytes(), "little")
    return [number >> (bits * i) & (2**bits - 1) for i in range(count)]


def test_the_columns_with_most_energy_are_chosen(data):
    metric = data[1]
    assert choose_columns(metric, 2).tolist() == [4, 19]
    order = sorted(range(WIDTH), key=lambda i: -float(metric[i, i]))
    assert choose_columns(metric, 7).tolist() == sorted(order[:7])


@pytest.mark.parametrize("dim", [1, 4])
def test_codes_are_those_of_two_steps_by_hand(data, dim):
    """Column 19 is rounded to what is best for it, column 4 to what is best given that."""
    both = torch.zeros(WIDTH)
    both[[4, 19]] = 3 * float(data[1].diagonal().max()) ** 0.5
    given, entries = data[1] + both[:, None] * both, 4  # the two depend on each other
    metric = given.double()
    error = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(5))
    mass = torch.rand(ROWS, generator=torch.Generator().manual_seed(6)) + 0.5
    index, options = torch.tensor([4, 19]), ColumnOptions(0.1, dim, entries)
    found = fit_columns(error, given, index, options, mass, seed=0)
    own = metric[index][:, index].numpy()
    best = np.linalg.solve(own, (error.double() @ metric)[:, index].numpy().T).T
    weights = mass.double().numpy() / float(mass.sum())
    scales = np.sqrt((best**2 * weights[:, None]).sum(0)).astype(np.float16).astype(float)
    table, tall = found.table.double().numpy(), -(-ROWS // dim)

    def rounded(column):
        padded = np.zeros(tall * dim)
        padded[:ROWS] = column
        w = np.zeros(tall * dim)
        w[:ROWS] = weights
        vectors, w = padded.reshape(tall, 1, dim), w.reshape(tall, 1, dim)
        codes = ((vectors - table) ** 2 * w).sum(-1).argmin(-1)
        return codes, table[codes].reshape(-1)[:ROWS]

    last, second = rounded(best[:, 1] / scales[1])
    left = best[:, 1] - second * scales[1]
    first, _ = rounded((best[:, 0] + left * own[1, 0] / own[0, 0]) / scales[0])
    got = torch.tensor(fields(found.codes, 2, 2 * tall)).reshape(2, tall).numpy()
    assert (got[1] == last).all()
    assert (got[0] == first).mean() >= 0.9  # float32 may decide a draw otherwise
    alone, _ = rounded(best[:, 0] / scales[0])
    assert dim > 1 or ((first != alone).any() and (got[0] == first)[first != alone].all())
    values = found.values(ROWS)
    for column, codes in enumerate(got):
        wanted = table[codes].reshape(-1)[:ROWS] * float(found.scales[column])
        np.testing.assert_allclose(values[:, column], wanted, rtol=1e-6)


def test_the_loss_is_the_best_one_and_the_distance_from_it(data):
    metric, mass = data[1].double(), torch.linspace(0.5, 2, ROWS).double()
    error = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(5))
    index = torch.tensor([4, 9, 19])
    options = ColumnOptions(0.1, 1, 16)
    found = fit_columns(error, data[1], index, options, mass.float(), seed=0)
    own = metric[index][:, index]
    best = torch.zeros(ROWS, WIDTH).double()
    best[:, index] = torch.linalg.solve(own, (error.double() @ metric)[:, index].t()).t()
    dense = found.dense(ROWS, WIDTH).double()
    assert set(dense.abs().sum(0).nonzero()[:, 0].tolist()) == {4, 9, 19}
    least = loss(error - best, metric, mass)
    total = loss(error - dense, metric, mass)
    assert total == pytest.approx(least + loss(best - dense, metric, mass), rel=1e-4)
    assert total - least < 0.05 * (loss(error.double(), metric, mass) - least)  # 4 bits: 0.01
    for factor in (0.97, 1.03):  # scales are the best for these codes
        for column in range(3):
            other = dense.clone()
            other[:, index[column]] *= factor
            assert loss(error - other, metric, mass) > total


def test_worse_codes_do_not_replace_better_ones(data):
    error = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(5))
    index, mass = torch.tensor([4, 19]), torch.ones(ROWS)
    good = fit_columns(error, data[1], index, ColumnOptions(0.1, 1, 32), mass, 0)
    assert fit_columns(error, data[1], index, ColumnOptions(0.1, 1, 2), mass, 0, good) is good
    better = fit_columns(error * -1, data[1], index, ColumnOptions(0.1, 1, 2), mass, 0, good)
    assert better is not good


@pytest.mark.parametrize("method", ["ldlq", "nearest"])
@pytest.mark.parametrize("spec", ["scalar(bits=2)", "e8p()", "trellis(bits=2, memory=8, code=lut)"])
def test_outputs_come_nearer_on_inputs_that_were_not_seen(data, spec, method):
    weight, metric = data
    book, unseen = build(spec), inputs(400, 2)
    results = {}
    for name, columns in (("plain", None), ("columns", ColumnOptions(0.08))):
        options = RoundingOptions(method, "none", columns=columns)
        matrix = round_matrices({"w": weight}, metric, book, options)["w"]
        error = weight - restore(matrix, book, (ROWS, WIDTH))
        proxy = loss(error, metric, torch.ones(ROWS)) / loss(weight, metric, torch.ones(ROWS))
        assert matrix.proxy_error == pytest.approx(proxy, rel=1e-3)
        layer = pack(matrix, book, WIDTH)
        results[name] = (unseen @ error.t()).square().mean(), layer.stored_bytes
    assert results["columns"][0] < 0.7 * results["plain"][0]
    # index 2 x 2, scales 2 x 2, table 16 x 2, codes 2 x 30 of 4 bits
    assert results["columns"][1] - results["plain"][1] == 4 + 4 + 32 + 30


def test_polish_goes_on_from_the_second_codes(data):
    book = build("scalar(bits=2)")
    errors = []
    for polish in (0, 3):
        options = RoundingOptions("ldlq", "none", polish=polish, columns=ColumnOptions(0.08))
        errors.append(round_matrices({"w": data[0]}, data[1], book, options)["w"].proxy_error)
    assert errors[1] < errors[0]


def test_matrices_of_one_input_have_the_same_columns(data):
    weights = {"a": data[0], "b": data[0][:20] * 2}
    options = RoundingOptions("ldlq", "none", columns=ColumnOptions(0.08))
    found = round_matrices(weights, data[1], build("scalar(bits=2)"), options)
    again = round_matrices(weights, data[1], build("scalar(bits=2)"), options)
    assert found["a"].columns.index.tolist() == found["b"].columns.index.tolist() == [4, 19]
    for name, matrix in found.items():
        assert torch.equal(matrix.columns.codes, again[name].columns.codes)


def test_what_cannot_be_is_refused(data):
    columns = ColumnOptions()
    with pytest.raises(ValueError, match="expected rotation none, got input"):
        RoundingOptions(columns=columns)
    with pytest.raises(ValueError, match="columns: not together with outliers"):
        RoundingOptions(rotation="none", columns=columns, outliers=OutlierOptions())
    for values, message in (
        ({"share": 0}, "share is a number above 0"),
        ({"share": 0.7}, "up to 0.5, got 0.7"),
        ({"dim": 0}, "dim is a whole number of at least 1"),
        ({"entries": 12}, "entries is a power of two of at most 65536, got 12"),
        ({"entries": 1}, "entries is a whole number of at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            ColumnOptions(**values)
    options = RoundingOptions("ldlq", "none", columns=ColumnOptions(0.08, 4, 64))
    with pytest.raises(
        ValueError, match="2 columns of 32 weights are 16 vectors of 4, fewer than the 64"
    ):
        round_matrices({"w": data[0]}, data[1], build("scalar(bits=2)"), options)


def test_recipes_that_cannot_be_are_refused():
    with pytest.raises(VqError, match="expected rotation none, got input"):
        CompressOptions(columns={"share": 0.01})
    with pytest.raises(VqError, match="columns needs calibration"):
        CompressOptions(columns={"share": 0.01}, rotation="none", windows=0, rounding="nearest")
    with pytest.raises(VqError, match="columns: unknown key 'rate'"):
        CompressOptions(columns={"rate": 4}, rotation="none")
    with pytest.raises(VqError, match="a plan does not count columns"):
        CompressOptions(columns={"share": 0.01}, rotation="none", budget="2.5")


def test_columns_that_are_set_right_later_leave_no_error_to_others(data):
    """Column by column, as the definition has it: what was wanted of an exact column, it is."""
    metric = data[1].double()
    feedback, _ = block_ldl(data[1], 1, 0.01)
    book, exact = build("scalar(bits=2)"), torch.zeros(WIDTH, dtype=torch.bool)
    exact[[4, 19]] = True
    codes, values = feedback_rounding(data[0], feedback, book, exact=exact)
    damped = metric / metric.diagonal().mean() + 0.01 * torch.eye(WIDTH)
    factor = torch.linalg.cholesky(damped)
    unit, error = factor / factor.diagonal(), torch.zeros(ROWS, WIDTH).double()
    agreed = 0
    for j in reversed(range(WIDTH)):
        wanted = data[0][:, j].double() + error[:, j + 1 :] @ unit[j + 1 :, j]
        code = book.encode(wanted.float()[:, None])
        agreed += int((code == codes[:, j]).sum())
        error[:, j] = data[0][:, j].double() - (wanted if exact[j] else values[:, j].double())
    assert agreed >= 0.99 * ROWS * WIDTH  # float32 may decide a draw otherwise
    plain = feedback_rounding(data[0], feedback, book)[0]
    assert bool((plain[:, :4] != codes[:, :4]).any())
