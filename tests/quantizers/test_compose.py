"""Quantizers inside others: two lanes of gradients, layouts of codes, losses together; codebooks as operators."""

import pytest
import torch

from vq.codebooks import build
from vq.quantizers import Quantized, make
from vq.quantizers.compose import carry, check_finite, clean, run_part
from vq.quantizers.compound import CodeLayout, build_part, is_there, merge_losses, part_configs
from vq.quantizers.opaque import _decode, _encode

FSQ = {"kind": "fsq", "levels": [5, 4, 3], "bound": 2.0}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "part",
    [
        {"kind": "vq", "codebook": "kmeans(dim=4, entries=8)", "dim": 6},
        {"kind": "vq", "codebook": "kmeans(dim=6, entries=8)", "estimator": "rotation"},
        {"kind": "simvq", "codebook": "simvq(dim=4, entries=8)", "dim": 6},
        {"kind": "ibq", "codebook": "kmeans(dim=6, entries=8)"},
        {"kind": "latent", "dim": 6, "levels": 4},
        {"kind": "lfq", "bits": 5, "dim": 6},
        {"kind": "fixed", "codebook": "dn(dim=4, bits=2)", "dim": 6, "inner": 8},
        {"kind": "residual", "of": {"kind": "latent", "dim": 6, "levels": 4}, "stages": 2},
        {"kind": "grouped", "of": {"kind": "lfq", "bits": 3}, "groups": 2},
        {"kind": "multiscale", "of": {"kind": "latent", "dim": 6, "levels": 4}, "strides": [2, 1]},
        {
            "kind": "factorized",
            "of": {"kind": "lfq", "bits": 3},
            "heads": 2,
            "dim": 6,
            "disentanglement": 0,
        },
    ],
    ids=lambda part: part["kind"],
)
def test_two_lanes_are_the_one_lane_split(part):
    layer = build_part(part)
    layer.start(randn(300, 6))
    layer.eval()
    grads = []
    for lanes in (1, 2):
        x = randn(30, 6, seed=1).requires_grad_()
        other = x if lanes == 1 else x.detach().clone().requires_grad_()
        found = run_part(layer, x, other, None)
        found.loss.backward(retain_graph=True)
        losses = torch.zeros_like(x) if x.grad is None else x.grad.clone()
        x.grad = None
        assert lanes == 1 or other.grad is None
        found.values.square().sum().backward()
        values = other.grad.clone()
        assert lanes == 1 or x.grad is None
        grads.append((found.values.detach(), found.codes, losses, values))
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def test_carry_keeps_bits_and_gives_both_the_gradient():
    x, total = randn(9, 3).requires_grad_(), randn(9, 3, seed=1).requires_grad_()
    values = carry("straight", x, total)
    assert torch.equal(values, total)
    grad = randn(9, 3, seed=2)
    values.backward(grad)
    assert torch.equal(x.grad, grad) and torch.equal(total.grad, grad)


def test_clean():
    x = randn(5, 2)
    x[1, 0], x[2, 1], x[3] = torch.nan, torch.inf, 3e38  # the last: its length overflows
    mask = torch.tensor([True, True, False, True, True])
    full, valid, lost = clean(x, mask)
    assert valid.tolist() == [True, False, False, False, True] and int(lost) == 2
    assert bool((full[~valid] == 0).all()) and torch.equal(full[valid], x[valid])
    with pytest.raises(ValueError, match=r"fsq: x\[\(1, 0\)\] is nan"):
        check_finite("fsq", x, mask)
    check_finite("fsq", x, mask & valid)


def test_layouts_of_codes():
    wide = {"kind": "fixed", "codebook": "scalar(bits=2)", "dim": 3}
    for parts, shape in (([FSQ, FSQ], (2,)), ([wide, wide], (2, 3)), ([FSQ, wide], (4,))):
        built = [build_part(part) for part in parts]
        layout = CodeLayout(built)
        codes = [torch.randint(0, 4, (5, 2, *part.codes_shape)) for part in built]
        joined = layout.join(codes)
        assert layout.shape == shape and joined.shape == (5, 2, *shape)
        assert all(torch.equal(a, b) for a, b in zip(layout.split(joined), codes, strict=True))
        assert part_configs(built) == [{"kind": p["kind"], **build_part(p).config()} for p in parts]


def test_is_there():
    codes = torch.tensor([[-1, -1], [-1, 0], [3, 2]])
    assert is_there(codes, 1).tolist() == [False, True, True]
    assert is_there(codes, 0).tolist() == (codes >= 0).tolist()


def test_losses_are_means_over_all_parts():
    one, zero = torch.tensor(3.0), torch.zeros(2, 1)
    plain = Quantized(zero, zero.long())
    found = [
        Quantized(zero, zero.long(), {"a": one, "b": one}, {"a": 0.5, "b": 1.0}, {"s": one}),
        Quantized(zero, zero.long(), {"a": 2 * one, "b": one}, {"a": 0.5, "b": 2.0}),
    ]
    losses, weights, stats = merge_losses([*found, plain], "stage")
    assert {k: float(v) for k, v in losses.items()} == {"a": 3.0, "b_stage0": 1.0, "b_stage1": 1.0}
    assert weights == {"a": 0.5, "b_stage0": 1.0, "b_stage1": 2.0} and list(stats) == ["s_stage0"]
    whole = Quantized(zero, zero.long(), losses, weights).loss
    torch.testing.assert_close(whole, sum(part.loss for part in found) / 3)


@pytest.mark.parametrize(
    "spec", ["kmeans(dim=4, entries=256)", "product(groups=2, of=scalar(bits=2))"]
)
def test_operators(spec):
    book = build(spec)
    state = [*book.parameters(), *book.buffers()]
    x = randn(7, book.dim)
    codes = _encode(x, state, spec, list(book.codes_shape))
    assert torch.equal(codes, book.encode(x).long())
    assert torch.equal(_decode(codes, state, spec, 0, book.dim), book.decode(codes))
    torch.library.opcheck(_encode, (x, state, spec, list(book.codes_shape)))
    torch.library.opcheck(_decode, (codes, state, spec, 0, book.dim))


def test_codes_of_composed_tables_are_checked_by_their_entries():
    layer = make("fixed", codebook="product(groups=2, of=kmeans(dim=2, entries=13))")
    layer.start(randn(200, 4))
    assert layer.code_entries == (13, 13)
    with pytest.raises(ValueError, match="13"):
        layer.decode(torch.tensor([[0, 13]]))
    assert float(layer(randn(500, 4)).stats["utilization"]) > 0.9
    layer = make("fixed", codebook="additive(stages=2, dim=4, entries=10)")
    assert layer.code_entries == (10, 10)
