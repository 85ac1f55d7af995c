"""Finite scalars, signs and learned scalars: formulas, bijections, entropies, memory."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vq.quantizers import make
from vq.quantizers.bits import batch_entropy, log_odds, vector_entropy


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def unbounded(layer, y):
    """Input of an fsq layer that its tanh takes to y."""
    return layer.reach * torch.atanh((y / layer.reach).double()).float()


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor made has."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return found


def test_fsq_follows_its_formula():
    layer = make("fsq", levels=[5, 4, 2]).eval()
    x = 2 * randn(200, 3)
    expected = torch.empty(200, 3)
    for row, d in itertools.product(range(200), range(3)):
        n = (5, 4, 2)[d]
        y = n / (n - 1) * math.tanh(float(x[row, d]) * (n - 1) / n)
        levels = [2 * k / (n - 1) - 1 for k in range(n)]
        expected[row, d] = min(levels, key=lambda v: abs(v - y))
    torch.testing.assert_close(layer(x).values, expected)
    slope = torch.autograd.functional.jacobian(lambda v: layer(v).values.sum(0), torch.zeros(1, 3))
    torch.testing.assert_close(slope[:, 0], torch.eye(3))


def test_fsq_gradient_is_that_of_the_bound():
    layer = make("fsq", levels=[6, 3])
    x, grad = randn(50, 2).requires_grad_(), randn(50, 2, seed=1)
    layer(x).values.backward(grad)
    bound = torch.tensor([6 / 5, 3 / 2])
    torch.testing.assert_close(x.grad, grad * (1 - torch.tanh(x.detach() / bound).square()))


@pytest.mark.parametrize(
    "levels", [[2] * 5, [4, 2, 3], [8, 6, 5], [16] * 4, [8, 8, 8, 5, 5, 5]], ids=str
)
def test_fsq_is_a_bijection(levels):
    layer = make("fsq", levels=levels).eval()
    count = math.prod(levels)
    codes = torch.arange(count)
    values = layer.decode(codes)
    assert torch.equal(layer.encode(unbounded(layer, values)), codes)
    assert torch.equal(values.flip(0), -values)  # symmetric, also even levels and 2
    for d, n in enumerate(levels):
        assert values[:, d].unique().numel() == n


@pytest.mark.parametrize(("kind", "config"), [("lfq", {"bits": 16}), ("bsq", {"bits": 16})])
def test_signs_are_a_bijection_and_the_index_is_the_bits(kind, config):
    layer = make(kind, **config).eval()
    codes = torch.arange(1 << 16)
    values = layer.decode(codes)
    assert torch.equal(layer.encode(values), codes)
    bits = (codes[:, None] >> torch.arange(16)) & 1
    assert torch.equal(values > 0, bits.bool())
    size = 1.0 if kind == "lfq" else 0.25
    assert torch.equal(values.abs(), torch.full_like(values, size))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("fsq", {"levels": [8, 5, 5, 5]}),
        ("fsq", {"levels": [2, 4, 8, 16]}),
        ("lfq", {"bits": 10}),
        ("bsq", {"bits": 10}),
    ],
    ids=str,
)
def test_even_inputs_use_all_codes_evenly(kind, config):
    layer = make(kind, **config).eval()
    entries = layer.code_entries[0]
    count = 4 * entries
    x = uniform(count, layer.dim)
    if kind == "fsq":
        x = unbounded(layer, x * layer.reach)
    codes = layer.encode(x)
    ceiling = 1 - (1 - 1 / entries) ** count
    assert codes.unique().numel() / entries >= 0.98 * ceiling
    share = torch.bincount(codes, minlength=entries) / count
    entropy = -torch.special.xlogy(share, share).sum() / math.log(entries)
    assert float(entropy) >= 0.98 * (1 - 0.5 / 4 / math.log(entries))  # Miller: bias (K - 1) / 2N


def test_large_grids_are_never_listed():
    layer = make("fsq", levels=[4] * 16, dim=32)
    assert layer.code_entries == (1 << 32,)
    assert sum(t.numel() for t in layer.state_dict().values()) < 2000
    with Largest() as seen:
        found = layer(randn(100, 32).requires_grad_())
        found.values.sum().backward()
    assert seen.numbers <= 100 * 32
    assert torch.equal(layer.decode(found.codes), found.values)


def test_entropy_of_many_bits_needs_no_array_of_points_by_codes():
    layer = make("lfq", bits=40, group=10, temperature=1.0)
    with Largest() as seen:
        found = layer(randn(300, 40).requires_grad_())
        found.loss.backward()
    assert seen.numbers <= 300 * 40 < 300 * 1024
    assert 0 < float(found.stats["entropy_batch"]) <= 40 * math.log(2) + 1e-3


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_entropies_against_all_codes(bits):
    z, valid = randn(40, bits), torch.arange(40) % 5 != 0
    bound, temperature = torch.tensor(0.7), 0.6
    codes = torch.tensor(list(itertools.product([-0.7, 0.7], repeat=bits)))
    p = (2 * z.double() @ codes.double().t() / temperature).softmax(1)[valid]
    single = -(p * p.log()).sum(1).mean()
    whole = -(p.mean(0) * p.mean(0).log()).sum()
    odds = log_odds(z, bound, temperature)
    torch.testing.assert_close(vector_entropy(odds, valid).double(), single, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(batch_entropy(odds, valid, 10).double(), whole, rtol=1e-5, atol=1e-6)
    layer = make("lfq", bits=bits, bound=0.7, temperature=temperature, diversity=0.5)
    found = layer(z, valid)
    torch.testing.assert_close(
        found.losses["entropy"].double(), single - 0.5 * whole, rtol=1e-5, atol=1e-5
    )


def test_gradient_of_the_entropies_against_all_codes():
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=6)))
    grads = []
    for brute in (True, False):
        z = (0.3 * randn(30, 6)).requires_grad_()
        if brute:
            p = (2 * z @ codes.t()).softmax(1)
            loss = -(p * p.log()).sum(1).mean() + (p.mean(0) * p.mean(0).log()).sum()
        else:
            loss = make("lfq", bits=6, temperature=1.0)(z).losses["entropy"]
        loss.backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_groups_add_up():
    odds, valid = randn(50, 9), torch.ones(50, dtype=torch.bool)
    parts = sum(batch_entropy(piece, valid, 16) for piece in odds.split(4, dim=1))
    torch.testing.assert_close(batch_entropy(odds, valid, 4), parts)
    assert float(batch_entropy(odds, valid, 9)) <= float(parts) + 1e-5


def test_sure_bits_have_no_entropy_and_finite_gradients():
    layer = make("lfq", bits=12)  # temperature 0.01: all bits are saturated
    for scale in (1.0, 1e4, 1e-8):
        z = (scale * randn(20, 12)).requires_grad_()
        found = layer(z.bfloat16())
        found.loss.backward()
        assert bool(torch.isfinite(found.loss)) and bool(torch.isfinite(z.grad).all())


def test_entropy_weight_may_be_set_at_any_time():
    layer = make("lfq", bits=6, temperature=1.0, commitment=0.0)
    z = randn(30, 6)
    one = layer(z)
    layer.entropy_weight = 0.0
    assert float(layer(z).loss) == 0
    layer.entropy_weight = 2.0
    torch.testing.assert_close(layer(z).loss, 2 * one.losses["entropy"])
    assert layer.config()["entropy_weight"] == 2.0


def test_entropy_revives_dead_bits():
    x = randn(256, 8) + 3
    used = {}
    for weight in (0.0, 1.0):
        layer = make("lfq", bits=8, temperature=1.0, commitment=0.0, entropy_weight=weight)
        shift = torch.zeros(8, requires_grad=True)
        for _ in range(80):
            layer(x + shift).loss.backward()
            with torch.no_grad():
                shift -= 3.0 * shift.grad
                shift.grad.zero_()
        used[weight] = float(layer(x + shift.detach()).stats["perplexity"])
    assert used[0.0] < 10 and used[1.0] > 60


def test_bsq_lies_on_the_sphere_near_its_input():
    layer = make("bsq", bits=24).eval()
    x = 7 * randn(500, 24)
    values = layer(x).values
    torch.testing.assert_close(values.norm(dim=1), torch.ones(500))
    away = (torch.nn.functional.normalize(x, dim=1) - values).norm(dim=1)
    assert float(away.max()) <= math.sqrt(2 - 2 / math.sqrt(24))
    assert torch.equal(layer.encode(x), layer.encode(100 * x))
    assert bool((layer.encode(torch.zeros(2, 24)) == 0).all())


def test_latent_codes_stay_right_where_levels_move():
    layer = make("latent", dim=3, levels=4)
    table = layer.codebook.table
    x = randn(200, 3)
    with torch.no_grad():
        table.add_(randn(3, 4, seed=5))  # rows no longer ascend
    found = layer(x)
    assert torch.equal(layer.decode(found.codes), found.values)
    nearest = (x[..., None] - table).abs().argmin(-1)
    assert torch.equal(found.values.detach(), table.detach().gather(1, nearest.t()).t())
    assert torch.equal(layer.eval().encode(x), found.codes)


def test_latent_losses_and_gradients():
    layer = make("latent", dim=2, levels=3, quantization=0.5, commitment=0.25)
    x = randn(64, 2).requires_grad_()
    found = layer(x)
    error = (x - found.values).detach()
    torch.testing.assert_close(found.loss.detach(), 0.75 * error.square().mean())
    found.loss.backward()
    torch.testing.assert_close(x.grad, 0.25 * 2 * error / error.numel())
    place = layer.codebook.digits(x.detach())
    expected = torch.zeros(2, 3)
    for d in range(2):
        expected[d].index_add_(0, place[:, d], -0.5 * 2 * error[:, d] / error.numel())
    torch.testing.assert_close(layer.codebook.table.grad, expected)


def test_latent_starts_at_the_quantiles_of_the_data():
    layer = make("latent", dim=2, levels=3)
    x = torch.tensor([-5.0, 0.0, 7.0])[torch.arange(300) % 3, None].repeat(1, 2)
    layer.start(x)
    torch.testing.assert_close(layer.codebook.table.detach(), torch.tensor([[-5.0, 0, 7]] * 2))
    assert torch.equal(layer.eval()(x).values, x)


def test_statistics_move_one_step_late_and_by_the_formula():
    layer = make("fsq", levels=[5, 5], normalise=True, decay=0.75)
    batches = [3 * randn(40, 2, seed=i) + i for i in range(4)]
    layer(batches[0])
    assert torch.equal(layer.affine.center, torch.zeros(2))
    center, spread = batches[0].mean(0), batches[0].var(0, correction=0)
    for turn, batch in enumerate(batches[1:], start=1):
        layer(batch)
        torch.testing.assert_close(layer.affine.center, center)
        torch.testing.assert_close(layer.affine.scale, spread.sqrt(), rtol=1e-4, atol=1e-5)
        rate = max(0.25, 1 / (turn + 1))
        center = (1 - rate) * center + rate * batch.mean(0)
        spread = (1 - rate) * spread + rate * batch.var(0, correction=0)


def test_normalised_values_resemble_the_input():
    x = randn(4000, 4) * torch.tensor([0.01, 1.0, 5.0, 100.0]) + torch.tensor([3.0, 0, -9, 40])
    layer = make("fsq", levels=[8] * 4, normalise=True)
    layer.start(x)
    values = layer.eval()(x).values
    error = (values - x).square().mean(0) / x.var(0)
    assert (
        float(error.max()) < 0.12
    )  # 8 even levels for N(0, 1) have 0.037; the bound costs the rest
    raw = make("fsq", levels=[8] * 4).eval()
    assert raw(x).values.abs().max() <= 1
    assert raw.encode(x).unique().numel() < layer.encode(x).unique().numel()


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("fsq", {"levels": []}),
        ("fsq", {"levels": [1, 4]}),
        ("fsq", {"levels": [4], "dim": 0}),
        ("lfq", {"bits": 63}),
        ("lfq", {"bits": 4, "temperature": 0}),
        ("lfq", {"bits": 4, "group": 17}),
        ("bsq", {"bits": 4, "entropy_weight": -1}),
        ("latent", {"dim": 2, "levels": 1}),
        ("fsq", {"levels": [4], "normalise": True, "decay": 1}),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(kind, config):
    with pytest.raises(ValueError, match=f"{kind}|decay"):
        make(kind, **config)
