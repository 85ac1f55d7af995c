"""However a signal is cut, it has the same features and tokens."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.backbones.base import Backbone
from vq.tokenizers.streams import DecodeStream, EncodeStream
from vq.tokenizers.windows import (
    decode_long,
    default_window,
    encode_long,
    pad_to_grain,
    spans,
)

AUDIO = {
    "seanet": {"strides": [2, 3], "dim": 6, "width": 4},
    "seanet-causal": {"strides": [2, 3], "dim": 6, "width": 4, "causal": True},
    "vocos": {"hop": 6, "dim": 6, "width": 8, "blocks": 1, "decoder_blocks": 1},
    "vocos-causal": {"hop": 6, "dim": 6, "width": 8, "blocks": 1, "causal": True},
}
IMAGE = {
    "conv2d": {"factor": 4, "dim": 6, "width": 8},
    "vit": {"patch": 2, "tile": 4, "dim": 6, "width": 8, "layers": 1, "heads": 2},
}
STREAMED = pytest.mark.parametrize("case", sorted(AUDIO))
ALL = pytest.mark.parametrize("case", sorted(AUDIO | IMAGE))


def build(case: str) -> Backbone:
    return make_backbone(case.split("-", maxsplit=1)[0], seed=0, **(AUDIO | IMAGE)[case]).eval()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def nearest(features: torch.Tensor) -> torch.Tensor:
    """A quantizer: nearest of 500 random vectors, ``(1, dim, *positions)`` to ``(1, 1, *positions)``."""
    table = 0.1 * noise(500, features.shape[1], seed=9)
    points = features.movedim(1, -1).flatten(0, -2)
    return torch.cdist(points, table).argmin(-1).reshape(1, 1, *features.shape[2:])


def least_window(context, tile, extra: int) -> list[int]:
    """So many positions more than the context, in whole tiles."""
    return [-(-(b + a + extra) // t) * t for (b, a), t in zip(context, tile, strict=True)]


@pytest.mark.parametrize("total", [1, 5, 10, 11, 14, 15, 37, 100])
@pytest.mark.parametrize(
    ("window", "before", "after"), [(10, 3, 2), (10, 0, 0), (6, 3, 2), (9, 5, 0)]
)
def test_spans_cover_once_with_context(total, window, before, after):
    found = spans(total, window, before, after)
    kept = [i for s in found for i in range(s.first, s.last)]
    assert kept == list(range(total))
    for s in found:
        assert s.stop - s.start == min(window, total) and 0 <= s.start and s.stop <= total
        assert s.start <= max(s.first - before, 0) and s.stop >= min(s.last + after, total)


def test_spans_by_hand():
    found = [(s.start, s.stop, s.first, s.last) for s in spans(14, 6, 1, 1)]
    assert found == [(0, 6, 0, 5), (4, 10, 5, 9), (8, 14, 9, 13), (8, 14, 13, 14)]


def test_spans_refuse_what_cannot_be():
    with pytest.raises(ValueError, match=r"more than 3 \+ 2 positions"):
        spans(10, 5, 3, 2)
    with pytest.raises(ValueError, match="at least one position"):
        spans(0, 5, 1, 1)


@ALL
def test_windows_agree_with_the_whole(case):
    """Up to rounding, for features and for samples; context one shorter than it is would show here."""
    backbone = build(case)
    axes = len(backbone.hop)
    counts = [68 if axes == 1 else 24, 12][:axes]
    x = noise(1, backbone.channels, *(n * h for n, h in zip(counts, backbone.hop, strict=False)))
    with torch.no_grad():
        z = backbone.encode(x)
        y = backbone.decode(z)
    for extra in (1, 5):
        window = least_window(backbone.context, backbone.tile, extra)
        assert_close(encode_long(backbone, x, window), z, rtol=1e-4, atol=1e-6)
        window = least_window(backbone.decoder_context, backbone.tile, extra)
        assert_close(decode_long(backbone, z, window), y, rtol=1e-4, atol=1e-6)
    assert_close(encode_long(backbone, x), z, rtol=1e-4, atol=1e-6)
    assert_close(decode_long(backbone, z), y, rtol=1e-4, atol=1e-6)


@ALL
def test_an_item_does_not_see_its_batch(case):
    backbone = build(case)
    x = noise(
        3, backbone.channels, *(88 * h for h in backbone.hop[:1]), *(24 for _ in backbone.hop[1:])
    )
    whole = encode_long(backbone, x, then=nearest)
    for i in range(3):
        assert torch.equal(encode_long(backbone, x[i : i + 1], then=nearest), whole[i : i + 1])
    wide = torch.stack([x, x], -1)[..., 0]  # other strides
    assert torch.equal(encode_long(backbone, wide, then=nearest), whole)


def stream_all(stream, x: torch.Tensor, size: int) -> torch.Tensor:
    parts = [stream.push(x[..., i : i + size]) for i in range(0, x.shape[-1], size)]
    parts.append(stream.finish())
    return torch.cat([part for part in parts if part is not None], -1)


@STREAMED
@pytest.mark.parametrize("length", [1, 6, 130, 475])
@pytest.mark.parametrize("mode", ["reflect", "zero"])
def test_any_pieces_give_the_features_of_the_whole(case, length, mode):
    backbone = build(case)
    x = noise(2, 1, length)
    padded = pad_to_grain(x, backbone.grain, mode)
    for window in ([sum(backbone.context[0]) + 1], [40], None):
        features = encode_long(backbone, padded, window)
        codes = encode_long(backbone, padded, window, nearest)
        assert features.shape[-1] == codes.shape[-1] == -(-length // 6)
        for size in (5, 6, 97, 10_000) if length > 6 else (1, 10):
            stream = EncodeStream(backbone, window, mode=mode)
            assert torch.equal(stream_all(stream, x, size), features), (window, size)
            stream = EncodeStream(backbone, window, nearest, mode)
            assert torch.equal(stream_all(stream, x, size), codes)


@STREAMED
def test_decoding_in_pieces_gives_the_samples_of_the_whole(case):
    backbone = build(case)
    table = noise(32, backbone.dim)
    codes = torch.randint(32, (2, 1, 83), generator=torch.Generator().manual_seed(0))

    def look_up(part: torch.Tensor) -> torch.Tensor:
        return table[part[:, 0]].movedim(-1, 1)

    for window in ([sum(backbone.decoder_context[0]) + 2], [44], None):
        whole = decode_long(backbone, codes, window, look_up)
        with torch.no_grad():
            assert_close(whole, backbone.decode(look_up(codes)), rtol=1e-4, atol=1e-6)
        for size in (3, 83):
            assert torch.equal(
                stream_all(DecodeStream(backbone, window, look_up), codes, size), whole
            )


@STREAMED
def test_codes_come_as_soon_as_their_window_is_full(case):
    backbone = build(case)
    before, after = backbone.context[0]
    window = before + after + 1
    stream = EncodeStream(backbone, [window])
    ready = []
    for _ in range(window + 3):
        part = stream.push(noise(1, 1, 6))
        ready.append(0 if part is None else part.shape[-1])
    assert ready == [0] * (window - 1) + [window - after, 1, 1, 1]


def test_a_long_stream_holds_one_window():
    backbone = build("seanet")
    stream = EncodeStream(backbone, [40])
    for _ in range(50):
        stream.push(noise(1, 1, 100))
        assert stream._held.untyped_storage().nbytes() <= 4 * 41 * 6


def test_codes_do_not_feel_their_position_in_the_caller():
    """Shifting a signal by whole steps of the window shifts its codes, bit for bit."""
    backbone = build("seanet")
    before, after = backbone.context[0]
    step = 40 - before - after
    x = noise(1, 1, 6 * (40 + 6 * step))
    features = encode_long(backbone, x, [40])
    later = encode_long(backbone, x[..., 6 * step :], [40])
    assert torch.equal(features[..., step + before :], later[..., before:])


def test_streams_refuse_misuse():
    stream = EncodeStream(build("seanet"))
    with pytest.raises(ValueError, match=r"pieces \(2, 3, n\)|expected signals"):
        EncodeStream(build("seanet"), [20]).push(noise(2, 3, 6 * 30))
    stream.push(noise(2, 1, 5))
    with pytest.raises(ValueError, match=r"pieces \(2, 1, n\)"):
        stream.push(noise(1, 1, 5))
    stream.finish()
    for action in (stream.finish, lambda: stream.push(noise(2, 1, 5))):
        with pytest.raises(ValueError, match="finished"):
            action()
    assert EncodeStream(build("seanet")).finish() is None
    with pytest.raises(ValueError, match="one axis"):
        EncodeStream(build("conv2d"))
    with pytest.raises(ValueError, match="of context"):
        EncodeStream(build("seanet"), [3])
    with pytest.raises(ValueError, match="mode must be"):
        EncodeStream(build("seanet"), mode="edge")


@pytest.mark.parametrize("mode", ["reflect", "zero"])
def test_padding_by_hand(mode):
    x = torch.arange(1.0, 6).reshape(1, 1, 5)
    found = pad_to_grain(x, [4], mode).flatten().tolist()
    assert found == [1, 2, 3, 4, 5, *([4, 3, 2] if mode == "reflect" else [0, 0, 0])]
    assert pad_to_grain(x[..., :4], [4], mode).equal(x[..., :4])
    short = pad_to_grain(x[..., :2], [8], "reflect").flatten().tolist()
    assert short == [1, 2, 1, 2, 1, 2, 1, 2]
    image = pad_to_grain(noise(2, 3, 5, 7), [4, 4], mode)
    assert image.shape == (2, 3, 8, 8) and image[..., :5, :7].equal(noise(2, 3, 5, 7))


def test_wrong_arguments():
    audio, image = build("seanet"), build("conv2d")
    with pytest.raises(ValueError, match="none empty"):
        pad_to_grain(noise(1, 1, 0), [4])
    with pytest.raises(ValueError, match="mode must be one of"):
        pad_to_grain(noise(1, 1, 3), [4], "edge")
    with pytest.raises(ValueError, match="multiples of"):
        encode_long(audio, noise(1, 1, 7))
    with pytest.raises(ValueError, match="expected 2 sizes in positions"):
        encode_long(image, noise(1, 3, 8, 8), [20])
    with pytest.raises(ValueError, match=r"expected \(B, dim or Q"):
        decode_long(audio, noise(1, 6, 7, 8))
    with pytest.raises(ValueError, match="at least one signal"):
        encode_long(audio, noise(0, 1, 6))
    assert default_window(((4, 4), (0, 0)), (1, 48)) == (64, 96)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seanet", "vocos"])
@pytest.mark.parametrize("causal", [False, True])
def test_default_sizes(name, causal):
    """Ten seconds at 16 kHz through the default networks, in pieces of 100 ms and of 2.345 s."""
    backbone = make_backbone(name, seed=0, causal=causal).eval()
    x = 0.1 * noise(1, 1, 160_001)
    padded = pad_to_grain(x, backbone.grain)
    features = encode_long(backbone, padded)
    middle, spread = features.mean((0, 2), keepdim=True), features.std()

    def then(part: torch.Tensor) -> torch.Tensor:
        return nearest(0.1 * (part - middle) / spread)

    whole = encode_long(backbone, padded, then=then)
    with torch.no_grad():
        assert_close(features, backbone.encode(padded), rtol=1e-3, atol=1e-5)
    for size in (1600, 37_520):
        assert torch.equal(stream_all(EncodeStream(backbone, then=then), x, size), whole)
        assert torch.equal(stream_all(EncodeStream(backbone), x, size), features)
    assert len(whole.unique()) > 50


@pytest.mark.slow
def test_default_image_tiles():
    """An image of some megapixels, whole against tiles, and each quarter's inside as in the whole."""
    backbone = make_backbone("conv2d", seed=0).eval()
    x = noise(1, 3, 512, 768)
    whole = encode_long(backbone, x)
    with torch.no_grad():
        assert_close(whole, backbone.encode(x), rtol=1e-3, atol=1e-5)
        assert_close(decode_long(backbone, whole), backbone.decode(whole), rtol=1e-3, atol=1e-5)
    part = encode_long(backbone, x[..., :384])
    assert_close(part[..., :-4], whole[..., :92], rtol=1e-3, atol=1e-5)
