import pytest
import torch

from vq.codebooks import build
from vq.compressors.layers.linear import QuantizedLinear
from vq.compressors.rounding.rotation import hadamard, random_signs
from vq.compressors.rounding.round import (
    RoundingOptions,
    block_ldl,
    restore,
    round_matrices,
)
from vq.compressors.rounding.scales import FACTORS


def hessian(n, seed=0, rank=None):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or n // 4, n, generator=generator)
    x = torch.randn(4 * n, len(mix), generator=generator) @ mix
    x = x + 0.3 * torch.randn(4 * n, n, generator=generator)
    return x.t() @ x / len(x)


def weights(rows, n, seed=1):
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(seed))


def loss(weight, approximation, metric):
    error = (weight - approximation).double()
    return float(((error @ metric.double()) * error).sum())


def proxy(weight, approximation, metric):
    return loss(weight, approximation, metric) / loss(weight, 0 * weight, metric)


def gptq(weight, metric, damping, quantize):
    """GPTQ as published: columns in order, through the Cholesky factor of the inverse Hessian."""
    n = weight.shape[1]
    damped = metric.double() + damping * metric.diagonal().mean() * torch.eye(
        n, dtype=torch.float64
    )
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, out = weight.double().clone(), torch.zeros(weight.shape, dtype=torch.float64)
    for j in range(n):
        out[:, j] = quantize(left[:, j])
        step = (left[:, j] - out[:, j]) / upper[j, j]
        left[:, j:] -= step[:, None] * upper[j, j:]
    return out


def test_ldlq_with_one_column_is_gptq_backwards():
    n = 40
    metric, weight = hessian(n), weights(20, n)
    codebook = build("scalar(bits=3)")
    rms = weight.square().mean(1).sqrt()[:, None]
    options = RoundingOptions(rotation="none")
    result = round_matrices({"w": weight}, metric, codebook, options)["w"]
    values = codebook.decode(result.codes).reshape(weight.shape)

    def quantize(column):
        return codebook(column[:, None].float())[:, 0].double()

    def loss(factor):  # of nearest rounding, errors weighted by the diagonal
        units = weight / rms / factor
        off = (units - codebook(units.reshape(-1, 1)).reshape(units.shape)) * rms * factor
        return (off.square() * metric.diagonal()).sum(1)

    best = torch.stack([loss(factor) for factor in FACTORS]).argmin(0)
    scale = rms * torch.tensor(FACTORS)[best][:, None]
    turned = gptq((weight / scale).flip(1), metric.flip(0, 1), options.damping, quantize)
    flipped = turned.flip(1)
    assert float((values == flipped.float()).float().mean()) > 0.99


@pytest.mark.parametrize("block", [1, 2, 8])
def test_block_ldl_gives_the_loss_by_blocks(block):
    n = 32
    metric = hessian(n)
    feedback, damping = block_ldl(metric, block, 0.01)
    assert damping == 0.01
    damped = metric + 0.01 * metric.diagonal().mean() * torch.eye(n)
    inverse = torch.linalg.inv(feedback)
    middle = inverse @ damped @ inverse.t()
    scale = float(metric.diagonal().mean())
    for i in range(0, n, block):
        own = slice(i, i + block)
        assert torch.allclose(feedback[own, own], torch.eye(block), atol=1e-5)
        assert torch.allclose(middle[own, i + block :] / scale, torch.zeros(1), atol=1e-4)


def test_identity_hessian_is_plain_rounding():
    weight = weights(30, 64)
    codebook = build("scalar(bits=2)")
    plain = round_matrices({"w": weight}, None, codebook, RoundingOptions(method="nearest"))["w"]
    ldlq = round_matrices({"w": weight}, torch.eye(64), codebook, RoundingOptions())["w"]
    assert torch.equal(plain.codes, ldlq.codes)
    assert torch.equal(plain.scales, ldlq.scales)


@pytest.mark.parametrize("rotation", ["none", "input", "both"])
def test_proxy_error_is_what_the_restored_matrix_has(rotation):
    metric, weight = hessian(48), weights(20, 48)
    codebook = build("scalar(bits=2)")
    result = round_matrices({"w": weight}, metric, codebook, RoundingOptions(rotation=rotation))[
        "w"
    ]
    dense = restore(result, codebook, (20, 48))
    assert proxy(weight, dense, metric) == pytest.approx(result.proxy_error, rel=1e-3)


def test_feedback_and_rotation_each_lower_the_error():
    metric, weight = hessian(96), weights(40, 96)
    weight[:, 5] *= 30  # an outlier channel
    codebook = build("scalar(bits=2)")

    def error(**options):
        return round_matrices({"w": weight}, metric, codebook, RoundingOptions(**options))[
            "w"
        ].proxy_error

    best = error(method="ldlq", rotation="input")
    assert best < 0.9 * error(method="nearest", rotation="input")
    assert best < 0.9 * error(method="ldlq", rotation="none")


ONE_NUMBER = [
    "uniform(bits=2)",
    "uniform(bits=3, zero=true)",
    "nf(bits=3)",
    "power(bits=3)",
    "minifloat(exponent=2, mantissa=1)",
    "minifloat(exponent=4, mantissa=3)",
    "pow2(bits=3)",
    "binary()",
    "ternary()",
    "dynamic8()",
    "ecsq(rate=2)",
]
VECTORS = [
    "fsq(levels=[4, 4, 4, 4])",
    "fsq(levels=[8, 8, 8, 5, 5, 5])",
    "lfq(dim=10)",
    "bsq(dim=10)",
    "latent(dim=6, levels=6)",
    "pvq(dim=8, pulses=7, gain_bits=2)",
    "pvq(dim=16, pulses=13, gain_bits=2)",
]


@pytest.mark.parametrize("spec", ONE_NUMBER + VECTORS)
def test_every_family_rounds_a_matrix(spec):
    metric, weight = hessian(48), weights(32, 48)
    codebook = build(spec)
    errors = {}
    for method in ("nearest", "ldlq"):
        options = RoundingOptions(method=method)
        result = round_matrices({"w": weight}, metric, codebook, options)["w"]
        dense = restore(result, codebook, weight.shape)
        errors[method] = proxy(weight, dense, metric)
        assert errors[method] == pytest.approx(result.proxy_error, rel=2e-3)
        layer = QuantizedLinear.from_codes(
            codebook, result.codes, result.scales, in_features=48, signs_in=result.signs_in
        )
        assert torch.allclose(layer.dequantize(), dense, atol=1e-5)
        x = weights(3, 48)
        wanted = x @ dense.t()
        assert (layer(x) - wanted).norm() < 1e-3 * wanted.norm()  # activations have 15 bits
    assert errors["nearest"] < 1.3 * codebook.distortion + 1e-3
    # feedback between blocks of columns pays where a block is short
    assert errors["ldlq"] < (0.9 if codebook.dim <= 5 else 1.1) * errors["nearest"]


def test_refitted_scales_are_optimal():
    metric, weight = hessian(32), weights(6, 32)
    codebook = build("scalar(bits=2)")
    result = round_matrices({"w": weight}, metric, codebook, RoundingOptions(rotation="none"))["w"]
    values = codebook.decode(result.codes).reshape(6, 32)
    best = loss(weight, values * result.scales.float()[:, None], metric)
    for factor in (0.98, 1.02):
        assert loss(weight, values * (factor * result.scales.float())[:, None], metric) > best


def test_matrices_of_a_group_do_not_influence_each_other():
    metric = hessian(32)
    parts = {"q": weights(10, 32, 1), "k": weights(6, 32, 2)}
    codebook = build("scalar(bits=2)")
    together = round_matrices(parts, metric, codebook)
    alone = round_matrices({"q": parts["q"]}, metric, codebook)
    assert torch.equal(together["q"].codes, alone["q"].codes)
    assert torch.equal(together["q"].signs_in, together["k"].signs_in)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (65, 100), (64, 577)])
def test_odd_shapes_are_padded(shape):
    codebook = build("kmeans(dim=8, entries=16)")
    codebook.fit(torch.randn(500, 8, generator=torch.Generator().manual_seed(0)))
    weight = weights(*shape)
    result = round_matrices({"w": weight}, None, codebook)["w"]
    assert result.codes.shape[:2] == (shape[0], -(-shape[1] // 8))
    dense = restore(result, codebook, shape)
    assert dense.shape == shape and bool(torch.isfinite(dense).all())


def test_dead_rows_and_channels():
    weight, metric = weights(8, 16), hessian(16)
    weight[3] = 0
    metric[5], metric[:, 5] = 0, 0
    codebook = build("scalar(bits=2)")
    result = round_matrices({"w": weight}, metric, codebook)["w"]
    dense = restore(result, codebook, (8, 16))
    assert bool(torch.isfinite(dense).all()) and result.proxy_error < 0.2


def test_damping_grows_until_the_decomposition_holds():
    metric = torch.eye(8)
    metric[0, 0] = -0.05
    _, damping = block_ldl(metric, 2, 0.01)
    assert damping == pytest.approx(0.1)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        block_ldl(torch.diag(torch.tensor([-1000.0, 1001.0] + [0.0] * 6)), 1, 0.01)


def test_bad_input():
    codebook = build("scalar(bits=2)")
    broken = weights(4, 8)
    broken[2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"w\[2, 3\] is nan"):
        round_matrices({"w": broken}, None, codebook)
    with pytest.raises(ValueError, match="one width"):
        round_matrices({"a": weights(4, 8), "b": weights(4, 9)}, None, codebook)
    metric = torch.eye(8)
    metric[1, 1] = float("inf")
    with pytest.raises(ValueError, match=r"channels \[1\]"):
        round_matrices({"w": weights(4, 8)}, metric, codebook)
    with pytest.raises(ValueError, match=r"expected \(8, 8\)"):
        round_matrices({"w": weights(4, 8)}, torch.eye(9), codebook)
    with pytest.raises(ValueError, match="expected one of ldlq, nearest"):
        RoundingOptions(method="best")
    with pytest.raises(ValueError, match="positive number"):
        RoundingOptions(damping=0)


@pytest.mark.parametrize("n", [1, 2, 64, 576, 577, 1536, 2688])
def test_hadamard_is_orthonormal_and_its_own_inverse(n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    turned = hadamard(x)
    assert torch.allclose(turned.square().sum(1), x.square().sum(1))
    assert torch.allclose(hadamard(turned), x)


def test_hadamard_against_sylvester():
    matrix = torch.ones(1, 1)
    while len(matrix) < 8:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    expected = torch.block_diag(matrix / 8**0.5, torch.ones(1, 1))
    assert torch.allclose(hadamard(torch.eye(9)), expected, atol=1e-6)


def test_rotation_spreads_an_outlier():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 512, generator=generator)
    x[:, 7] *= 50
    turned = hadamard(x * random_signs(512, generator))

    def kurtosis(values):
        return float(values.pow(4).mean() / values.square().mean() ** 2)

    assert kurtosis(x) > 100 and kurtosis(turned) < 4
