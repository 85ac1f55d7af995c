import io

import numpy as np
import pytest
import torch
from PIL import Image

from vq.tokenizers.baselines import Blocks, Coded, Jpeg, principal_axes, to_bytes


def picture(height=45, width=52, channels=3, seed=0):
    """Smooth waves and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    phase = torch.rand(channels, 1, 1, generator=generator) * 6
    waves = torch.sin(x / 7 + phase) * torch.cos(y / 5 - phase)
    return (0.7 * waves + 0.05 * torch.randn(channels, height, width, generator=generator)).clamp(
        -1, 1
    )


def hum(samples, seed=0, channels=1):
    """Noise through a resonance: what neighbouring samples share can be learned."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(channels, samples + 64, generator=generator)
    taps = (torch.arange(65) * 0.5).cos() * (-torch.arange(65) / 12).exp()
    found = torch.nn.functional.conv1d(noise[:, None], taps.flip(0)[None, None])[:, 0]
    return 0.1 * found


def mse(a, b):
    return float((a - b).square().mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_bytes_are_a_file_others_read(channels):
    x = picture(channels=channels)
    coded = Jpeg(90).encode(x)
    image = Image.open(io.BytesIO(coded.data))
    assert image.format == "JPEG" and image.size == (52, 45)
    levels = np.asarray(image).astype(np.float64).reshape(45, 52, channels)
    expected = torch.from_numpy(levels / 127.5 - 1).permute(2, 0, 1).float()
    torch.testing.assert_close(Jpeg(90).restore(coded, (45, 52)), expected)
    assert mse(expected, x) < 0.01


def test_jpeg_spends_more_bytes_for_less_error():
    x = picture()
    coded = [Jpeg(q).encode(x) for q in (5, 30, 90)]
    sizes = [len(c.data) for c in coded]
    errors = [mse(Jpeg().restore(c, (45, 52)), x) for c in coded]
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    sharp = len(Jpeg(90, chroma=True).encode(x).data)
    assert sharp > sizes[-1]


@pytest.mark.parametrize("quality", [0, 96, 50.0])
def test_jpeg_quality_is_checked(quality):
    with pytest.raises(ValueError, match="quality must be a whole number from 1 to 95"):
        Jpeg(quality)


def test_pixels_to_bytes():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5, 1 / 127.5 - 1])
    assert to_bytes(x).tolist() == [0, 0, 128, 255, 255, 1]


def test_principal_axes_against_svd():
    x = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 5, 2, 9, 0.1, 3]
    )
    x = x - x.mean(0)
    axes = principal_axes(x, 3)
    expected = torch.linalg.svd(x.double()).Vh[:3].float()
    torch.testing.assert_close((axes * expected).sum(1).abs(), torch.ones(3))
    assert bool((axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all())


@pytest.mark.parametrize(
    ("kind", "x", "hop"), [("image", picture(), (4, 6)), ("audio", hum(333), (16,))]
)
def test_cutting_and_joining_are_inverse(kind, x, hop):
    dim = x.shape[0] * int(np.prod(hop))
    blocks = Blocks(kind, x.shape[0], hop, f"kmeans(dim={dim}, entries=4)")
    cut = blocks._cut(x)
    assert cut.shape == (*(-(-n // h) for n, h in zip(x.shape[1:], hop, strict=True)), dim)
    torch.testing.assert_close(blocks._join(cut, x.shape[1:]), x, rtol=0, atol=0)
    first = x[(slice(None), *(slice(0, h) for h in hop))].flatten()
    torch.testing.assert_close(cut[(0,) * len(hop)], first, rtol=0, atol=0)


def test_one_stage_is_the_nearest_centre_by_brute_force():
    train, held = [picture(seed=s) for s in range(4)], picture(seed=9)
    blocks = Blocks("image", 3, (4, 4), "kmeans(dim=6, entries=32)").fit(train)
    assert blocks.spec.entries == (32,) and blocks.prefix_bits == (5.0,)
    codes = blocks.encode(held).codes
    assert codes.shape == (1, 12, 13) and codes.dtype == torch.int64
    patch = held[:, 4:8, 8:12].flatten()
    features = blocks.axes @ (patch - blocks.mean)
    distance = (blocks.codebook.table - features).square().sum(1)
    assert int(codes[0, 1, 2]) == int(distance.argmin())
    value = blocks.axes.T @ blocks.codebook.table[distance.argmin()] + blocks.mean
    out = blocks.restore(Coded(codes=codes), (45, 52))
    torch.testing.assert_close(out[:, 4:8, 8:12], value.reshape(3, 4, 4), rtol=1e-4, atol=1e-5)
    assert mse(out, held) < 0.35 * float(held.var())


def test_brightness_changes_nothing_but_the_mean():
    train, held = [picture(seed=s) for s in range(3)], picture(seed=9)
    spec = "kmeans(dim=6, entries=32)"
    plain = Blocks("image", 3, (4, 4), spec).fit(train)
    bright = Blocks("image", 3, (4, 4), spec).fit([0.2 * x + 0.7 for x in train])
    errors = [
        mse(blocks.restore(blocks.encode(x), (45, 52)), x)
        for blocks, x in ((plain, 0.0 + held), (bright, 0.2 * held + 0.7))
    ]
    assert errors[1] / 0.2**2 == pytest.approx(errors[0], rel=0.05)


def test_every_stage_lowers_the_error_on_held_out_sound():
    spec = "residual(stages=4, of=kmeans(dim=8, entries=32), beam=1)"
    blocks = Blocks("audio", 1, (8,), spec, sample_rate=16000).fit([hum(40000)])
    held = hum(8001, seed=1)
    coded = blocks.encode(held)
    assert coded.codes.shape == (4, 1001) and blocks.spec.entries == (32,) * 4
    assert blocks.prefix_bits == (5, 10, 15, 20) and blocks.spec.bitrate == 40.0
    errors = [mse(blocks.restore(coded, (8001,), n), held) for n in (1, 2, 3, 4)]
    assert all(b < 0.7 * a for a, b in zip(errors, errors[1:], strict=False))
    full = blocks.restore(coded, (8001,))
    torch.testing.assert_close(full, blocks.restore(coded, (8001,), 4), rtol=0, atol=0)
    cut = blocks.restore(Coded(codes=coded.codes[:2]), (8001,), 2)
    torch.testing.assert_close(cut, blocks.restore(coded, (8001,), 2), rtol=0, atol=0)


def test_fitting_is_repeatable_and_can_use_a_part():
    spec = "kmeans(dim=8, entries=16)"
    tables = [
        Blocks("audio", 1, (8,), spec).fit([hum(9000)], most=300).codebook.table for _ in range(2)
    ]
    torch.testing.assert_close(*tables, rtol=0, atol=0)
    other = torch.Generator().manual_seed(5)
    assert not torch.equal(
        tables[0], Blocks("audio", 1, (8,), spec).fit([hum(9000)], 300, other).codebook.table
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("video", 3, (4, 4), "kmeans(dim=4, entries=4)"), "2 sizes of a block or audio with 1"),
        (("audio", 1, (4, 4), "kmeans(dim=4, entries=4)"), "2 sizes of a block or audio with 1"),
        (
            ("audio", 1, (8,), "kmeans(dim=9, entries=4)"),
            "8 values, fewer than the codebook's dim 9",
        ),
    ],
)
def test_wrong_blocks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Blocks(*arguments)


def test_wrong_signals_are_refused():
    blocks = Blocks("image", 3, (4, 4), "kmeans(dim=4, entries=4)")
    with pytest.raises(ValueError, match=r"expected \(3, \*2 sizes\), got \(1, 45, 52\)"):
        blocks.encode(picture(channels=1))
