"""What the codes of a tokenizer mean: the description that travels with every token file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from vq.errors import VqError

CODE_SPEC_VERSION = 1
AXES = {"image": 2, "audio": 1}
NORMALISATIONS = ("none", "loudness")
MAX_ENTRIES = 2**62  # what the bit packer can hold


@dataclass(frozen=True)
class CodeSpec:
    """Description of ``codes[B, Q, *spatial]``: int64, Q codes at each position.

    Attributes:
        kind: "image" (spatial is height, width) or "audio" (spatial is time).
        entries: how many values each of the Q codes can take.
        strides: for each of the Q codes, along how many positions of the last axis it stays the same; 1 normally. A
            code of stride s is stored once per s positions (multi-scale residual quantization: SNAC, arXiv 2410.14411).
        hop: input samples, or pixels, of one position along each axis.
        channels: of the input: 1 or 3 for images, 1 or 2 for audio.
        sample_rate: of audio in Hz; None for images.
        normalisation: "none", or "loudness": audio is brought to one loudness and the gain is stored with the item.
        model_hash: of the tokenizer's weights; only the model with this hash can decode the codes.
        version: of this description.
    """

    kind: Literal["image", "audio"]
    entries: tuple[int, ...]
    strides: tuple[int, ...]
    hop: tuple[int, ...]
    channels: int
    sample_rate: int | None
    normalisation: str
    model_hash: str
    version: int = CODE_SPEC_VERSION

    def __post_init__(self) -> None:
        for name in ("entries", "strides", "hop"):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name)))
        _check(self)

    @property
    def codes_per_position(self) -> int:
        """Q."""
        return len(self.entries)

    @property
    def code_bits(self) -> tuple[int, ...]:
        """Whole bits that each code takes when packed: ``ceil(log2(entries))``."""
        return tuple((entries - 1).bit_length() for entries in self.entries)

    @property
    def bits_per_position(self) -> float:
        """Bits of information in the codes of one position, ``sum(log2(entries) / stride)``: the nominal rate."""
        pairs = zip(self.entries, self.strides, strict=True)
        return sum(math.log2(entries) / stride for entries, stride in pairs)

    @property
    def bitrate(self) -> float:
        """Nominal rate: kbit/s of audio, bits per pixel of images."""
        if self.sample_rate is None:
            return self.bits_per_position / math.prod(self.hop)
        return self.bits_per_position * self.sample_rate / self.hop[0] / 1000

    def positions(self, size: Sequence[int]) -> tuple[int, ...]:
        """Shape of the codes, ``spatial``, of an input of this size: ``ceil(size / hop)`` along each axis.

        A backbone that works in tiles may pad further.

        Args:
            size: (height, width) in pixels, or (samples,) at ``sample_rate``.

        Raises:
            ValueError: for a wrong number of axes or a size below 1.
        """
        if len(size) != len(self.hop) or min(size) < 1:
            raise ValueError(
                f"size: expected {len(self.hop)} numbers of at least 1 for {self.kind}, "
                f"got {tuple(size)}"
            )
        return tuple(-(-length // hop) for length, hop in zip(size, self.hop, strict=True))

    def stored_codes(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """How many codes of each of the Q are stored for codes of this shape."""
        rest, last = math.prod(spatial[:-1]), spatial[-1]
        return tuple(rest * -(-last // stride) for stride in self.strides)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CodeSpec:
        """Inverse of ``to_dict``.

        Raises:
            VqError: for a newer version, unknown or missing keys, or values that make no sense.
        """
        version = values.get("version", CODE_SPEC_VERSION)
        if isinstance(version, int) and version > CODE_SPEC_VERSION:
            raise VqError(
                f"code spec of version {version}, this library reads up to {CODE_SPEC_VERSION}: "
                "upgrade vq-toolkit"
            )
        known = {field.name for field in fields(cls)}
        unknown, missing = values.keys() - known, known - values.keys() - {"version"}
        if unknown or missing:
            raise VqError(
                f"code spec: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; "
                f"expected {sorted(known)}"
            )
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise VqError(f"code spec: {error}") from error

    def difference(self, other: CodeSpec) -> str:
        """Which fields differ from another description, in words; empty where none does."""
        names = [field.name for field in fields(self)]
        return "; ".join(
            f"{name} {getattr(self, name)!r} against {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        )


def _whole_numbers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """A tuple of ints; raises for anything else."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: expected a sequence of integers, got {values!r}")
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        raise TypeError(f"{name}: expected integers, got {values!r}")
    return tuple(values)


def check_normalisation(kind: str, normalisation: str) -> None:
    """Raise ValueError unless signals of a kind can be normalised so."""
    if normalisation not in NORMALISATIONS[: 1 if kind == "image" else 2]:
        raise ValueError(
            f"normalisation: expected 'none', or 'loudness' for audio, got {normalisation!r}"
        )


def _check(spec: CodeSpec) -> None:
    """Raise ValueError unless the fields agree with each other."""
    if spec.kind not in AXES:
        raise ValueError(f"kind: expected one of {', '.join(AXES)}, got {spec.kind!r}")
    if spec.version != CODE_SPEC_VERSION:
        raise ValueError(f"version: expected {CODE_SPEC_VERSION}, got {spec.version!r}")
    if not spec.entries or min(spec.entries) < 2 or max(spec.entries) > MAX_ENTRIES:
        raise ValueError(f"entries: expected numbers of 2 to 2**62, got {spec.entries}")
    if len(spec.strides) != len(spec.entries) or min(spec.strides) < 1:
        raise ValueError(
            f"strides: expected {len(spec.entries)} positive numbers, one per code, "
            f"got {spec.strides}"
        )
    if len(spec.hop) != AXES[spec.kind] or min(spec.hop) < 1:
        raise ValueError(
            f"hop: expected {AXES[spec.kind]} positive numbers for {spec.kind}, got {spec.hop}"
        )
    allowed = (1, 3) if spec.kind == "image" else (1, 2)
    if spec.channels not in allowed:
        raise ValueError(f"channels: expected one of {allowed}, got {spec.channels!r}")
    rate = spec.sample_rate
    if (spec.kind == "audio") != (isinstance(rate, int) and rate > 0):
        raise ValueError(f"sample_rate: expected Hz for audio and None for images, got {rate!r}")
    check_normalisation(spec.kind, spec.normalisation)
    if not isinstance(spec.model_hash, str) or not spec.model_hash:
        raise ValueError(f"model_hash: expected the hash of a model, got {spec.model_hash!r}")
