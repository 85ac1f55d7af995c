import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vq.codebooks import lloyd
from vq.quantizers import make
from vq.quantizers.projection import Projection
from vq.quantizers.revival import draw_places, mix
from vq.quantizers.toy import train_toy


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(entries=32, width=6, **config):
    return make("vq", codebook=f"kmeans(dim={width}, entries={entries}, iterations=5)", **config)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.numel())
        return out


# The moving averages.


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_moving_means_are_the_closed_form(decay):
    made = layer(entries=8, width=3, decay=decay, revival=0)
    table = data(8, 3, seed=1)
    made.load_table(table)
    n, m = torch.full((8,), 1 / 8, dtype=torch.float64), table.double() / 8
    for turn in range(30):
        x = data(50, 3, seed=turn) + 0.5
        expected = (m / n[:, None]).float()
        found = made(x)
        torch.testing.assert_close(made.table, expected, rtol=1e-4, atol=1e-5)
        chosen = torch.cdist(x.double(), m / n[:, None]).argmin(1)
        assert torch.equal(found.codes, chosen)
        onehot = torch.nn.functional.one_hot(chosen, 8).double()
        n = decay * n + (1 - decay) * onehot.mean(0)
        m = decay * m + (1 - decay) * onehot.t() @ x.double() / 50


def test_a_fixed_batch_is_learned_by_heart():
    made = layer(entries=4, width=3, decay=0.8, revival=0)
    x = data(60, 3)
    made.start(x)
    for _ in range(200):
        codes = made(x).codes
    for k in range(4):
        torch.testing.assert_close(made.table[k], x[codes == k].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_loaded_table_is_a_fixed_point(copies, decay):
    made = layer(decay=decay)
    for turn in range(7):
        made(data(100, 6, seed=turn))
    table = 15 * data(32, 6, seed=20)
    made.load_table(table)
    for _ in range(12):
        made(table.repeat(copies, 1))
        assert torch.equal(made.table, table)
    assert torch.equal(made.codebook.decode(torch.arange(32)), table)


def test_rows_that_nothing_chose_keep_their_bits():
    made = layer(revival=0)
    made.load_table(data(32, 6))
    made.table[5:] += 1000
    made.load_table(made.table.clone())
    far = made.table[5:].clone()
    for turn in range(40):
        made(data(50, 6, seed=turn))
    assert torch.equal(made.table[5:], far) and not torch.equal(made.table[:5], data(32, 6)[:5])


def test_the_table_moves_one_step_late():
    made = layer(decay=0.5)
    made.start(data(500, 6))
    before = made.table.clone()
    x = data(100, 6, seed=1)
    found = made(x)
    assert torch.equal(made.table, before)
    assert torch.equal(made.decode(found.codes), found.values)
    made.eval()(x)
    made.encode(x)
    assert torch.equal(made.table, before)
    made.train()(x)
    assert not torch.equal(made.table, before)


def test_first_use_jumps_to_the_mean_of_the_cell():
    made = layer(entries=4, width=2, revival=0)
    x = data(20, 2)
    codes = made(x).codes
    made(x)
    for k in codes.unique().tolist():
        torch.testing.assert_close(made.table[k], x[codes == k].mean(0))


# Revival.


def killed(**config):
    """A started layer with half of its rows far away and their usage gone."""
    made = layer(entries=64, **config)
    made.start(data(2000, 6))
    table = made.table.detach().clone()
    table[::2] = 1e3 + data(32, 6, seed=3)
    usage = torch.full((64,), 1 / 32)
    usage[::2] = 0
    made.load_table(table, usage)
    return made


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_revived_rows_stay_and_are_used(learn):
    made = killed(learn=learn)
    revived = 0.0
    for turn in range(50):
        revived += float(made(data(256, 6, seed=turn)).stats["revived"])
    assert 32 <= revived <= 40  # once each, not over and over
    codes = made.eval().encode(data(4000, 6, seed=99))
    assert len(codes[codes % 2 == 0].unique()) >= 30
    assert float(made.table.detach().abs().max()) < 10


def test_revived_rows_are_different_vectors_of_the_batch():
    made = killed(every=1, decay=0.9)
    x, mask = data(60, 6, seed=5), torch.arange(60) % 4 > 0
    found = made(x, mask)
    assert float(found.stats["revived"]) == 32
    assert torch.equal(made.decode(found.codes), found.values)
    made(x, mask)
    rows = made.table[::2]
    match = (rows[:, None] == x[mask][None]).all(2)
    assert bool((match.sum(1) == 1).all()) and bool((match.sum(0) <= 1).all())
    mean = float(made.revival.usage.mean())
    assert float(made.revival.usage[::2].min()) > 0.6 * mean  # the usage was reset too


def test_no_more_rows_than_vectors_are_revived():
    made = killed(every=1)
    assert float(made(data(5, 6)).stats["revived"]) == 5
    assert float(made(data(5, 6)).stats["revived"]) == 5


def test_a_table_larger_than_the_batch_is_not_shuffled_for_ever():
    made = layer(entries=256, width=4)
    made.start(data(4096, 4))
    revived = [float(made(data(64, 4, seed=turn)).stats["revived"]) for turn in range(400)]
    assert sum(revived[200:]) < 0.02 * 256 * 40  # of 40 looks


def test_revival_does_not_draw_from_the_global_generator():
    states = []
    for seed in (0, 1):
        made = killed(every=1)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        for turn in range(3):
            made(data(100, 6, seed=turn))
        assert torch.equal(torch.get_rng_state(), before)
        states.append(made.table)
    assert torch.equal(*states)


@pytest.mark.parametrize("total", [1, 7, 64, 1000, 4096, 5000])
def test_drawn_places_are_spread(total):
    steps = torch.arange(300)
    drawn = [draw_places(64, torch.tensor(total), step, seed=3) for step in steps]
    for places in drawn:
        assert int(places.min()) >= 0 and int(places.max()) < total
        assert len(places.unique()) == min(64, total)
    mean = torch.stack(drawn).double().mean() / max(total - 1, 1)
    assert total == 1 or float(mean) == pytest.approx(0.5, abs=0.02)
    assert total < 1000 or len({tuple(places.tolist()) for places in drawn}) > 290


def test_the_hash_is_one_to_one_and_spreads():
    found = mix(torch.arange(1 << 16))
    assert len(found.unique()) == 1 << 16 and 0 <= int(found.min()) and int(found.max()) < 1 << 32
    bits = (found[:, None] >> torch.arange(32)) & 1
    torch.testing.assert_close(
        bits.double().mean(0), torch.full((32,), 0.5).double(), rtol=0, atol=0.01
    )


# Masks and numbers that are none.


@pytest.mark.parametrize(
    "config", [{}, {"dim": 10}, {"dim": 10, "lookup": "cosine"}, {"learn": "gradient"}], ids=str
)
def test_a_mask_is_as_leaving_out(config):
    made = layer(every=1, revival=0.9, **config)
    other = copy.deepcopy(made)
    for turn in range(4):
        x = 100 * data(50, made.dim, seed=turn)
        mask = data(50, seed=turn) > 0
        a, b = made(x, mask), other(x[mask])
        assert torch.equal(a.codes[mask], b.codes)
        assert torch.equal(a.values[mask], b.values)
        for key in b.losses:
            torch.testing.assert_close(a.losses[key], b.losses[key])
        for key in b.stats:
            torch.testing.assert_close(a.stats[key], b.stats[key])
        for key, value in other.state_dict().items():
            torch.testing.assert_close(made.state_dict()[key], value, rtol=1e-4, atol=1e-4)


def test_bad_numbers_are_as_masked():
    made = layer()
    other = copy.deepcopy(made)
    x = data(50, 6)
    x[3, 2], x[4, 0], x[5, 5] = torch.nan, torch.inf, -torch.inf
    found, expected = made(x), other(x.nan_to_num(0, 0, 0), torch.isfinite(x).all(1))
    assert float(found.stats["nonfinite"]) == 3 and float(expected.stats["nonfinite"]) == 0
    assert found.codes[3:6].tolist() == [-1, -1, -1] and float(found.stats["vectors"]) == 47
    assert torch.equal(found.codes, expected.codes) and torch.equal(found.loss, expected.loss)
    assert torch.equal(made.means.following, other.means.following)


# Lookup, losses, gradients.


def test_lookups():
    x = data(80, 6)
    for lookup in ("euclidean", "cosine", "angle"):
        made = layer(lookup=lookup).eval()
        made.load_table(data(32, 6, seed=1) * (1 + torch.arange(32.0)[:, None]))
        cosine = torch.nn.functional.cosine_similarity(x[:, None], made.table[None], dim=2)
        expected = (
            torch.cdist(x, made.table).argmin(1) if lookup == "euclidean" else cosine.argmax(1)
        )
        found = made(x)
        assert torch.equal(found.codes, expected)
        values = made.table[expected]
        if lookup == "cosine":
            values = values / values.norm(dim=1, keepdim=True)
        torch.testing.assert_close(found.values, values)
        assert torch.equal(made.codebook.decode(found.codes), found.values)


def test_losses_and_gradients_are_those_of_dense_arithmetic():
    made = layer(learn="gradient", commitment=0.5)
    x = data(40, 6).requires_grad_()
    target = data(40, 6, seed=2)
    found = made(x)
    ((found.values - target).square().sum() + found.loss).backward()
    own, table = x.grad.clone(), made.table.grad.clone()
    z, c = x.detach().requires_grad_(), made.table.detach().clone().requires_grad_()
    q = torch.nn.functional.one_hot(found.codes, 32).float() @ c
    commitment, codebook = (z - q.detach()).square().mean(), (z.detach() - q).square().mean()
    torch.testing.assert_close(found.losses["commitment"], commitment)
    torch.testing.assert_close(found.losses["codebook"], codebook)
    straight = z + (q - z).detach()
    ((straight - target).square().sum() + 0.5 * commitment + codebook).backward()
    torch.testing.assert_close(own, z.grad)
    torch.testing.assert_close(table, c.grad)
    unused = torch.bincount(found.codes, minlength=32) == 0
    assert bool((table[unused] == 0).all()) and not bool((table[~unused] == 0).all())


def test_linear_maps_learn():
    made = layer(dim=10, learn="gradient")
    x = data(30, 10).requires_grad_()
    found = made(x)
    (found.values.square().sum() + found.loss).backward()
    maps = made.projection
    z = x.detach() @ maps.weight_in.t() + maps.bias_in
    q = made.table[found.codes]
    torch.testing.assert_close(found.values, q @ maps.weight_out.t() + maps.bias_out)
    grad = 2 * found.values.detach()
    torch.testing.assert_close(maps.weight_out.grad, grad.t() @ q.detach(), rtol=1e-4, atol=1e-4)
    to_z = grad @ maps.weight_out + 0.25 * 2 * (z - q) / z.numel()
    torch.testing.assert_close(maps.weight_in.grad, to_z.t() @ x.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps.bias_in.grad, to_z.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, to_z @ maps.weight_in, rtol=1e-4, atol=1e-4)


def test_stats_of_a_batch():
    made = layer(entries=4, width=1, revival=0).eval()
    made.load_table(torch.tensor([[0.0], [1], [2], [3]]))
    stats = made(torch.tensor([[0.1], [0.1], [1.9], [2.0]])).stats
    assert float(stats["utilization"]) == 0.5 and float(stats["perplexity"]) == pytest.approx(2)
    assert float(stats["vectors"]) == 4
    assert float(stats["utilization_ceiling"]) == pytest.approx(1 - 2.718281828**-1)
    assert float(stats["distance"]) == pytest.approx((0.01 + 0.01 + 0.01) / 4)


@pytest.mark.parametrize(
    "config", [{}, {"learn": "gradient", "estimator": "rotation"}, {"lookup": "cosine"}], ids=str
)
def test_nothing_of_size_vectors_times_entries(config):
    made = layer(entries=2048, width=8, **config)
    x = data(4096, 8).requires_grad_()
    for mode in (True, False):
        with Largest() as seen:
            found = made.train(mode)(x)
            (found.values.sum() + found.loss).backward()
            made.decode(made.encode(x))
        assert seen.numel <= 4096 * 8


# Start, state, configuration.


def test_start_is_k_means():
    x = data(3000, 6) + 2
    made = layer(entries=32)
    made.start(x, torch.Generator().manual_seed(5))
    expected = lloyd.fit(x, 32, iterations=5, generator=torch.Generator().manual_seed(5))
    assert torch.equal(made.table, expected.table)
    torch.testing.assert_close(made.revival.usage, expected.members / 3000)
    with pytest.raises(ValueError, match="at least 32 vectors"):
        made.start(x[:31])
    with pytest.raises(ValueError, match="finite"):
        made.start(torch.where(x > 4, torch.nan, x))


@pytest.mark.parametrize("lookup", ["euclidean", "cosine"])
def test_start_finds_the_plane_of_the_data(lookup):
    low = data(2000, 3) * torch.tensor([1.0, 0.9, 0.8])
    x = torch.nn.functional.normalize(low, dim=1) if lookup == "cosine" else low
    x = x @ data(3, 12, seed=1) + 5
    made = layer(entries=512, width=3, dim=12, lookup=lookup).eval()
    made.start(x)
    error = (made(x).values - x).square().mean() / x.var(0).mean()
    assert float(error.detach()) < 0.06


def test_projections():
    maps = Projection(10, 4, seed=1)
    torch.testing.assert_close(maps.weight_in @ maps.weight_out, torch.eye(4))
    x = data(500, 10)
    maps.start(x)
    mean, (_, _, axes) = x.mean(0), torch.linalg.svd(x - x.mean(0), full_matrices=False)
    torch.testing.assert_close(
        maps.up(maps.down(x)), (x - mean) @ axes[:4].t() @ axes[:4] + mean, rtol=1e-3, atol=1e-4
    )
    wide = Projection(3, 5)
    torch.testing.assert_close(wide.up(wide.down(data(20, 3))), data(20, 3))
    wide.start(data(20, 3) + 1)
    torch.testing.assert_close(wide.up(wide.down(data(20, 3))), data(20, 3))
    assert not list(Projection(4, 4).parameters())


def test_casting_the_module_leaves_it_float32():
    made = layer(dim=10)
    made.start(data(500, 10))
    codes = made.encode(data(20, 10))
    made.to(torch.bfloat16)
    assert {t.dtype for t in made.state_dict().values() if t.is_floating_point()} == {torch.float32}
    assert torch.equal(made.encode(data(20, 10)), codes)
    assert made(data(20, 10).bfloat16()).values.dtype == torch.bfloat16


def test_codes_pack_in_the_codebook():
    made = layer(entries=32).eval()
    codes = made.encode(data(100, 6))
    packed = made.codebook.pack(codes)
    assert len(packed.payload) == -(-100 * 5 // 8)
    assert torch.equal(made.codebook.unpack(packed), codes)


def test_wrong_arguments_are_refused():
    for wrong, text in (
        ({"learn": "emma"}, "did you mean ema"),
        ({"lookup": "cosin"}, "did you mean cosine"),
        ({"init": "zero"}, "normal"),
        ({"estimator": "rotate"}, "rotation"),
        ({"decay": 1.0}, "decay"),
        ({"revival": -0.1}, "revival"),
        ({"every": 0}, "every"),
        ({"codebook": "simvq(dim=4, entries=8)"}, "kmeans"),
    ):
        with pytest.raises(ValueError, match=text):
            make("vq", **wrong)
    with pytest.raises(ValueError, match="finite rows"):
        layer().load_table(torch.zeros(3, 6))
    with pytest.raises(ValueError, match="finite rows"):
        layer().load_table(torch.full((32, 6), torch.nan))


def test_collapse_and_its_cures():
    codebook = "kmeans(dim=16, entries=1024)"
    bare = train_toy(make("vq", codebook=codebook, learn="gradient", init="uniform", revival=0))
    assert bare.utilization <= 0.15
    cured = train_toy(make("vq", codebook=codebook, init="uniform"))
    assert cured.utilization >= 0.9 and cured.snr_db >= bare.snr_db + 1.5
    assert cured.utilization <= cured.ceiling + 0.02 and cured.perplexity > 700
    revived = train_toy(make("vq", codebook=codebook, learn="gradient", init="uniform"))
    assert revived.utilization >= 0.8
