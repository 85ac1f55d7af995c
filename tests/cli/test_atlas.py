"""Atlas of codes: the right pieces of the right files, in the page, from data and from tokens."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch

from vq.cli.atlas import bounded, decoded, encoded, make_atlas
from vq.cli.main import main
from vq.quantizers import make
from vq.tokenizers.audio import write_audio
from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.codec import TokenizerCodec
from vq.tokenizers.images import write_image
from vq.tokenizers.tokenizer import Tokenizer

K = 16


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A tokenizer of four-pixel positions, and pictures that are dark on the left and bright on the right."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    (folder / "data").mkdir()
    pictures = []
    for i in range(6):
        x = torch.full((3, 32, 48), -0.8)
        x[:, :, 24:] = 0.8
        x += 0.05 * torch.randn(x.shape, generator=generator)
        write_image(folder / "data" / f"{i}.png", x.clamp(-1, 1))
        pictures.append(x)
    backbone = make_backbone("conv2d", factor=4, dim=6, width=8, seed=0)
    tokenizer = Tokenizer(backbone, make("vq", codebook=f"kmeans(dim=6, entries={K})")).eval()
    with torch.no_grad():
        tokenizer.quantizer.start(tokenizer.features(torch.stack(pictures)).reshape(-1, 6))
    tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A tokenizer of sounds at 8 kHz, and sounds of one tone each."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "data").mkdir()
    t = torch.arange(8000) / 8000
    signals = []
    for i, hz in enumerate((300, 1000, 2500)):
        x = 0.5 * torch.sin(2 * torch.pi * hz * t)[None]
        write_audio(folder / "data" / f"{i}.wav", x, 8000)
        signals.append(x)
    backbone = make_backbone("vocos", hop=80, dim=6, width=8, blocks=1, decoder_blocks=1, seed=0)
    quantizer = make(
        "residual", of={"kind": "vq", "codebook": "kmeans(dim=6, entries=8)"}, stages=2
    )
    tokenizer = Tokenizer(backbone, quantizer, 8000).eval()
    with torch.no_grad():
        tokenizer.quantizer.start(tokenizer.features(torch.stack(signals)).reshape(-1, 6))
    tokenizer.save(folder / "tokenizer")
    return folder


def pixels(page: str) -> list[tuple[str, np.ndarray]]:
    """Words and pixels of all pictures of a page."""
    from PIL import Image

    found = []
    for data, words in re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page):
        found.append((words, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))))
    return found


@torch.no_grad()
def test_pieces_are_those_of_the_positions_with_the_code(photos):
    codec = TokenizerCodec(Tokenizer.load(photos / "tokenizer"))
    items = bounded(encoded(codec, str(photos / "data")))
    for item in items:
        assert torch.equal(item.codes, codec.encode(item.signal).codes)
    atlas = make_atlas(items, codec.spec)
    stream = torch.cat([item.codes.flatten() for item in items])
    counts = torch.bincount(stream, minlength=K)
    assert [e.count for e in atlas.entries] == sorted(counts[counts > 0].tolist(), reverse=True)
    assert atlas.positions == len(stream) == 6 * 8 * 12
    entry = atlas.entries[0]
    # nearest first, by brute force
    best, at = None, None
    for item in items:
        z = codec.tokenizer.features(item.signal[None])[0]
        distance = (z - codec.tokenizer.quantizer.decode(item.codes[0])).square().sum(-1)
        distance[item.codes[0] != entry.code] = torch.inf
        if best is None or float(distance.min()) < best:
            best, at = float(distance.min()), (item, divmod(int(distance.argmin()), 12))
    item, (row, column) = at
    whole = np.pad(
        ((item.signal + 1) * 127.5).round().byte().movedim(0, -1).numpy(),
        ((24, 24), (24, 24), (0, 0)),
        "reflect",
    )
    top, left = 24 + 4 * row - 10, 24 + 4 * column - 10
    assert np.array_equal(entry.pieces[0], whole[top : top + 24, left : left + 24])


def test_page_of_a_tokenizer_with_data(photos, capsys):
    page = photos / "page.html"
    tokenizer = str(photos / "tokenizer")
    assert main(["analyze", tokenizer, "--data", str(photos / "data"), "-o", str(page)]) == 0
    text = page.read_text()
    assert len(text) < 2_000_000 and 'href="#atlas"' in text
    shown = pixels(text)
    assert len(shown) >= 2
    for words, picture in shown:
        assert re.match(r"Code \d+, at [\d.]+% of the positions\. \d pieces of pictures", words)
        assert picture.shape == (24, 4 * 24 + 3 * 2, 3)
    assert "use by rank" in text.lower()  # the codes of the data are looked at too
    assert "of 6 files" in text


def test_page_of_a_tokenizer_with_tokens_alone(photos):
    tokenizer, tokens, page = (str(photos / name) for name in ("tokenizer", "tokens", "b.html"))
    assert main(["encode", tokenizer, str(photos / "data"), "-o", tokens]) == 0
    assert main(["analyze", tokenizer, "--codes", tokens, "-o", page, "--quiet"]) == 0
    text = (photos / "b.html").read_text()
    assert "that the decoder makes" in text and len(pixels(text)) >= 2
    codec = TokenizerCodec(Tokenizer.load(photos / "tokenizer"))
    (item, *_) = decoded(codec, tokens)
    assert item.signal.shape == (3, 32, 48) and item.distance is None


def test_spectrograms_of_tones(sounds):
    codec = TokenizerCodec(Tokenizer.load(sounds / "tokenizer"))
    items = bounded(encoded(codec, str(sounds / "data")))
    assert all(torch.equal(i.codes, codec.encode(i.signal).codes) for i in items)
    atlas = make_atlas(items, codec.spec)
    assert "first" in atlas.about and "dark is loud" in atlas.about
    owners = {}
    for number, item in enumerate(items):
        for code in item.codes[0].unique().tolist():
            owners.setdefault(code, set()).add(number)
    pure = [e for e in atlas.entries if len(owners[e.code]) == 1]
    assert pure
    for entry in pure:
        hz = (300, 1000, 2500)[owners[entry.code].pop()]
        found = float(re.search(r"loudest near (\d+) Hz", entry.words)[1])
        assert found == pytest.approx(hz, rel=0.15)
        assert all(piece.shape == entry.pieces[0].shape for piece in entry.pieces)
    page = sounds / "page.html"
    arguments = ["--data", str(sounds / "data"), "-o", str(page), "--quiet"]
    assert main(["analyze", str(sounds / "tokenizer"), *arguments]) == 0
    assert len(pixels(page.read_text())) == len(atlas.entries)


def test_mistakes(photos, tmp_path, capsys):
    np.save(tmp_path / "table.npy", np.zeros((4, 2), "f4"))
    (tmp_path / "empty").mkdir()
    tokenizer = str(photos / "tokenizer")
    for arguments, words in (
        ([str(tmp_path / "table.npy"), "--data", str(photos / "data")], "is no tokenizer"),
        ([tokenizer, "--data", str(tmp_path / "nothing")], "no such file or folder"),
        ([tokenizer, "--data", str(tmp_path / "empty")], "no image files"),
    ):
        assert main(["analyze", *arguments]) == 2
        assert words in capsys.readouterr().err
