"""Heads with quantizers of their own: maps, disentanglement, distillation."""

import pytest
import torch

from vq.quantizers import make
from vq.quantizers.factorized import overlap

VQ = {"kind": "vq", "codebook": "kmeans(dim=4, entries=32)", "revival": 0}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(n, seed=0):
    mix = randn(8, 12, seed=77) / 3
    return randn(n, 8, seed=seed) @ mix + 1


def started(**config):
    layer = make("factorized", **{"of": VQ, "dim": 12, "heads": 2, **config})
    layer.start(features(1500, seed=5))
    return layer


def train(layer, steps=60, rate=0.02):
    optimizer = torch.optim.Adam(layer.parameters(), rate)
    for turn in range(steps):
        x = features(128, seed=100 + turn)
        found = layer(x)
        loss = (found.values - x).square().mean() + found.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer


def test_two_heads_beat_one():
    x = features(1000, seed=8)
    errors = []
    for heads in (1, 2):
        layer = started(heads=heads).eval()
        errors.append(float((layer(x).values - x).square().mean() / x.var(0).mean()))
    assert errors[1] < 0.75 * errors[0]


def test_heads_see_what_their_maps_give():
    for hidden in (0, 9):
        layer = started(hidden=hidden).eval()
        x = features(50)
        codes = layer.encode(x)
        assert codes.shape == (50, 2)
        pieces = []
        for i, (head, part) in enumerate(zip(layer.heads, layer.groups.each(), strict=True)):
            view = x
            for j, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
                view = (view.relu() if j else view) @ weight.t() + bias
            torch.testing.assert_close(part.decode(codes[:, i]), part.decode(part.encode(view)))
            pieces.append(part.decode(codes[:, i]))
        out = layer.outward
        expected = torch.cat(pieces, 1) @ out.weights[0].t() + out.biases[0]
        torch.testing.assert_close(layer.decode(codes), expected)


def test_overlap_is_the_mean_squared_cosine_of_pairs():
    pieces, valid = [randn(10, 4, seed=i) for i in range(3)], torch.arange(10) % 3 > 0
    total = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        cosine = torch.nn.functional.cosine_similarity(pieces[i], pieces[j])
        total += float(cosine[valid].square().mean())
    assert float(overlap(pieces, valid)) == pytest.approx(total, rel=1e-5)
    assert float(overlap([pieces[0], 3 * pieces[0]], valid)) == pytest.approx(1, rel=1e-5)


def test_disentanglement_lowers_the_overlap():
    x, found = features(500, seed=9), {}
    for weight in (1e-9, 0.3):
        layer = train(started(disentanglement=weight, hidden=16)).eval()
        found[weight] = float(layer(x).losses["disentanglement"].detach())
    assert found[0.3] < 0.7 * found[1e-9]


def test_distillation():
    layer = started(teachers=[3, None], distance="mse", distillation=2.0)
    x, teacher, mask = features(60), randn(60, 3, seed=4), torch.arange(60) % 4 > 0
    found = layer(x, mask, [teacher, None])
    first = layer.groups.parts[0].decode(found.codes[:, 0])
    guess = layer.predictors[0](first)
    expected = (guess - teacher)[mask].square().mean()
    torch.testing.assert_close(found.losses["distillation"], expected)
    assert found.weights["distillation"] == 2.0
    found.losses["distillation"].backward()
    assert float(layer.predictors[0].weights[0].grad.norm()) > 0
    assert float(layer.heads[0].weights[0].grad.norm()) > 0
    assert (
        layer.heads[1].weights[0].grad is None or float(layer.heads[1].weights[0].grad.norm()) == 0
    )
    assert "distillation" not in layer(x).losses


def test_a_taught_head_learns_its_teacher():
    x, layer = features(2000, seed=1), started(teachers=[2, None])
    target = torch.stack([x[:, 0] - 1, x[:, 3] - 1], 1)
    before = float(layer(x, teacher=[target, None]).losses["distillation"].detach())
    optimizer = torch.optim.Adam(layer.parameters(), 0.01)
    for _ in range(60):
        found = layer(x, teacher=[target, None])
        optimizer.zero_grad()
        found.losses["distillation"].backward()
        optimizer.step()
    assert float(found.losses["distillation"].detach()) < 0.5 * before


@pytest.mark.parametrize(
    "teacher", [[None], [torch.zeros(6, 4), None], [torch.zeros(6, 3), torch.zeros(6, 3)]], ids=len
)
def test_features_of_another_shape_are_refused(teacher):
    layer = make("factorized", of=VQ, dim=12, heads=2, teachers=[3, None])
    with pytest.raises(ValueError, match="teacher"):
        layer(randn(6, 12), teacher=teacher)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"of": [VQ, {"kind": "fsq", "levels": [3]}]}, "one dimension"),
        ({"teachers": [3]}, "teachers"),
        ({"distance": "l1"}, "distance"),
        ({"distillation": -1.0}, "negative"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(config, message):
    own = {"of": VQ, "dim": 12, **config}
    with pytest.raises(ValueError, match=message):
        make("factorized", **own, **({} if isinstance(own["of"], list) else {"heads": 2}))
    layer = make("factorized", of=[VQ, {"kind": "fsq", "levels": [3]}], dim=12, disentanglement=0)
    assert layer.code_entries == (32, 3)
