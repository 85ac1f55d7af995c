import copy

import pytest
import torch

from vq.quantizers import make
from vq.quantizers.toy import train_toy


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(**config):
    return make("simvq", **{"codebook": "simvq(dim=6, entries=64)", **config})


def frozen():
    made = make("simvq", codebook="frozen(of=kmeans(dim=5, entries=32, iterations=3), dim=6)")
    made.codebook.features.fit(data(400, 5))
    return made


@pytest.mark.parametrize("make_layer", [layer, frozen])
def test_gradients_reach_map_and_offset_alone(make_layer):
    made = make_layer(commitment=0.5) if make_layer is layer else make_layer()
    weight = made.commitment
    x = data(40, 6).requires_grad_()
    target = data(40, 6, seed=2)
    found = made(x)
    ((found.values - target).square().sum() + found.loss).backward()
    assert {n for n, p in made.named_parameters() if p.grad is not None} == {
        "codebook.map",
        "codebook.offset",
    }
    matrix = made.codebook.map.detach().clone().requires_grad_()
    offset = made.codebook.offset.detach().clone().requires_grad_()
    z = x.detach().requires_grad_()
    q = (made.codebook.basis_rows() @ matrix + offset)[found.codes]
    torch.testing.assert_close(found.values, q.detach())
    commitment, codebook = (z - q.detach()).square().mean(), (z.detach() - q).square().mean()
    straight = z + (q - z).detach()
    ((straight - target).square().sum() + weight * commitment + codebook).backward()
    torch.testing.assert_close(x.grad, z.grad)
    torch.testing.assert_close(made.codebook.map.grad, matrix.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.codebook.offset.grad, offset.grad, rtol=1e-4, atol=1e-6)


def test_codes_are_the_nearest_mapped_rows():
    made = layer().eval()
    made.start(data(2000, 6) * 3 + 2)
    x = data(300, 6, seed=1) * 3 + 2
    table = made.codebook.basis_rows() @ made.codebook.map + made.codebook.offset
    found = made(x)
    best = torch.cdist(x, table).min(1).values
    torch.testing.assert_close((found.values - x).norm(dim=1), best, rtol=1e-4, atol=1e-4)


def test_the_table_of_eval_mode_is_kept_and_never_stale():
    made = layer().eval()
    x, computed = data(50, 6), []
    kind = type(made.codebook)
    plain = kind.table.fget
    try:
        kind.table = property(lambda book: computed.append(1) or plain(book))
        first = made(x).values
        made.decode(made.encode(x))
        assert len(computed) == 1 and torch.equal(made(x).values, first)
        changes = [
            lambda: made.codebook.map.data.mul_(1.5),
            lambda: made.codebook.offset.data.add_(0.1),
            lambda: made.load_state_dict(layer(seed=1).state_dict()),
            lambda: made.load_state_dict(
                layer(codebook="simvq(dim=6, entries=64, seed=3)").state_dict()
            ),
            lambda: made.codebook.basis.copy_(data(64, 6, seed=9)),
            lambda: made.start(data(500, 6) + 3),
        ]
        for number, change in enumerate(changes):
            before = made(x).values
            change()
            expected = copy.deepcopy(made)
            expected._cached = None
            assert torch.equal(made(x).values, expected(x).values), number
            assert number == 2 or not torch.equal(made(x).values, before)
        with torch.inference_mode():
            assert torch.equal(made(x).values, expected(x).values)
    finally:
        kind.table = property(plain)


def test_frozen_features_come_first():
    made = make("simvq", codebook="frozen(of=kmeans(dim=5, entries=32, iterations=3), dim=6)")
    assert not made.ready
    for call in (made, made.encode):
        with pytest.raises(ValueError, match="not ready"):
            call(data(4, 6))
    with pytest.raises(ValueError, match="no features"):
        made.start(data(400, 6))
    assert frozen().ready and torch.isfinite(frozen()(data(4, 6)).values).all()
    own = make("simvq", codebook="frozen(of=kmeans(dim=6, entries=32, iterations=3))")
    own.start(data(400, 6))
    error = (own.eval()(data(400, 6)).values - data(400, 6)).square().mean()
    assert own.ready and float(error.detach()) < 0.5


def test_start_helps():
    x, held_out = data(2000, 6) * 2 + 5, data(500, 6, seed=1) * 2 + 5
    made = layer().eval()
    before = float((made(held_out).values - held_out).square().mean().detach())
    made.start(x)
    after = float((made(held_out).values - held_out).square().mean().detach())
    assert after < 0.1 * before and float(made(held_out).stats["utilization"]) > 0.9
    with pytest.raises(ValueError, match="at least 7"):
        made.start(x[:6])


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="expected a codebook simvq"):
        make("simvq", codebook="kmeans(dim=4, entries=8)")
    with pytest.raises(ValueError, match="commitment"):
        layer(commitment=-1)
    with pytest.raises(ValueError, match="unknown codebook family"):
        layer(codebook="simqv(dim=4)")


def test_a_frozen_table_does_not_collapse():
    found = train_toy(make("simvq", codebook="simvq(dim=16, entries=1024)"))
    assert found.utilization >= 0.7
    bare = make(
        "vq", codebook="kmeans(dim=16, entries=1024)", learn="gradient", init="uniform", revival=0
    )
    assert found.utilization >= 5 * train_toy(bare).utilization


@pytest.mark.slow
def test_neither_does_a_large_one():
    codebook = "simvq(dim=16, entries=16384)"
    assert train_toy(make("simvq", codebook=codebook), steps=120).utilization >= 0.4
    found = train_toy(make("simvq", codebook=codebook), steps=1000)
    assert found.utilization >= 0.8 * found.ceiling
