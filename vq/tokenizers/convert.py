"""Folders of signals to folders of tokens and back."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vq.errors import VqError
from vq.tokenizers.baselines import Coded
from vq.tokenizers.codec import TokenizerCodec
from vq.tokenizers.evaluate import measure
from vq.tokenizers.signals import Signals, output_names, write_signal
from vq.tokenizers.tokenfile import TokenItem
from vq.tokenizers.tokenreader import TokenReader
from vq.tokenizers.tokenwriter import SHARD_BYTES, TokenWriter

Done = Callable[[int], None]
"""Takes the number of files done."""


def _silent(_count: int) -> None:
    """No progress."""


@dataclass(frozen=True)
class Converted:
    """What was done.

    Attributes:
        files: signals encoded or decoded, those of an interrupted run before included.
        skipped: files that could not be read, and why.
        file_bits: of the token folder, every byte.
        nominal_bits: ``log2 K`` for every code.
        units: pixels, or milliseconds of sound.
        quality: means of the measures, where they were taken.
        different: signals that came back other than they were in memory (``roundtrip``).
    """

    files: int
    skipped: Sequence[Mapping[str, str]] = ()
    file_bits: int = 0
    nominal_bits: float = 0.0
    units: float = 0.0
    quality: Mapping[str, float] = field(default_factory=dict)
    different: Sequence[str] = ()


def encode_folder(
    codec: TokenizerCodec,
    source: str | Path,
    target: str | Path,
    *,
    storage: str = "auto",
    shard_bytes: int = SHARD_BYTES,
    restart: bool = False,
    done: Done = _silent,
) -> Converted:
    """Tokens of every signal of a folder.

    Killed at any moment, the same call goes on and leaves the same bytes as one that was not.

    Args:
        codec: the tokenizer.
        source: folder or file.
        target: folder of tokens.
        storage: ``auto``, ``packed`` (the bits of each code and no more) or an integer type.
        shard_bytes: of codes in a shard at most.
        restart: throw away what is in the target.
        done: progress.

    Raises:
        VqError: if nothing can be read, or the target holds something else.
    """
    signals = Signals(source, codec.spec)
    with TokenWriter(Path(target), codec.spec, storage, shard_bytes, restart) as writer:
        for key, x in signals.without(writer):
            coded = codec.encode(x)
            assert coded.codes is not None
            writer.add(key, coded.codes, tuple(x.shape[1:]), coded.gain)
            done(len(writer))
        if not len(writer):
            raise VqError(
                f"{source}: none of {len(signals)} files can be read; first: {_first(signals)}"
            )
    return _counted(Path(target), signals.skipped)


def _first(signals: Signals) -> str:
    return "{file}: {reason}".format(**signals.skipped[0])


def _counted(folder: Path, skipped: Sequence[Mapping[str, str]]) -> Converted:
    size = TokenReader(folder, verify=False).size()
    spec = TokenReader(folder, verify=False).spec
    units = size.units * (1000 if spec.kind == "audio" else 1)
    return Converted(size.items, list(skipped), size.file_bits, size.nominal_bits, units)


def decode_folder(
    codec: TokenizerCodec,
    tokens: str | Path,
    target: str | Path,
    *,
    stages: int | None = None,
    force: bool = False,
    done: Done = _silent,
) -> Converted:
    """Files of every item of a folder of tokens, at their size, length and loudness: PNG, or WAV of 16 bits.

    Args:
        codec: the tokenizer that made the tokens.
        tokens: their folder.
        target: folder for the files; subfolders as they were.
        stages: use the first stages only; None takes all.
        force: decode tokens of another model with the same layout all the same.
        done: progress.

    Raises:
        VqError: for tokens of another model, damaged ones, or a number of stages there is not.
    """
    check_stages(codec, stages)
    reader = TokenReader(tokens, codec.spec.model_hash, force)
    layout = [s.to_dict() | {"model_hash": ""} for s in (reader.spec, codec.spec)]
    if layout[0] != layout[1]:
        raise VqError(
            f"{tokens}: codes of another layout: {reader.spec.difference(codec.spec)}; nothing can decode "
            "them but the model that made them"
        )
    names = output_names(reader.keys(), codec.kind)
    for number, (item, codes) in enumerate(reader, start=1):
        values = restore_item(codec, item, codes, stages)
        write_signal(Path(target) / names[item.key], values, codec.spec)
        done(number)
    return _counted(Path(tokens), ())


def check_stages(codec: TokenizerCodec, stages: int | None) -> None:
    """Raise VqError for a number of stages that the codec has not."""
    most = len(codec.prefix_bits)
    if stages is not None and not 1 <= stages <= most:
        raise VqError(f"stages: expected 1 to {most}, got {stages}")


def restore_item(
    codec: TokenizerCodec, item: TokenItem, codes: Tensor, stages: int | None = None
) -> Tensor:
    """The signal ``(channels, *size)`` of a stored item."""
    return codec.restore(Coded(codes=codes, gain=item.gain), item.size, stages)


def roundtrip(
    codec: TokenizerCodec, source: str | Path, *, storage: str = "packed", done: Done = _silent
) -> Converted:
    """Encode to a token file, read it again, decode, and compare with what the model makes in memory, bit for bit.

    Raises:
        VqError: if nothing can be read.
    """
    rows: list[dict[str, float]] = []
    different = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tokens"
        encoded = encode_folder(codec, source, folder, storage=storage)
        reader = TokenReader(folder, codec.spec.model_hash)
        for key, x in Signals(source, codec.spec):
            memory = codec.restore(codec.encode(x), x.shape[1:])
            again = restore_item(codec, reader.item(key), reader.codes(key))
            if memory.shape != x.shape or not torch.equal(memory, again):
                different.append(key)
            rows.append(measure(codec.kind, again, x, codec.spec.sample_rate))
            done(len(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    quality = {n: _mean([row[n] for row in rows if n in row]) for n in names}
    return Converted(
        encoded.files,
        encoded.skipped,
        encoded.file_bits,
        encoded.nominal_bits,
        encoded.units,
        quality,
        different,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
