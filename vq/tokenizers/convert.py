"""Folders of signals to folders of tokens and back."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from vq.errors import VqError
from vq.tokenizers.atomic import UnreadableFile
from vq.tokenizers.audio import read_audio, write_audio
from vq.tokenizers.baselines import Coded
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.codec import TokenizerCodec
from vq.tokenizers.evaluate import measure
from vq.tokenizers.folder import Kind, list_files, suffixes
from vq.tokenizers.images import read_image, write_image
from vq.tokenizers.recipe import DEFAULTS, read_recipe
from vq.tokenizers.source import inspect
from vq.tokenizers.tokenfile import TokenItem
from vq.tokenizers.tokenreader import TokenReader
from vq.tokenizers.tokenwriter import SHARD_BYTES, TokenWriter

Done = Callable[[int], None]
"""Takes the number of files done."""


def _silent(_count: int) -> None:
    """No progress."""


class Signals:
    """The signals of a folder or of one file, read one at a time in the order of their names.

    Files that cannot be read are passed over; ``skipped`` names them with the reason, once they have been met.

    Args:
        path: folder, searched with its subfolders, or file.
        spec: of the codec: kind, channels and sample rate that are wanted.
        held_out: only the files that ``vq train`` holds out of the folder.

    Attributes:
        files: key (path in the folder, with ``/``) and path of each.
        skipped: what could not be read so far.

    Raises:
        VqError: if there is no such path, or no file of the kind.
    """

    def __init__(self, path: str | Path, spec: CodeSpec, held_out: bool = False) -> None:
        self.spec = spec
        self.files = signal_files(path, spec.kind)
        if held_out and Path(path).is_dir():
            held = inspect(path, read_recipe(DEFAULTS[spec.kind])).held_out
            kept = {item.key for item in held}
            self.files = [pair for pair in self.files if pair[0] in kept]
        self.skipped: list[dict[str, str]] = []

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self.without(())

    def without(
        self, keys: Sequence[str] | Mapping[str, object] | TokenWriter
    ) -> Iterator[tuple[str, Tensor]]:
        """Key and signal ``(channels, *size)`` of the files whose keys are not among some."""
        self.skipped.clear()
        for key, path in self.files:
            if key in keys:
                continue
            try:
                yield key, read_signal(path, self.spec)
            except UnreadableFile as error:
                self.skipped.append({"file": key, "reason": error.reason})


def signal_files(path: str | Path, kind: Kind) -> list[tuple[str, Path]]:
    """Key and path of the images or sounds of a folder, or of one file, sorted by key; hidden ones are left out.

    Raises:
        VqError: if there is no such path, or no file of the kind.
    """
    root = Path(path)
    if root.is_file():
        return [(root.name, root)]
    if not root.exists():
        raise VqError(f"{root}: no such file or folder")
    wanted = suffixes(kind)
    found = [(key, root / key) for key in list_files(root) if Path(key).suffix.lower() in wanted]
    if not found:
        raise VqError(f"{root}: no {kind} files ({' '.join(sorted(wanted))})")
    return found


def read_signal(path: Path, spec: CodeSpec) -> Tensor:
    """One signal ``(channels, *size)`` as the codec wants it.

    Raises:
        UnreadableFile: if it cannot be read.
    """
    if spec.kind == "image":
        return read_image(path, spec.channels)
    return read_audio(path, spec.sample_rate, spec.channels)[0]


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


def write_signal(path: Path, values: Tensor, spec: CodeSpec) -> None:
    """Write a PNG, or a WAV of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if spec.kind == "image":
        write_image(path, values)
    else:
        assert spec.sample_rate is not None
        write_audio(path, values, spec.sample_rate)


def output_names(keys: Sequence[str], kind: str) -> dict[str, str]:
    """File of each key: its suffix becomes ``.png`` or ``.wav``, or that is added where two would be one.

    Raises:
        VqError: for a key that leads out of the folder.
    """
    suffix = ".png" if kind == "image" else ".wav"
    short: dict[str, list[str]] = {}
    for key in keys:
        path = PurePosixPath(key)
        if path.is_absolute() or ".." in path.parts or "\\" in key or not path.name:
            raise VqError(f"tokens of {key!r}: this name leads out of the folder; not written")
        short.setdefault(path.with_suffix(suffix).as_posix(), []).append(key)
    return {
        key: name if len(together) == 1 else key + suffix
        for name, together in short.items()
        for key in together
    }


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
