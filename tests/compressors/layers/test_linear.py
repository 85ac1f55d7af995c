import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from vq.compressors.layers.linear import QuantizedLinear, header_for
from vq.kernels import linear as ops
from vq.kernels.decode import unpack_codes
from vq.kernels.formats import PANELS, ROWS, PackedHeader, assemble
from vq.kernels.hadamard import blocks_of
from vq.kernels.layouts import pack_payload


class Hash(nn.Module):
    """What a layer needs of a trellis codebook with a computed code."""

    step_bits, memory, symbols, code = 4, 12, 2, "hash"
    hash_constant, step, spec = 36547, 0.025, "trellis(bits=2, memory=12, code=hash)"

    def __init__(self):
        super().__init__()
        levels = torch.randint(-100, 100, (64,), generator=torch.Generator().manual_seed(0))
        self.register_buffer("levels", levels.to(torch.int8))


class Table(nn.Module):
    """A trellis with a trained table."""

    step_bits, memory, symbols, code, spec = 4, 8, 2, "table", "trellis(bits=2, code=table)"

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("table", torch.randn(256, 2, generator=generator))


class Vectors(nn.Module):
    """Vectors of three numbers in a table of 20."""

    code_bits, dim, entries, codes_shape, codes_per_vector, spec = 5, 3, 20, (), 1, "vectors"

    def __init__(self):
        super().__init__()
        self.register_buffer(
            "table", torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        )

    def decode(self, codes):
        return self.table[codes.long()]


class Stages(Vectors):
    """The sum of two entries."""

    codes_shape, codes_per_vector, spec = (2,), 2, "stages"

    def decode(self, codes):
        return self.table[codes.long()].sum(dim=-2)


BOOKS = [Hash, Table, Vectors, Stages]


def random_codes(book, out, width, seed=0):
    g = torch.Generator().manual_seed(seed)
    if hasattr(book, "step_bits"):
        tiles = -(-out // 64) * -(-width // 4)
        return torch.randint(0, 2**book.step_bits, (tiles, 128), generator=g).to(torch.uint8)
    shape = (out, -(-width // book.dim), *book.codes_shape)
    return torch.randint(0, book.entries, shape, generator=g)


def make(book=None, out=70, width=101, *, bias=True, rotate_out=True, mode="int15"):
    book = book or Hash()
    g = torch.Generator().manual_seed(5)
    return QuantizedLinear.from_codes(
        book,
        random_codes(book, out, width),
        torch.rand(out, generator=g) + 0.5,
        in_features=width,
        signs_in=torch.randint(0, 2, (width,), generator=g) * 2 - 1,
        signs_out=torch.randint(0, 2, (out,), generator=g) * 2 - 1 if rotate_out else None,
        bias=torch.randn(out, generator=g) if bias else None,
        mode=mode,
    )


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def error(y, exact):
    y = y.detach()
    return float((y.double() - exact.detach().double()).norm() / exact.detach().double().norm())


@pytest.mark.parametrize("kind", BOOKS)
@pytest.mark.parametrize("rotate_out", [True, False])
def test_forward_is_the_dense_layer(kind, rotate_out):
    layer = make(kind(), rotate_out=rotate_out)
    for rows in (1, 5, 40):
        x = inputs(rows, 2, 101)
        dense = nn.functional.linear(x, layer.dequantize(), layer.bias)
        for mode, bound in (("float", 2e-6), ("int15", 1e-3), ("int8", 2e-2)):
            layer.mode = mode
            assert error(layer(x), dense) < bound


def explicit(n):
    common = torch.arange(n)[:, None] & torch.arange(n)
    return (1 - 2 * (sum(common >> bit & 1 for bit in range(12)) % 2)).double() / n**0.5


def test_dequantize_undoes_the_rotations():
    layer = make(out=64, width=96)
    rotate_in = torch.block_diag(*[explicit(n) for n in blocks_of(96)])
    signs_in = (
        1 - 2 * torch.tensor([layer.signs_in[i // 8] >> (i % 8) & 1 for i in range(96)]).double()
    )
    signs_out = (
        1 - 2 * torch.tensor([layer.signs_out[i // 8] >> (i % 8) & 1 for i in range(64)]).double()
    )
    middle = layer.rotated_weight().double()
    expected = signs_out[:, None] * (explicit(64) @ middle @ rotate_in) * signs_in
    assert error(layer.dequantize(), expected) < 1e-6


def test_decoded_values_are_the_codebooks():
    book = Stages()
    codes = random_codes(book, 70, 101)
    layer = make(book)
    values = book.decode(codes).reshape(70, -1)[:, :101]
    expected = values * layer.scales.float()[:, None]
    assert torch.equal(layer.rotated_weight(), expected)


@pytest.mark.parametrize("kind", BOOKS)
def test_state_does_not_change_and_loads_on_another_layer(kind):
    layer = make(kind())
    before = copy.deepcopy(layer.state_dict())
    x = inputs(3, 101)
    y = layer(x)
    layer.dequantize()
    after = layer.state_dict()
    assert set(after) == {"weight", "scales", "signs_in", "signs_out", "bias"} == set(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    other = QuantizedLinear(101, 70, kind(), rotate_out=True, bias=True)
    other.load_state_dict(before)
    assert torch.equal(other(x), y)


def test_built_on_meta_then_loaded():
    layer = make()
    with torch.device("meta"):
        empty = QuantizedLinear(101, 70, layer.codebook, rotate_out=True, bias=True)
    assert empty.weight.is_meta and empty.weight.shape == layer.weight.shape
    assert empty(torch.empty(2, 101, device="meta")).shape == (2, 70)
    empty.load_state_dict(layer.state_dict(), assign=True)
    x = inputs(3, 101)
    assert torch.equal(empty(x), layer(x))


def test_plain_linear_refuses_the_weight():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(101, 70).load_state_dict(make(rotate_out=False).state_dict(), strict=False)


def test_copies_and_pickles():
    layer = make()
    x = inputs(3, 101)
    y = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), y)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), y)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), y)


def test_codebook_is_shared_and_not_registered():
    book = Hash()
    model = nn.Module()
    model.codebooks = nn.ModuleList([book])
    model.a, model.b = make(book), make(book)
    assert sum("levels" in name for name in model.state_dict()) == 1
    twin = copy.deepcopy(model)
    assert twin.a.codebook is twin.b.codebook is twin.codebooks[0]
    assert twin.a.codebook is not book


def test_damaged_and_foreign_weights_are_refused_on_first_use():
    layer, x = make(), inputs(1, 101)
    layer(x)
    layer.weight[100] ^= 1
    with pytest.raises(ValueError, match="corrupted"):
        layer(x)
    layer.weight[100] ^= 1
    layer(x)
    other = Hash()
    other.hash_constant = 51275
    foreign = QuantizedLinear(101, 70, other, rotate_out=True, bias=True)
    foreign.load_state_dict(layer.state_dict())
    with pytest.raises(ValueError, match="another format"):
        foreign(x)
    with pytest.raises(ValueError, match="magic"):
        QuantizedLinear(101, 70, Hash())(x)


def test_bits_per_weight_counts_every_byte():
    layer = make(out=128, width=256, rotate_out=False)
    payload = 128 * 256 * 2 // 8
    assert layer.stored_bytes == 64 + payload + 128 * 2 + 256 // 8
    assert layer.bits_per_weight == pytest.approx(8 * layer.stored_bytes / (128 * 256))
    assert layer.header.total_bytes == header_for(Hash(), 128, 256).total_bytes


def test_casts_leave_the_weight_alone():
    layer = make()
    scales = layer.scales.clone()
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        layer.to(dtype)
        assert layer.scales.dtype == torch.float16 and torch.equal(layer.scales, scales)
        assert layer.bias.dtype == dtype
        x = inputs(2, 101).to(dtype)
        assert layer(x).dtype == dtype
    assert make().half()(inputs(2, 101).half()).dtype == torch.float16


@pytest.mark.parametrize("kind", [Hash, Stages])
def test_compiles_as_one_graph(kind):
    layer = make(kind())
    x = inputs(3, 101)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-5, atol=1e-5)
    given = x.clone().requires_grad_()
    compiled(given).sum().backward()
    expected = torch.ones(3, 70) @ layer.dequantize()
    torch.testing.assert_close(given.grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", BOOKS)
def test_gradients_reach_the_input_and_the_bias(kind):
    layer, x = make(kind()), inputs(3, 101).requires_grad_()
    layer(x).sum().backward()
    expected = torch.ones(3, 70) @ layer.dequantize()
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(layer.bias.grad, torch.full((70,), 3.0))


def test_explain_names_what_runs(monkeypatch):
    layer = make(mode="int8")
    assert "int8: hash code, 1 row(s)" in layer.explain()
    assert f"more than {ops.INTEGER_ROWS} rows" in layer.explain(ops.INTEGER_ROWS + 1)
    assert "vectors from a small table" in make(Vectors()).explain()
    assert "several codes" in make(Stages()).explain()
    layer.mode = "float"
    assert "mode is float" in layer.explain()
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert layer.explain().startswith("reference")
    assert "trellis(bits=2" in repr(layer) and "bits_per_weight=" in repr(layer)


def test_reference_backend_agrees(monkeypatch):
    layer, x = make(mode="int8"), inputs(4, 101)
    fast = layer(x)
    monkeypatch.setenv("VQ_BACKEND", "reference")
    torch.testing.assert_close(layer(x), fast, rtol=1e-5, atol=1e-4)


def test_bad_arguments_are_refused():
    book = Hash()
    with pytest.raises(ValueError, match="mode"):
        QuantizedLinear(8, 8, book, mode="int4")
    codes = random_codes(book, 64, 8)
    with pytest.raises(ValueError, match="codes: expected 2 x 128"):
        QuantizedLinear.from_codes(book, codes[:1], torch.ones(64), in_features=8)
    with pytest.raises(ValueError, match="float16"):
        QuantizedLinear.from_codes(book, codes, torch.full((64,), 1e9), in_features=8)
    with pytest.raises(ValueError, match="signs_in"):
        QuantizedLinear.from_codes(
            book, codes, torch.ones(64), in_features=8, signs_in=torch.ones(7)
        )


def test_older_layouts_stay_readable():
    """A weight in layout 1 loads into a new layer, which then keeps that layout."""
    layer = make(Vectors())
    old = PackedHeader(ROWS, 70, 101, Vectors.code_bits, Vectors.dim)
    codes = unpack_codes(layer.weight, layer.header, 0, 70)
    state = {**layer.state_dict(), "weight": assemble(old, pack_payload(codes, old))}
    again = make(Vectors(), bias=True)
    again.load_state_dict(state)
    assert again.header.layout == ROWS and layer.header.layout == PANELS
    assert torch.equal(again.dequantize(), layer.dequantize())
    x = inputs(2, 101)
    with pytest.warns(RuntimeWarning, match="vectors: the weights have an older layout"):
        torch.testing.assert_close(again(x), layer(x), rtol=1e-4, atol=1e-4)
    assert "layout 1 is an older one" in again.explain()
    state["weight"] = make(Hash()).weight
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(Vectors()).load_state_dict(state)


def test_a_changed_table_or_weight_is_seen():
    book = Vectors()
    layer, x = make(book, bias=False), inputs(1, 101)
    before = layer(x)
    assert torch.equal(layer(x), before)  # through kept addresses
    book.table *= 2
    torch.testing.assert_close(layer(x), 2 * before, rtol=1e-5, atol=1e-5)
    layer.scales = layer.scales * 2
    torch.testing.assert_close(layer(x), 4 * before, rtol=1e-5, atol=1e-5)
    layer.weight[-1] ^= 1
    with pytest.raises(ValueError, match="CRC-32"):
        layer(x)


def test_kept_addresses_follow_every_rule_of_the_operation(monkeypatch):
    layer, x = make(mode="int8"), inputs(3, 101)
    with torch.no_grad():
        expected = layer(x)
        assert layer._ready is not None and torch.equal(layer(x), expected)
        kept, other = layer._ready, make(mode="int15")(x)
        layer.mode = "int15"
        assert torch.equal(layer(x), other) and layer._ready is kept
        layer.mode = "float"
        torch.testing.assert_close(layer(x), other, rtol=1e-3, atol=1e-2)
        layer.mode = "int8"
        assert layer(x[:0]).shape == (0, 70)
        torch.testing.assert_close(layer(x.T.contiguous().T), expected)
        torch.testing.assert_close(layer(x.double()).float(), expected, rtol=1e-2, atol=1e-2)
        with pytest.raises(ValueError, match="x: expected"):
            layer(x[:, :100])
        assert layer(x[None]).shape == (1, 3, 70) and torch.equal(layer(x[None])[0], expected)
        with pytest.raises(ValueError, match="x: expected"):
            layer(x[0, 0])
    assert layer(x.clone().requires_grad_()).grad_fn is not None
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    with monkeypatch.context() as environment:
        environment.setenv("VQ_BACKEND", "reference")
        torch.testing.assert_close(layer(x), expected)
        assert layer._ready is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_through_kept_addresses_too(dtype):
    """To the numbers of float32, rounded once."""
    layer, x = make(bias=False, mode="int8"), inputs(3, 101).to(dtype)
    with torch.no_grad():
        wanted = layer(x.float())
        assert layer._ready is not None
        found = layer._quick(x)
        assert found is not None and found.dtype == dtype
        assert torch.equal(found, wanted.to(dtype)) and torch.equal(found, layer(x))
        assert torch.equal(make(bias=False, mode="int8")(x), found)  # by the operation


def test_slow_ways_are_told_once():
    with pytest.warns(RuntimeWarning, match="slow_stages: no kernel"):
        book = Stages()
        book.spec = "slow_stages"
        layer = make(book)
        layer(inputs(1, 101))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(inputs(1, 101))
