"""Of a tokenizer and files or tokens: the places where its most used codes stand, as pictures for the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vq.analysis.page.atlas import Atlas, AtlasEntry
from vq.analysis.subject import Chunk, Codes, Subject
from vq.errors import VqError

if TYPE_CHECKING:
    from vq.tokenizers.code_spec import CodeSpec
    from vq.tokenizers.codec import TokenizerCodec

MOST_ITEMS, MOST_NUMBERS = 256, 1 << 25
_CODES, _PIECES = 32, 4
_MELS, _FRAMES = 40, 48


@dataclass(frozen=True, eq=False)
class Seen:
    """One item with its codes.

    Attributes:
        signal: ``(channels, *size)``, from -1 to 1.
        codes: ``(Q, *positions)``.
        distance: squared distance of each position's features from their (first) code vector ``(*positions)``; None
            where only codes are known.
    """

    signal: Tensor
    codes: Tensor
    distance: Tensor | None


def bounded(items: Iterable[Seen], done: Callable[[int], None] | None = None) -> list[Seen]:
    """The first items, as many as fit into memory and patience."""
    kept: list[Seen] = []
    numbers = 0
    for item in items:
        numbers += item.signal.numel()
        if kept and numbers > MOST_NUMBERS:
            break
        kept.append(item)
        if done is not None:
            done(len(kept))
        if len(kept) == MOST_ITEMS:
            break
    return kept


@torch.no_grad()
def encoded(codec: TokenizerCodec, folder: str) -> Iterator[Seen]:
    """Files of a folder through encoder and quantizer.

    Raises:
        VqError: if there is no file of the tokenizer's kind.
    """
    from vq.tokenizers.audio import normalise_loudness
    from vq.tokenizers.signals import Signals
    from vq.tokenizers.windows import encode_long, pad_to_grain

    tokenizer = codec.tokenizer
    quantizer, backbone = tokenizer.quantizer, tokenizer.backbone
    assert quantizer is not None
    first = 1 if quantizer.stages > 1 else None
    for _, signal in Signals(folder, codec.spec):
        x = normalise_loudness(signal)[0] if codec.spec.normalisation == "loudness" else signal
        z = encode_long(backbone, pad_to_grain(x[None], backbone.grain)).movedim(1, -1)
        codes = quantizer.encode(z)
        distance = (z - quantizer.decode(codes, first)).square().sum(-1)[0]
        flat = codes.reshape(*distance.shape, -1).movedim(-1, 0)
        yield Seen(signal, flat, distance)


@torch.no_grad()
def decoded(codec: TokenizerCodec, folder: str) -> Iterator[Seen]:
    """Items of a folder of tokens through the decoder.

    Raises:
        VqError: for tokens of another model.
    """
    from vq.tokenizers.tokenreader import TokenReader

    for item, codes in TokenReader(folder, codec.spec.model_hash):
        signal = codec.tokenizer.decode(codes[None], None, tuple(item.size))[0]
        yield Seen(signal.clamp(-1, 1), codes, None)


def codes_of(items: list[Seen], entries: tuple[int, ...]) -> Codes:
    """Streams of the codes of items."""
    names = tuple(f"code {q}" for q in range(len(entries))) if len(entries) > 1 else ()

    def read() -> Iterator[Chunk]:
        for item in items:
            yield Chunk(item.codes.flatten(1).numpy(), np.zeros(1, np.int64))

    positions = sum(item.codes[0].numel() for item in items)
    return Codes(entries, read, positions, len(items), names)


def make_atlas(items: list[Seen], spec: CodeSpec) -> Atlas:
    """The most used values of the first code with the places nearest to their entries (evenly spread without data)."""
    stream = torch.cat([item.codes[0].flatten() for item in items])
    used, counts = stream.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:_CODES]
    draw = _patches if spec.kind == "image" else _spectrograms
    entries = []
    for code, count in zip(used[order].tolist(), counts[order].tolist(), strict=True):
        pieces, words = draw(_places(items, code), spec)
        entries.append(AtlasEntry(code, count, pieces, words))
    source = items[0].distance is not None
    what = "pieces of pictures" if spec.kind == "image" else "spectrograms"
    about = (
        f"{what.capitalize()} where a code stands in the middle, those nearest to its entry first. "
        if source
        else f"{what.capitalize()} that the decoder makes where a code stands in the middle. "
    )
    if spec.kind == "audio":
        about += "The first of each row is the mean over all its places; dark is loud, low tones are below. "
    if len(spec.entries) > 1:
        about += f"Of {len(spec.entries)} codes of a position, the first. "
    return Atlas(tuple(entries), len(stream), len(used), about.strip())


@dataclass(frozen=True, eq=False)
class _Place:
    item: Seen
    at: tuple[int, ...]
    distance: float


def _places(items: list[Seen], code: int) -> list[_Place]:
    """All places of a code, the nearest first; evenly spread ones first where no distance is known."""
    found = []
    for item in items:
        for at in (item.codes[0] == code).nonzero().tolist():
            near = 0.0 if item.distance is None else float(item.distance[tuple(at)])
            found.append(_Place(item, tuple(at), near))
    if items[0].distance is None:
        step = max(len(found) // _PIECES, 1)
        return [place for i in range(step) for place in found[i::step]]
    return sorted(found, key=lambda place: place.distance)


def _cut(place: _Place, hop: tuple[int, ...], width: tuple[int, ...]) -> Tensor:
    """The signal around a place ``(channels, *width)``; beyond the border it is mirrored."""
    found = place.item.signal
    for axis, (at, step, size) in enumerate(zip(place.at, hop, width, strict=True), start=1):
        start = at * step + (step - size) // 2
        last = found.shape[axis] - 1
        index = (last - (last - torch.arange(start, start + size).abs()).abs()).clamp(0, last)
        found = found.index_select(axis, index)
    return found


def _patches(places: list[_Place], spec: CodeSpec) -> tuple[tuple[np.ndarray, ...], str]:
    """Pieces of pictures three positions wide, and their colour and contrast in words."""
    width = tuple(min(max(3 * hop, 24), 64) for hop in spec.hop)
    pieces = []
    for place in places[:_PIECES]:
        part = _cut(place, spec.hop, width)
        part = part[:3] if len(part) >= 3 else part[:1].expand(3, -1, -1)
        bytes_ = ((part + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pieces.append(bytes_.movedim(0, -1).contiguous().numpy())
    shown = np.stack(pieces).astype(np.float64)
    red, green, blue = shown.mean((0, 1, 2))
    words = f"{len(pieces)} pieces of pictures, {width[1]} by {width[0]} pixels each, on average red {red:.0f}, "
    words += f"green {green:.0f}, blue {blue:.0f} of 255, contrast {shown.std((1, 2)).mean() / 2.55:.0f} %."
    return _filled(pieces), words


def _filled(pieces: list[np.ndarray], most: int = _PIECES) -> tuple[np.ndarray, ...]:
    """Rows of one width: white where there are fewer pieces."""
    blank = np.full_like(pieces[0], 255)
    return (*pieces, *[blank] * (most - len(pieces)))


def _spectrograms(places: list[_Place], spec: CodeSpec) -> tuple[tuple[np.ndarray, ...], str]:
    """Mean spectrogram of up to 256 places and those of the nearest, and where it is loudest in words."""
    assert spec.sample_rate is not None
    length = max(5 * spec.hop[0], round(0.12 * spec.sample_rate))
    size = 1 << max(math.ceil(math.log2(0.02 * spec.sample_rate)), 5)
    some = places[:: max(len(places) // 256, 1)][:256]
    near = [_cut(place, spec.hop, (length,)).mean(0) for place in places[: _PIECES - 1]]
    every = torch.stack([*near, *(_cut(place, spec.hop, (length,)).mean(0) for place in some)])
    levels, centres = _mel(every, spec.sample_rate, size)
    mean = levels[len(near) :].mean(0)
    top = float(levels.max())
    pictures = [_grey(x, top) for x in (mean, *levels[: len(near)])]
    row = int(mean.mean(1).argmax())
    rising = float(mean[:, mean.shape[1] // 2 :].mean() - mean[:, : mean.shape[1] // 2].mean())
    course = "rising" if rising > 2 else "falling" if rising < -2 else "steady"
    words = f"Mean spectrogram of {len(some)} places of {1000 * length / spec.sample_rate:.0f} ms and those of "
    words += f"{len(near)} places; loudest near {centres[row]:.0f} Hz, {course}."
    return _filled(pictures), words


def _mel(x: Tensor, sample_rate: int, size: int) -> tuple[Tensor, list[float]]:
    """Levels ``(n, mels, frames)`` in dB and the middle of each band in Hz."""
    from vq.tokenizers.spectra import hz_to_mel, mel_spectrum, mel_to_hz

    mels = _MELS
    while True:
        try:
            power = mel_spectrum(x, sample_rate, size, mels, max(x.shape[-1] // _FRAMES, 1), 1e-5)
            break
        except ValueError:  # a band narrower than a line of the spectrum
            mels //= 2
    top = hz_to_mel(torch.tensor(sample_rate / 2, dtype=torch.float64))
    centres = mel_to_hz(torch.linspace(0, 1, mels + 2, dtype=torch.float64) * top)[1:-1]
    return 20 * power.log10(), centres.tolist()


def _grey(levels: Tensor, top: float) -> np.ndarray:
    """Bytes of 60 dB below the top, dark is loud, low tones at the bottom."""
    part = ((levels - top + 60) / 60).clamp(0, 1).flip(0)
    return (255 - 255 * part).round().to(torch.uint8).numpy()


def look(
    subject: Subject,
    data: str | None,
    tokens: str | None,
    done: Callable[[int], None] | None = None,
) -> tuple[Subject, Atlas | None]:
    """The subject, with the codes of the data where it has none, and the atlas.

    Args:
        subject: a tokenizer, or the run of one.
        data: folder of pictures or sounds; None for none.
        tokens: folder of its tokens, which are decoded where there are no data.
        done: hears how many items are done.

    Raises:
        VqError: for data without a tokenizer, or files and tokens that it cannot take.
    """
    from vq.tokenizers.codec import TokenizerCodec, find_tokenizer, open_tokenizer

    path = None if subject.path is None else find_tokenizer(subject.path)
    shards = tokens is not None and (Path(tokens) / "index.json").is_file()
    if data is None and (path is None or not shards):
        return subject, None
    if path is None:
        raise VqError(
            f"--data {data}: {subject.name} is no tokenizer that could encode it; give the folder of a `vq train` run, "
            "or --vectors for a codebook"
        )
    try:
        codec = TokenizerCodec(open_tokenizer(path))
    except ValueError as error:
        raise VqError(f"{path}: {error}") from error
    if data is None:
        assert tokens is not None
        items = bounded(decoded(codec, tokens), done)
        return subject, make_atlas(items, codec.spec) if items else None
    items = bounded(encoded(codec, data), done)
    if not items:
        raise VqError(f"--data {data}: none of its files can be read")
    if subject.codes is None:
        facts = {**subject.facts, "codes": f"of {len(items)} files of {data}"}
        subject = replace(subject, codes=codes_of(items, codec.spec.entries), facts=facts)
    return subject, make_atlas(items, codec.spec)
