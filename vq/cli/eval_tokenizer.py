"""The part of ``vq eval`` that scores tokenizers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vq.analysis.environment import machine, table, versions, write_json
from vq.cli.common import progress
from vq.cli.tokens import QUALITY, open_codec, warn_skipped
from vq.errors import VqError

if TYPE_CHECKING:
    from vq.tokenizers.evaluate import Evaluation

_CODES_SHOWN = 16


def run(args: argparse.Namespace) -> None:
    """Score a tokenizer on a folder and print.

    Raises:
        VqError: without data, or with options that belong to language models.
    """
    from vq.tokenizers.evaluate import evaluate
    from vq.tokenizers.signals import Signals

    if args.data is None:
        raise VqError(f"{args.model} is a tokenizer: give a folder of files, vq eval MODEL DATA")
    for name in ("text", "reference", "windows", "mode"):
        if getattr(args, name) is not None:
            raise VqError(f"--{name} is for language models; {args.model} is a tokenizer")
    codec = open_codec(args.model)
    signals = Signals(args.data, codec.spec, held_out=args.held_out)
    done, close = progress(len(signals), "scoring", "file")
    try:
        found = evaluate(
            codec,
            signals,
            sample_rate=codec.spec.sample_rate,
            skipped=signals.skipped,
            done=done,
        )
    finally:
        close()
    data = {
        "model": args.model,
        "model_hash": codec.spec.model_hash,
        "data": args.data,
        "held_out": args.held_out,
        **found.to_dict(),
        "machine": machine(),
        "versions": versions(),
    }
    if args.json:
        write_json(data, args.json)
    warn_skipped(found.skipped)
    if args.json != "-":
        print(report(found))


def report(found: Evaluation) -> str:
    """Quality, bits, use of the codes and the curve over stages as tables."""
    data = found.to_dict()
    files = len(found.files)
    rows = [["files", str(files)]]
    for name, interval in found.quality.items():
        label, form = QUALITY[name]
        text = form.format(interval.mean)
        if interval.files > 1:
            text += f" ({form.format(interval.low)} to {form.format(interval.high)})"
        rows.append([label, text])
    for name, value in data["rate"].items():
        if name != "unit" and value is not None:
            rows.append([f"{name}, {data['rate']['unit']}", f"{value:.4g}"])
    parts = [table([found.name, "mean (95 % interval)" if files > 1 else ""], rows)]
    if found.codes:
        parts.append(_use_table(found))
    if len(found.curve) > 1:
        parts.append(_curve_table(data))
    return "\n\n".join(parts)


def _use_table(found: Evaluation) -> str:
    rows = [
        [
            str(number),
            str(use.entries),
            f"{use.utilization:.1%}",
            f"{use.tokens_per_entry:.1f}",
            f"{use.ceiling:.1%}",
            f"{use.perplexity:.1f}",
            f"{use.entropy:.2f}",
        ]
        for number, use in enumerate(found.codes[:_CODES_SHOWN], start=1)
    ]
    text = table(["code", "K", "used", "N/K", "ceiling", "perplexity", "bits"], rows)
    more = len(found.codes) - _CODES_SHOWN
    return text if more <= 0 else f"{text}\n... and {more} more; --json has all"


def _curve_table(data: dict[str, Any]) -> str:
    names = [name for name in QUALITY if name in data["stages"][0]]
    rows = [
        [
            str(point["stages"]),
            f"{point['rate']:.4g}",
            *(QUALITY[name][1].format(point[name]) for name in names),
        ]
        for point in data["stages"]
    ]
    return table(["stages", data["rate"]["unit"], *(QUALITY[n][0] for n in names)], rows)
