from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.discriminators import (
    AudioDiscriminator,
    PatchDiscriminator,
    SpectrumDiscriminator,
    Verdict,
    WaveDiscriminator,
    adaptive_weight,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)

MAKE = {
    "patch": (lambda: PatchDiscriminator(width=8), (4, 3, 24, 16)),
    "spectrum": (lambda: SpectrumDiscriminator(sizes=(64, 128), width=4), (4, 1, 500)),
    "wave": (lambda: WaveDiscriminator(width=4, scales=2, layers=2), (4, 1, 500)),
    "audio": (lambda: AudioDiscriminator(2, sizes=(64,), scales=1), (4, 2, 500)),
}
ALL = pytest.mark.parametrize("name", sorted(MAKE))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, shape = MAKE[name]
    return make(), noise(*shape)


def verdict(*logits: float, features: float = 1.0) -> Verdict:
    tensors = tuple(torch.tensor([v]) for v in logits)
    return Verdict(tensors, tuple((torch.tensor([features]),) for _ in logits))


@ALL
def test_shapes_and_gradients(name):
    net, x = build(name)
    found = net(x)
    assert len(found.logits) == len(found.features)
    assert all(s.shape[:2] == (len(x), 1) for s in found.logits)
    assert all(f.shape[0] == len(x) for part in found.features for f in part)
    (discriminator_loss(net(x), net(x + 1)) + generator_loss(net(x))).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@ALL
def test_items_are_judged_by_themselves_in_both_modes(name):
    net, x = build(name)
    whole = net(x)
    part = net.eval()(x[1:2])
    for a, b in zip(whole.logits, part.logits, strict=True):
        assert_close(a[1:2], b, rtol=1e-4, atol=1e-6)
    assert set(net.state_dict()) == {k for k, _ in net.named_parameters()}


@ALL
def test_it_learns_to_tell_smooth_from_rough(name):
    net, x = build(name)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)

    def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rough = noise(*x.shape, seed=seed)
        smooth = rough.cumsum(-1)
        return smooth / smooth.std(), rough

    for step in range(30):
        real, fake = pair(step)
        optimizer.zero_grad()
        discriminator_loss(net(real), net(fake)).backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = (net(v) for v in pair(1000))
    for a, b in zip(real.logits, fake.logits, strict=True):
        assert a.mean() > b.mean() + 0.5


def test_losses_by_hand():
    real, fake = verdict(2.0, 0.5, features=2.0), verdict(-2.0, 0.25, features=3.0)
    # first pair: 0 + 0; second: 0.5 + 1.25
    assert float(discriminator_loss(real, fake)) == pytest.approx(1.75 / 2)
    assert float(generator_loss(fake)) == pytest.approx((2.0 - 0.25) / 2)
    assert float(feature_matching_loss(real, fake)) == pytest.approx(0.5)
    assert float(feature_matching_loss(real, real)) == 0


def test_feature_matching_moves_the_fake_side_alone():
    real, fake = noise(3).requires_grad_(), noise(3, seed=1).requires_grad_()
    loss = feature_matching_loss(Verdict((), ((real,),)), Verdict((), ((fake,),)))
    loss.backward()
    assert real.grad is None and fake.grad is not None


def test_the_adaptive_weight_is_the_ratio_of_gradients():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    a, b = (weight * torch.tensor([0.0, 6.0])).sum(), 2 * weight.sum()
    found = adaptive_weight(a, b, weight)
    assert float(found) == pytest.approx(6 / (8**0.5 + 1e-4))
    assert not found.requires_grad and weight.grad is None
    assert float(adaptive_weight(a, 0 * b, weight, most=50.0)) == 50
    (a + found * b).backward()  # the graphs are still there


def test_the_adaptive_weight_works_on_a_backbone():
    backbone = make_backbone("conv2d", width=4, seed=0)
    net, x = PatchDiscriminator(width=4, layers=2), noise(2, 3, 16, 16)
    y = backbone(x)
    reconstruction, adversarial = (y - x).abs().mean(), generator_loss(net(y))
    scale = adaptive_weight(reconstruction, adversarial, backbone.last_weight)
    (reconstruction + scale * adversarial).backward()
    assert 0 < float(scale) <= 1e4


def test_a_decoder_learns_to_please_its_judge():
    """Alternate steps on an image that is all texture: the score of the output rises against a fixed judge."""
    torch.manual_seed(0)
    backbone = make_backbone("conv2d", width=8, dim=4, seed=0)
    net, x = PatchDiscriminator(width=8, layers=2), noise(4, 3, 16, 16)
    judge = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(20):
        judge.zero_grad()
        discriminator_loss(net(x), net(backbone(x).detach())).backward()
        judge.step()
    with torch.no_grad():
        before, gap = net(backbone(x)), feature_matching_loss(net(x), net(backbone(x)))
    painter = torch.optim.Adam(backbone.parameters(), 3e-3)
    for _ in range(30):
        painter.zero_grad()
        fake = net(backbone(x))
        (generator_loss(fake) + feature_matching_loss(net(x), fake)).backward()
        painter.step()
    with torch.no_grad():
        after = net(backbone(x))
    assert generator_loss(after) < generator_loss(before) - 0.5
    assert feature_matching_loss(net(x), after) < gap


def test_half_precision():
    net, x = build("spectrum")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(x.bfloat16())
    assert all(torch.isfinite(s).all() for s in found.logits)


@pytest.mark.parametrize("width", [1, 6, 14])
def test_any_width(width):
    assert WaveDiscriminator(width=width, scales=1, layers=2)(noise(1, 1, 50)).logits[0].ndim == 3


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at least 8 pixels"):
        PatchDiscriminator()(noise(1, 3, 4, 9))
    with pytest.raises(ValueError, match=r"\(B, C, T\) of at least 4"):
        WaveDiscriminator()(noise(1, 1, 3))
    with pytest.raises(ValueError, match=r"\(B, C, T\)"):
        SpectrumDiscriminator()(noise(1, 30))
    with pytest.raises(ValueError, match="sizes from 16"):
        SpectrumDiscriminator(sizes=(8,))
    with pytest.raises(ValueError, match="sizes from 16"):
        SpectrumDiscriminator(sizes=())
    with pytest.raises(ValueError, match="layers must be a whole number"):
        PatchDiscriminator(layers=0)
