"""Trellises whose values stand in a table: in float, and in integers."""

import pytest
import torch
from test_linear import ISAS, error, inputs, layer

from vq.codebooks.trellis import Trellis
from vq.kernels import linear as ops
from vq.kernels.dispatch import native

RATES_OF_TABLES = [(bits, 1) for bits in range(1, 9)] + [(bits / 2, 2) for bits in range(1, 9)]


@pytest.mark.parametrize("bits,symbols", RATES_OF_TABLES)
@pytest.mark.parametrize("memory", [10, 16])
def test_every_table_of_a_trellis_is_exact_in_float(isa, bits, symbols, memory):
    packed = layer(130, 71, bits, memory, kind="table", symbols=symbols)
    for rows in (1, 3, ops.VALUE_ROWS, ops.VALUE_ROWS + 1):
        x = inputs(rows, 71)
        assert (
            error(ops.packed_linear(x, *packed.args, "float"), x.double() @ packed.dense.T) < 1e-6
        )


@pytest.mark.parametrize("bits,symbols", RATES_OF_TABLES)
@pytest.mark.parametrize("memory", [9, 12, 16])
def test_every_table_of_a_trellis_in_integers(isa, bits, symbols, memory):
    packed = layer(130, 71, bits, memory, kind="table", symbols=symbols)
    for rows in (1, 3, 40):
        x = inputs(rows, 71)
        y = ops.packed_linear(x, *packed.args, "int15")
        assert error(y, x.double() @ packed.dense.T) < 4e-4
        assert torch.equal(ops.packed_linear(x, *packed.args, "int8"), y)


CODES_OF_TABLES = ["lut", "hybrid", "mul1", "mad1", "inst3"]


@pytest.mark.parametrize("code", CODES_OF_TABLES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_of_trellises_in_integers(isa, code, bits):
    book = Trellis(bits=bits, code=code)
    packed = layer(192, 600, bits, 12, kind="table", symbols=book.symbols, table=book.table)
    for rows in (1, 9):
        x = inputs(rows, 600)
        y = ops.packed_linear(x, *packed.args, "int15")
        assert error(y, x.double() @ packed.dense.T) < 3e-4
    told = ops.explain(packed.header, packed.weight, packed.table, "int15")
    assert ("byte sums" in told) == (code in ("mul1", "mad1"))


def test_a_table_that_changes_is_seen(isa):
    packed = layer(70, 36, kind="table", symbols=1)
    x, table = inputs(2, 36), packed.args[-1]
    before = ops.packed_linear(x, *packed.args, "int15")
    table.mul_(-2)
    torch.testing.assert_close(ops.packed_linear(x, *packed.args, "int15"), -2 * before)


def test_a_table_that_is_not_finite_stays_visible(isa):
    packed = layer(64, 64, kind="table", memory=8, symbols=1)
    packed.args[-1][3] = float("nan")
    assert bool(ops.packed_linear(inputs(1, 64), *packed.args, "int15").isnan().any())


def test_a_token_of_a_table_is_the_same_among_others(isa):
    packed, x = layer(70, 300, kind="table", symbols=1), inputs(40, 300)
    x[3] *= 100
    together = ops.packed_linear(x, *packed.args, "int15")
    for i in (0, 3, 39):
        assert torch.equal(ops.packed_linear(x[i], *packed.args, "int15"), together[i])


@pytest.mark.parametrize("mode", ["float", "int8", "int15"])
def test_tables_of_a_trellis_give_the_same_bits_with_two_threads(isa, two_threads, mode):
    packed, x = layer(320, 300, kind="table"), inputs(5, 300)
    both = ops.packed_linear(x, *packed.args, mode)
    torch.set_num_threads(1)
    assert torch.equal(ops.packed_linear(x, *packed.args, mode), both)


@pytest.mark.parametrize(
    "code,bits", [("lut", 2), ("lut", 3), ("hybrid", 2), ("mul1", 2), ("mad1", 4)]
)
def test_instruction_sets_give_the_same_bits_for_tables(code, bits):
    module = native()
    if module is None:
        pytest.skip("no compiled kernels")
    book, x = Trellis(bits=bits, code=code), inputs(9, 300)
    packed = layer(130, 300, bits, kind="table", symbols=book.symbols, table=book.table)
    before, results = module.isa(), []
    try:
        for name in ISAS[: ISAS.index(module.best_isa()) + 1]:
            module.set_isa(name)
            results += [ops.packed_linear(rows, *packed.args, "int15") for rows in (x, x[:8])]
    finally:
        module.set_isa(before)
    assert all(torch.equal(results[0][:8], other[:8]) for other in results)


def test_explain_tells_tables_of_a_trellis_from_levels(isa):
    for symbols in (1, 2):
        packed = layer(70, 36, kind="table", symbols=symbols, memory=11)
        cases = (("float", 1), ("float", 33), ("int8", 33), ("int15", 513))
        told = [ops.explain(packed.header, packed.weight, packed.table, *case) for case in cases]
        steps = "a step" if symbols == 2 else "two steps at once"
        where = "table of 2^11 states"
        assert told[0] == f"{isa} float: {where} in float32, 1 row(s)"
        assert told[1] == f"{isa} decode by panels, float32 matmul: more than 32 rows"
        whole = f"values of {steps} as 14-bit integers ({where}), 15-bit activations"
        assert told[2] == f"{isa} int8: {whole}, 33 row(s)"
        assert told[3] == f"{isa} decode by panels, float32 matmul: more than 512 rows"
