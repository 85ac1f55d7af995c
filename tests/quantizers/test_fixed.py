"""Codebooks of the library as layers: every family is carried, scales, blocks, beams, compiled graphs."""

import itertools

import pytest
import torch

from vq.codebooks import FAMILIES, build
from vq.quantizers import KINDS, make

SPECS = {
    "additive": "additive(stages=2, dim=4, entries=8)",
    "binary": "binary()",
    "bsq": "bsq(dim=6)",
    "dn": "dn(dim=4, bits=2)",
    "dynamic8": "dynamic8()",
    "e8": "e8(bits=2)",
    "e8p": "e8p()",
    "ecsq": "ecsq(rate=2)",
    "factorized": "factorized(of=kmeans(dim=2, entries=16), factors=2)",
    "frozen": "frozen(of=kmeans(dim=4, entries=16), dim=4)",
    "fsq": "fsq(levels=[4, 4])",
    "kmeans": "kmeans(dim=4, entries=16)",
    "latent": "latent(dim=3, levels=4)",
    "leech": "leech(bits=1.5)",
    "lfq": "lfq(dim=5)",
    "minifloat": "minifloat(exponent=2, mantissa=1)",
    "nf": "nf(bits=4)",
    "pow2": "pow2(bits=3)",
    "power": "power(bits=3)",
    "product": "product(groups=2, of=kmeans(dim=2, entries=16))",
    "pvq": "pvq(dim=8, pulses=7, gain_bits=2)",
    "residual": "residual(stages=2, of=kmeans(dim=4, entries=16))",
    "scalar": "scalar(bits=2)",
    "simvq": "simvq(dim=4, entries=16)",
    "split": "split(of=[scalar(bits=2), nf(bits=4)])",
    "ternary": "ternary()",
    "trellis": "trellis(bits=2, memory=6, code=hash)",
    "uniform": "uniform(bits=2)",
    "zn": "zn(dim=4, bits=2)",
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def snr(values, x):
    return float(10 * torch.log10(x.var() / (values - x).square().mean()))


def test_every_family_is_carried_by_some_kind():
    assert set(SPECS) == set(FAMILIES)


@pytest.mark.parametrize("family", SPECS)
def test_a_family_as_a_layer(family):
    layer = make("fixed", codebook=SPECS[family])
    assert layer.codebook.family == family
    layer = make("fixed", codebook=SPECS[family], dim=2 * layer.codebook.dim)
    assert layer.codes_shape == (2, *layer.codebook.codes_shape)
    x = 5 * randn(260, layer.dim) - 3
    layer.start(x[:256])
    layer.train()
    for _ in range(2):
        found = layer(x[256:].requires_grad_())
        assert torch.equal(layer.decode(found.codes), found.values)
    (found.values.sum() + found.loss).backward()
    assert not any(p.requires_grad for p in layer.codebook.parameters())
    layer.eval()
    codes = layer.encode(x)
    assert torch.equal(layer(x).codes, codes) and torch.equal(layer.decode(codes), layer(x).values)
    assert snr(layer.decode(codes), x.detach()) > 2


def test_values_are_those_of_the_codebook_at_the_scale_of_the_data():
    x = randn(5000, 8) * torch.arange(1, 9) + torch.arange(8)
    layer = make("fixed", codebook="e8p()")
    layer.start(x)
    unit = (x - x.mean(0)) / x.std(0, correction=0)
    book = build("e8p()")
    codes = layer.eval().encode(x)
    assert float((codes == book.encode(unit).long()).float().mean()) > 0.999
    torch.testing.assert_close(
        layer.decode(codes),
        book.decode(codes) * x.std(0, correction=0) + x.mean(0),
        rtol=1e-4,
        atol=1e-4,
    )
    error = ((layer.decode(codes) - x) / x.std(0)).square().mean()
    assert float(error) == pytest.approx(book.distortion, rel=0.05)


@pytest.mark.parametrize("scale", ["running", "learned"])
def test_the_scale_follows_the_data(scale):
    layer = make("fixed", codebook="zn(dim=4, bits=2)", scale=scale, decay=0.9)
    layer.start(5 + 2 * randn(400, 4))
    optimizer = torch.optim.Adam(layer.parameters(), 0.05) if scale == "learned" else None
    x = 8 + 3 * randn(2000, 4, seed=999)
    before = snr(layer.eval()(x).values, x)
    layer.train()
    for turn in range(80):
        found = layer(8 + 3 * randn(256, 4, seed=turn))
        if optimizer is not None:
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
    after = snr(layer.eval()(x).values, x)  # at the best scale 9.88 dB
    assert before < 8 and after > 9


def test_the_running_scale_needs_no_start():
    layer = make("fixed", codebook="zn(dim=4, bits=2)")
    for turn in range(100):
        layer(70 + 3 * randn(256, 4, seed=turn))
    x = 70 + 3 * randn(2000, 4, seed=999)
    assert snr(layer.eval()(x).values, x) > 9.3


def test_a_fixed_scale_stays():
    layer = make("fixed", codebook="scalar(bits=2)", dim=3, scale="fixed")
    layer.start(4 * randn(500, 3) + 1)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    for turn in range(3):
        layer(9 * randn(50, 3, seed=turn))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_commitment_pulls_the_input_to_its_value():
    layer = make("fixed", codebook="dn(dim=4, bits=2)", commitment=0.5)
    layer.start(2 * randn(400, 4))
    x = (2 * randn(30, 4, seed=1)).requires_grad_()
    found = layer(x)
    error = (x - found.values).detach()
    torch.testing.assert_close(found.loss.detach(), 0.5 * error.square().mean())
    found.loss.backward()
    torch.testing.assert_close(x.grad, error / error.numel())


def test_the_estimator_is_used():
    grads = {}
    for name in ("straight", "rotation"):
        layer = make("fixed", codebook="e8p()", estimator=name, commitment=0.0)
        x, grad = randn(20, 8).requires_grad_(), randn(20, 8, seed=3)
        found = layer(x)
        found.values.backward(grad)
        grads[name] = x.grad
    torch.testing.assert_close(grads["straight"], grad)
    scale = found.values.norm(dim=1) / x.norm(
        dim=1
    )  # the map is a rotation times the ratio of lengths
    torch.testing.assert_close(grads["rotation"].norm(dim=1), grad.norm(dim=1) * scale.detach())


def test_dimensions_that_do_not_fit_are_explained():
    with pytest.raises(ValueError, match=r"blocks of 8 numbers, but the vector has 12.*inner=16"):
        make("fixed", codebook="e8p()", dim=12)
    with pytest.raises(ValueError, match="blocks of 256"):
        make("fixed", codebook="trellis(bits=2, memory=6, code=hash)", dim=64)
    layer = make("fixed", codebook="e8p()", dim=12, inner=16)
    assert layer.codes_shape == (2,) and layer.dim == 12
    with pytest.raises(ValueError, match="unknown codebook"):
        make("fixed", codebook="e9()")
    with pytest.raises(ValueError, match="scale"):
        make("fixed", scale="none")
    with pytest.raises(ValueError, match="commitment"):
        make("fixed", commitment=-1)


def test_an_unfitted_table_wants_a_start():
    layer = make("fixed", codebook="kmeans(dim=3, entries=10)")
    assert not layer.ready
    with pytest.raises(ValueError, match="start"):
        layer(randn(4, 3))
    with pytest.raises(ValueError, match="at least 10"):
        layer.start(randn(9, 3))
    layer.start(randn(100, 3))
    assert layer.ready and layer(randn(4, 3)).codes.shape == (4,)


def test_a_wide_enough_beam_finds_the_best_sum():
    """The score of a partial sum is its own error, not the sum of the stages' errors."""
    spec = "residual(stages=2, of=kmeans(dim=3, entries=8), beam={})"
    x = randn(400, 3)
    greedy = make("fixed", codebook=spec.format(1), scale="fixed")
    greedy.start(x)
    errors = []
    for beam in (1, 2, 8):
        layer = make("fixed", codebook=spec.format(beam), scale="fixed")
        layer.load_state_dict(greedy.state_dict())
        errors.append(float(layer.eval()(x).stats["distance"]))
    pairs = torch.tensor(list(itertools.product(range(8), repeat=2)))
    sums = layer.codebook.decode(pairs)
    best = torch.cdist(layer.affine.into(x), sums).amin(1).square().sum() / x.numel()
    assert errors[0] > errors[1] >= errors[2]
    assert errors[2] == pytest.approx(float(best), rel=1e-4)


def test_a_residual_codebook_decodes_prefixes():
    layer = make("fixed", codebook="residual(stages=3, of=kmeans(dim=4, entries=16))", dim=8)
    x = 3 * randn(500, 8) + 2
    layer.start(x)
    codes = layer.eval().encode(x)
    assert layer.stages == 3 and codes.shape == (500, 2, 3)
    found = [snr(layer.decode(codes, n), x) for n in (1, 2, 3)]
    assert found[0] < found[1] < found[2]
    book, affine = layer.codebook, layer.affine
    two = book.decode(codes.reshape(-1, 3), stages=2).reshape(500, 8)
    assert torch.equal(layer.decode(codes, 2), affine.out(two))


def test_a_compiled_graph_sees_new_tables():
    torch._dynamo.reset()
    layer = make("fixed", codebook="kmeans(dim=3, entries=10)", scale="fixed")
    layer.start(randn(100, 3))
    layer.eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = randn(50, 3, seed=2)
    first = compiled(x).values
    assert torch.equal(first, layer(x).values)
    layer.codebook.table.neg_()
    second = compiled(x).values
    assert torch.equal(second, layer(x).values) and not torch.equal(first, second)


def test_kinds_of_their_own():
    """The families that have a kind of their own, by its default codebook or its name."""
    assert {"fsq", "lfq", "bsq", "latent", "residual", "factorized", "simvq"} <= set(KINDS)
