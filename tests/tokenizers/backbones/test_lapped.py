from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.backbones.lapped import OverlapAdd


def images(count: int, size: int = 24, seed: int = 0) -> torch.Tensor:
    """Smooth ones, -1 to 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, size // 4, size // 4, generator=generator) * 2 - 1
    return functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)


def principal(x: torch.Tensor, patch: int, dim: int) -> torch.Tensor:
    """Each patch from its first principal axes, by a singular value decomposition."""
    rows = functional.unfold(x, patch, stride=patch).movedim(1, 2)
    flat = rows.flatten(0, 1).double()
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:dim]
    kept = ((flat - mean) @ axes.T @ axes + mean).reshape(rows.shape).float()
    return functional.fold(kept.movedim(2, 1), x.shape[2:], patch, stride=patch)


@pytest.mark.parametrize("dim", [3, 12])
def test_it_starts_as_principal_axes(dim):
    x = images(8)
    backbone = make_backbone("lapped", patch=4, dim=dim, width=8, seed=0)
    backbone.start(x)
    with torch.no_grad():
        for branch in (backbone.encoder[1].branches[1], backbone.decoder.branches[1]):
            for parameter in branch[
                -2 if branch is backbone.decoder.branches[1] else -1
            ].parameters():
                parameter.zero_()
        z = backbone.encode(x)
        assert_close(backbone.decode(z), principal(x, 4, dim), atol=1e-4, rtol=0)
    assert_close(z.mean((0, 2, 3)), torch.zeros(dim), atol=1e-4, rtol=0)
    assert_close(z.square().mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    cross = torch.einsum("bihw,bjhw->ij", z, z) / z[:, 0].numel()
    assert_close(cross, torch.diag(torch.diag(cross)), atol=1e-4, rtol=0)
    assert bool((torch.diag(cross).diff() <= 1e-5).all()), "largest variance first"


def test_features_keep_the_distances_of_patches():
    """With every axis kept: a constant factor between distances of features and of pixels."""
    x = images(6)
    backbone = make_backbone("lapped", patch=2, dim=12, width=8, seed=0)
    backbone.start(x)
    with torch.no_grad():
        z = backbone.encoder[1].branches[0](backbone.encoder[0](x)).movedim(1, -1).reshape(-1, 12)
    patches = functional.unfold(x, 2, stride=2).movedim(1, 2).flatten(0, 1)
    ratio = torch.pdist(z[:60]) / torch.pdist(patches[:60])
    assert ratio.std() < 1e-3 * ratio.mean()


def test_starting_is_nearly_what_the_whole_backbone_then_does():
    x = images(8)
    backbone = make_backbone("lapped", patch=4, dim=12, width=16, seed=0)
    backbone.start(x)
    with torch.no_grad():
        error = (backbone(x) - x).square().mean()
        known = (principal(x, 4, 12) - x).square().mean()
    assert error < known + 0.02 * x.var()


def test_more_features_than_pixels_and_constant_images():
    backbone = make_backbone("lapped", patch=2, channels=1, dim=6, width=8, seed=0)
    x = images(4)[:, :1]
    backbone.start(x)
    assert float((backbone(x) - x).detach().square().mean()) < 0.02
    backbone.start(torch.full((2, 1, 8, 8), 0.5))
    assert bool(torch.isfinite(backbone(x)).all())
    assert_close(backbone.decoder.branches[0][0].bias, torch.full((4,), 0.5))


def test_overlapping_patches_are_a_transposed_convolution():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 4, generator=generator)
    weight = torch.randn(5, 3, 8, 8, generator=generator)
    expected = functional.conv_transpose2d(x, weight, stride=4, padding=2)
    patches = functional.conv2d(x, weight.reshape(5, -1).T[:, :, None, None])
    assert_close(OverlapAdd(4)(patches), expected, atol=1e-4, rtol=1e-4)


def test_context_by_hand():
    """Encoder: 2 blocks of 3 taps. Decoder: conv 3, 4 blocks of 3, and patches that reach half a position further."""
    backbone = make_backbone("lapped", patch=4, dim=2, width=4, blocks=2, decoder_blocks=4)
    assert backbone.context == ((2, 2), (2, 2))
    assert backbone.decoder_context == ((6, 6), (6, 6))


def test_constant_images_have_no_border():
    """What lies beyond the border is its nearest position: a constant image has one feature everywhere."""
    backbone = make_backbone("lapped", patch=4, dim=5, width=8, seed=1).double()
    z = backbone.encode(torch.full((1, 3, 24, 28), 0.3, dtype=torch.float64))
    assert_close(z, z[:, :, :1, :1].expand_as(z), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch": 5}, "even patch and an odd kernel, got 5 and 3"),
        ({"kernel": 4}, "even patch and an odd kernel, got 16 and 4"),
        ({"width": 0}, "width must be a whole number"),
        ({"decoder_blocks": 0}, "decoder_blocks must be"),
    ],
)
def test_values_out_of_range(config, message):
    with pytest.raises(ValueError, match=message):
        make_backbone("lapped", **config)
