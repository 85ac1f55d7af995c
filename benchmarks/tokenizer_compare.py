"""A run of `vq train` against codecs without a network, on the files the run held out; see train_tokenizers.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizer_pictures import draw
from torch import Tensor

from vq.analysis.environment import machine, table, versions, write_json
from vq.tokenizers.baselines import Blocks, Jpeg
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.codec import TokenizerCodec, open_tokenizer
from vq.tokenizers.evaluate import Evaluation, evaluate
from vq.tokenizers.signals import Signals

QUALITIES = (1, 3, 5, 10, 20, 35, 55, 75, 90)
BLOCKS = (16, 32, 64, 128)  # samples; 256 entries a stage
DIMS = 32  # principal axes kept
MOST_STAGES = 8

Pair = tuple[str, Tensor]


def run(
    kind: str, run_folder: Path, data: Path, files: int, target: Path, picture: Path | None = None
) -> None:
    """Score everything, write the JSON, print the comparison, and draw a picture where one is wanted."""
    codec = TokenizerCodec(open_tokenizer(run_folder), "tokenizer")
    expected = "audio" if kind == "speech" else "image"
    if codec.kind != expected:
        raise SystemExit(f"{run_folder} is a tokenizer of {codec.kind}, expected {expected}")
    held = Signals(data, codec.spec, held_out=True)
    if files:
        held.files = held.files[:files]
    names = {key for key, _ in held.files}
    train = [x for key, x in Signals(data, codec.spec) if key not in names]
    signals = list(held)
    scored = [_score(codec, signals)]
    if kind == "speech":
        baselines: list[Any] = _speech(codec.spec, train)
    else:
        baselines = _image(codec.spec, train, _bits_per_block(scored[0], signals, codec.spec))
    for baseline in baselines:
        print(f"scoring {baseline.name}", flush=True)
        scored.append(_score(baseline, signals))
    compare = _compare_speech if kind == "speech" else _compare_image
    rows = compare(scored[0], scored[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "run": run_folder.name,
        "model_hash": codec.spec.model_hash,
        "held_out_files": len(signals),
        "training_files": len(train),
        "machine": machine(),
        "versions": versions(),
        "comparison": rows,
        "codecs": [{k: v for k, v in e.to_dict().items() if k != "files"} for e in scored],
    }
    write_json(result, str(target))
    if picture is not None:
        draw([codec, _rival(kind, scored, baselines)], signals, picture)
    heads = list(rows[0])
    print(table(heads, [[_text(row[h]) for h in heads] for row in rows]))


def _rival(kind: str, scored: Sequence[Evaluation], baselines: Sequence[Any]) -> Any:
    """JPEG with the least quality that has no fewer bits, or blocks of the tokenizer's own positions and entries."""
    if kind == "speech":
        return baselines[-1]
    rate = _file_rate(scored[0])
    pairs = zip(baselines[1:], scored[2:], strict=True)
    return min((_file_rate(e), c.quality, c) for c, e in pairs if _file_rate(e) >= rate)[2]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _score(codec: Any, signals: Sequence[Pair]) -> Evaluation:
    rate = codec.spec.sample_rate if codec.spec is not None else None
    return evaluate(codec, signals, sample_rate=rate)


def _speech(spec: CodeSpec, train: Sequence[Tensor]) -> list[Blocks]:
    """Residual k-means on blocks: several sizes, and the tokenizer's own positions and entries."""
    assert spec.sample_rate is not None
    layouts = [(block, 256, _enough(block, spec)) for block in BLOCKS]
    entries = min(max(spec.entries), 65536)
    layouts.append((spec.hop[0], entries, min(len(spec.entries), 64)))
    found = []
    for block, k, stages in layouts:
        book = f"residual(stages={stages}, of=kmeans(dim={block * spec.channels}, entries={k}), beam=1)"
        blocks = Blocks("audio", spec.channels, (block,), book, spec.sample_rate)
        found.append(blocks.fit(train))
    return found


def _enough(block: int, spec: CodeSpec) -> int:
    """Stages until the rate is that of the tokenizer or more."""
    assert spec.sample_rate is not None
    rate = 8 * spec.sample_rate / block / 1000
    return min(max(math.ceil(spec.bitrate / rate), 1), MOST_STAGES)


def _compare_speech(tokenizer: Evaluation, baselines: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """For each number of stages: the best that blocks reach with no more bits, and with at least as many."""
    points = [(point, b.name) for b in baselines for point in b.curve]
    rows = []
    for point in tokenizer.curve:
        row: dict[str, Any] = {"stages": point["stages"], "kbit/s": point["rate"]}
        row |= {"SI-SDR": point["si_sdr"], "mel": point["mel"]}
        below = [p for p, _ in points if p["rate"] <= point["rate"] * (1 + 1e-9)]
        above = [p for p, _ in points if p["rate"] >= point["rate"] * (1 - 1e-9)]
        above = [p for p in above if p["rate"] == min(q["rate"] for q in above)]
        for label, some in (("blocks, no more bits", below), ("blocks, no fewer", above)):
            row[f"{label}: kbit/s"] = max((p["rate"] for p in some), default=None)
            row[f"{label}: SI-SDR"] = max((p["si_sdr"] for p in some), default=None)
            row[f"{label}: mel"] = min((p["mel"] for p in some), default=None)
        rows.append(row)
    return rows


def _bits_per_block(tokenizer: Evaluation, signals: Sequence[Pair], spec: CodeSpec) -> float:
    """Bits of all the tokenizer's codes over the blocks of its hop: more than a position's where it pads to tiles."""
    blocks = sum(math.prod(spec.positions(tuple(x.shape[1:]))) for _, x in signals)
    return tokenizer.rates.nominal / blocks


def _image(spec: CodeSpec, train: Sequence[Tensor], bits: float) -> list[Blocks | Jpeg]:
    """PCA and residual k-means on blocks of the hop with at least the tokenizer's bits, and JPEG at many qualities."""
    length = spec.channels * math.prod(spec.hop)
    stages = max(len(spec.entries), math.ceil(bits / 14))
    entries = max(math.ceil(2 ** (bits / stages) - 1e-6), 2)
    part = f"kmeans(dim={min(DIMS, length)}, entries={entries})"
    book = part if stages == 1 else f"residual(stages={stages}, of={part}, beam=1)"
    blocks = Blocks("image", spec.channels, spec.hop, book)
    # 16 blocks an entry and more, so that the table is no copy of its training blocks
    return [blocks.fit(train, most=max(65536, 16 * entries)), *map(Jpeg, QUALITIES)]


def _compare_image(tokenizer: Evaluation, baselines: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Rates of real files; JPEG between its qualities at the rate of the tokenizer's file."""
    blocks, jpegs = baselines[0], baselines[1:]
    rows = []
    for name, found in (("tokenizer", tokenizer), ("PCA and k-means", blocks)):
        rate = found.rates.per_unit()["file"]
        assert rate is not None
        row: dict[str, Any] = {"codec": name, "file bits/pixel": rate}
        row |= {"PSNR": found.quality["psnr"].mean, "SSIM": found.quality["ssim"].mean}
        for measure in ("psnr", "ssim"):
            row[f"JPEG at this rate: {measure.upper()}"] = interpolate(
                [(_file_rate(j), j.quality[measure].mean) for j in jpegs], rate
            )
        rows.append(row)
    smallest = min(jpegs, key=_file_rate)
    low = {"codec": f"{smallest.name}, its least", "file bits/pixel": _file_rate(smallest)}
    low |= {"PSNR": smallest.quality["psnr"].mean, "SSIM": smallest.quality["ssim"].mean}
    return [*rows, {key: low.get(key) for key in rows[0]}]


def _file_rate(found: Evaluation) -> float:
    return found.rates.file / found.rates.units


def interpolate(points: Sequence[tuple[float, float]], rate: float) -> float | None:
    """Value at a rate, linear in the logarithm of the rate between neighbours; None outside of them."""
    for (a, low), (b, high) in pairwise(sorted(points)):
        if a <= rate <= b and a < b:
            share = math.log(rate / a) / math.log(b / a)
            return low + share * (high - low)
    return None
