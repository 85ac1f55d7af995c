"""One evaluator for tokenizers and baselines: quality of every file, bits, use of the codes, the curve over stages."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vq.tokenizers.baselines import Codec, Coded
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.code_use import CodeCounts, CodeUse
from vq.tokenizers.interval import Interval
from vq.tokenizers.measures import mel_distance, psnr, si_sdr, ssim, stft_distance
from vq.tokenizers.tokenwriter import TokenWriter

_SSIM_WINDOW = 11
UNITS = {"image": "bits/pixel", "audio": "kbit/s"}
BETTER = {"psnr": "dB", "ssim": "", "si_sdr": "dB", "stft": "decades", "mel": "decades"}
"""The measures and their units; the two distances are better when small."""


@dataclass(frozen=True)
class Rates:
    """Bits of all files together, three ways, each also per pixel or as kbit/s.

    Attributes:
        nominal: ``log2 K`` for every code; for a codec of bytes its bytes.
        entropy: what an ideal coder of single codes with these files' own statistics needs, its table not counted;
            None for a codec of bytes.
        file: every byte of the packed token file, index and headers included, or of the files.
        units: pixels, or milliseconds of sound.
    """

    nominal: float
    entropy: float | None
    file: float
    units: float

    def per_unit(self) -> dict[str, float | None]:
        """Bits per pixel, or kbit/s."""
        values = {"nominal": self.nominal, "entropy": self.entropy, "file": self.file}
        return {k: None if v is None else v / self.units for k, v in values.items()}


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator found.

    Attributes:
        name: of the codec.
        kind: ``image`` or ``audio``.
        quality: of the full reconstruction, by measure.
        rates: bits.
        codes: use of each of the Q codes; empty for a codec of bytes.
        curve: for 1, 2, ... stages the nominal rate and the mean of each measure.
        files: key, size and measures of each file.
        skipped: files that could not be read, and why.
    """

    name: str
    kind: str
    quality: Mapping[str, Interval]
    rates: Rates
    codes: Sequence[CodeUse] = ()
    curve: Sequence[Mapping[str, float]] = ()
    files: Sequence[Mapping[str, Any]] = field(default_factory=list)
    skipped: Sequence[Mapping[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rates = {"nominal": self.rates.nominal, "entropy": self.rates.entropy}
        return {
            "name": self.name,
            "kind": self.kind,
            "quality": {k: vars(v) for k, v in self.quality.items()},
            "bits": {**rates, "file": self.rates.file},
            "rate": {"unit": UNITS[self.kind], **self.rates.per_unit()},
            "codes": [
                {
                    "entries": use.entries,
                    "tokens": use.tokens,
                    "tokens_per_entry": use.tokens_per_entry,
                    "used": use.used,
                    "utilization": use.utilization,
                    "ceiling": use.ceiling,
                    "perplexity": use.perplexity,
                    "entropy": use.entropy,
                }
                for use in self.codes
            ],
            "stages": [dict(point) for point in self.curve],
            "files": [dict(row) for row in self.files],
            "skipped": [dict(row) for row in self.skipped],
        }


def measure(kind: str, output: Tensor, target: Tensor, sample_rate: int | None) -> dict[str, float]:
    """Measures of one signal ``(channels, *size)`` from -1 to 1; output is clipped to that range first.

    PSNR and SSIM of images (SSIM from 11 x 11 pixels on); SI-SDR (of all but silence), STFT and mel distance of audio.
    """
    output, target = output.clamp(-1, 1)[None], target[None]
    if kind == "image":
        found = {"psnr": float(psnr(output, target))}
        if min(target.shape[2:]) >= _SSIM_WINDOW:
            found["ssim"] = float(ssim(output, target))
        return found
    assert sample_rate is not None
    silent = not bool((target - target.mean()).any())
    return {
        **({} if silent else {"si_sdr": float(si_sdr(output, target))}),
        "stft": float(stft_distance(output, target)),
        "mel": float(mel_distance(output, target, sample_rate)),
    }


def evaluate(
    codec: Codec,
    signals: Iterable[tuple[str, Tensor]],
    *,
    sample_rate: int | None = None,
    skipped: Sequence[Mapping[str, str]] = (),
    done: Callable[[int], None] | None = None,
) -> Evaluation:
    """Encode and restore every signal, from every number of stages, and count.

    Args:
        codec: tokenizer or baseline.
        signals: key and ``(channels, *size)`` from -1 to 1, one at a time.
        sample_rate: of audio in Hz.
        skipped: told in the result; may grow while the signals are read.
        done: called with the number of signals done.

    Raises:
        ValueError: for no signals.
    """
    counts = CodeCounts(codec.spec.entries if codec.spec else ())
    stages = max(len(codec.prefix_bits), 1)
    rows: list[dict[str, Any]] = []
    prefixes: list[list[dict[str, float]]] = [[] for _ in range(stages)]
    nominal, units = 0.0, 0.0
    with _Bytes(codec.spec) as file:
        for key, x in signals:
            coded = codec.encode(x)
            for n in range(stages):
                restored = codec.restore(coded, x.shape[1:], n + 1 if stages > 1 else None)
                prefixes[n].append(measure(codec.kind, restored, x, sample_rate))
            bits = file.add(key, coded, x.shape[1:])
            if coded.codes is not None:
                counts.add(coded.codes)
            nominal += bits
            units += math.prod(x.shape[1:]) / (1 if sample_rate is None else sample_rate / 1000)
            rows.append({"key": key, "size": list(x.shape[1:]), "bits": bits, **prefixes[-1][-1]})
            if done is not None:
                done(len(rows))
        if not rows:
            first = (
                "; first of {}: {file}: {reason}".format(len(skipped), **skipped[0])
                if skipped
                else ""
            )
            raise ValueError(f"evaluate: expected at least one signal that can be read{first}")
    use = counts.use()
    entropy = _entropy_bits(codec.spec, use)
    return Evaluation(
        codec.name,
        codec.kind,
        _intervals(prefixes[-1]),
        Rates(nominal, entropy, file.bits, units),
        use,
        _curve(codec, prefixes) if codec.prefix_bits else (),
        rows,
        skipped,
    )


def _entropy_bits(spec: CodeSpec | None, use: Sequence[CodeUse]) -> float | None:
    """Ideal bits of all codes; a code that stays for several positions counts once for them."""
    if spec is None:
        return None
    return sum(u.tokens * u.entropy / s for u, s in zip(use, spec.strides, strict=True))


def _intervals(rows: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    names = [name for name in BETTER if any(name in row for row in rows)]
    return {name: Interval.of([row[name] for row in rows if name in row]) for name in names}


def _curve(
    codec: Codec, prefixes: Sequence[Sequence[Mapping[str, float]]]
) -> list[dict[str, float]]:
    assert codec.spec is not None
    whole = codec.prefix_bits[-1]
    points = []
    for n, (bits, rows) in enumerate(zip(codec.prefix_bits, prefixes, strict=True), start=1):
        means = {name: found.mean for name, found in _intervals(rows).items()}
        points.append({"stages": n, "rate": codec.spec.bitrate * bits / whole, **means})
    return points


class _Bytes:
    """Counts real bytes: of a packed token file in a temporary folder, or of each signal's own bytes."""

    def __init__(self, spec: CodeSpec | None) -> None:
        self.spec = spec
        self.bits = 0

    def __enter__(self) -> _Bytes:
        if self.spec is not None:
            self._folder = tempfile.TemporaryDirectory()
            self._writer = TokenWriter(Path(self._folder.name), self.spec, "packed")
        return self

    def add(self, key: str, coded: Coded, size: Sequence[int]) -> float:
        """Take one signal's codes or bytes; gives its nominal bits."""
        if coded.codes is None:
            assert coded.data is not None
            self.bits += 8 * len(coded.data)
            return 8.0 * len(coded.data)
        assert self.spec is not None
        self._writer.add(key, coded.codes, tuple(size), coded.gain)
        stored = self.spec.stored_codes(coded.codes.shape[1:])
        return sum(n * math.log2(k) for n, k in zip(stored, self.spec.entries, strict=True))

    def __exit__(self, *failure: object) -> None:
        if self.spec is None:
            return
        if failure[0] is None:
            self._writer.close()
            files = [p for p in Path(self._folder.name).rglob("*") if p.is_file()]
            self.bits = 8 * sum(p.stat().st_size for p in files)
        self._folder.cleanup()


def prefix_bits(
    spec: CodeSpec, stages: int, decode: Callable[[Tensor, int], Tensor]
) -> tuple[float, ...]:
    """Nominal bits of a position that a decoder looks at for its first 1, 2, ... stages, found by trying.

    A code counts for a number of stages if another value of it changes what is decoded.

    Args:
        spec: of the codes.
        stages: how many there are.
        decode: codes ``(n, Q)`` and a number of stages to ``(n, dim)``.
    """
    share = [math.log2(k) / s for k, s in zip(spec.entries, spec.strides, strict=True)]
    if stages == 1:
        return (sum(share),)
    generator = torch.Generator().manual_seed(0)
    draws = [[torch.randint(k, (64,), generator=generator) for k in spec.entries] for _ in "ab"]
    before, after = (torch.stack(columns, dim=1) for columns in draws)
    found = []
    for n in range(1, stages + 1):
        base = decode(before, n)
        bits = 0.0
        for q, worth in enumerate(share):
            changed = before.clone()
            changed[:, q] = after[:, q]
            bits += worth * float(not torch.equal(decode(changed, n), base))
        found.append(bits)
    return tuple(found)
