"""What a tokenizer's codes of a folder will take, before anything is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.folder import Folder, MediaFile
from vq.tokenizers.folder_report import aligned


@dataclass(frozen=True)
class Budget:
    """Tokens, bits, and how much of each codebook they can use at most.

    Attributes:
        items: files.
        positions: of all files.
        codes: stored codes of all files, per code of a position.
        entries: K of each code.
        ceilings: utilization that N codes drawn uniformly from K entries reach on average, ``1 - exp(-N / K)``: what a
            perfect codebook shows on one pass over the files.
        bits: nominal, of all codes.
        bitrate: kbit/s of audio, bits per pixel of images.
        unit: of the bitrate.
    """

    items: int
    positions: int
    codes: tuple[int, ...]
    entries: tuple[int, ...]
    ceilings: tuple[float, ...]
    bits: float
    bitrate: float
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Lines for people."""
        rows = [
            ("tokens", f"{sum(self.codes):,} ({sum(self.codes) / self.items:,.0f} per file)"),
            ("bits", f"{self.bits / 8e6:.2f} MB, {self.bitrate:.3g} {self.unit}"),
        ]
        groups = sorted(set(zip(self.codes, self.entries, self.ceilings, strict=True)))
        for codes, entries, ceiling in groups:
            text = f"K = {entries:,}, N/K = {codes / entries:.3g}, ceiling {ceiling:.1%}"
            rows.append(("utilization", text))
        return aligned(rows)


def utilization_ceiling(codes: int, entries: int) -> float:
    """Share of ``entries`` that ``codes`` uniform draws are expected to hit, ``1 - exp(-N / K)``."""
    return -math.expm1(-codes / entries)


def token_budget(folder: Folder, spec: CodeSpec) -> Budget:
    """Budget of all files of a folder at this description.

    Raises:
        ValueError: if one is of images and the other of audio.
    """
    if folder.kind != spec.kind:
        raise ValueError(f"spec: of {spec.kind}, but {folder.root} holds {folder.kind}")
    shapes = [spec.positions(_size(item, spec)) for item in folder.items]
    counts = [spec.stored_codes(shape) for shape in shapes]
    codes = tuple(sum(column) for column in zip(*counts, strict=True))
    return Budget(
        items=len(shapes),
        positions=sum(math.prod(shape) for shape in shapes),
        codes=codes,
        entries=spec.entries,
        ceilings=tuple(map(utilization_ceiling, codes, spec.entries)),
        bits=sum(n * math.log2(k) for n, k in zip(codes, spec.entries, strict=True)),
        bitrate=spec.bitrate,
        unit="bit/pixel" if spec.sample_rate is None else "kbit/s",
    )


def _size(item: MediaFile, spec: CodeSpec) -> tuple[int, ...]:
    """Size of the file at the rate of the codes."""
    if spec.sample_rate is None or item.sample_rate is None:
        return item.size
    return (-(-item.size[0] * spec.sample_rate // item.sample_rate),)
