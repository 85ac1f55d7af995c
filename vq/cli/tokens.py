"""What the subcommands on trained tokenizers share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vq.analysis.environment import machine, table, versions, write_json

if TYPE_CHECKING:
    from vq.tokenizers.codec import TokenizerCodec
    from vq.tokenizers.convert import Converted

QUALITY = {
    "psnr": ("PSNR, dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "si_sdr": ("SI-SDR, dB", "{:.2f}"),
    "stft": ("STFT distance, decades", "{:.4f}"),
    "mel": ("mel distance, decades", "{:.4f}"),
}
_SHOWN = 10  # skipped files


def add_model(parser: argparse.ArgumentParser) -> None:
    """The argument MODEL."""
    parser.add_argument(
        "model", metavar="MODEL", help="folder of a `vq train` run, or the model folder in it"
    )


def open_codec(path: str) -> TokenizerCodec:
    """The tokenizer of a path, ready to encode.

    Raises:
        VqError: if there is none.
        ValueError: for one without codes.
    """
    from vq.tokenizers.codec import TokenizerCodec, open_tokenizer

    return TokenizerCodec(open_tokenizer(path), path)


def warn_skipped(skipped: Sequence[Mapping[str, str]]) -> None:
    """Name on standard error the files that could not be read."""
    for row in skipped[:_SHOWN]:
        print(f"vq: skipped {row['file']}: {row['reason']}", file=sys.stderr)
    if len(skipped) > _SHOWN:
        print(f"vq: ... and {len(skipped) - _SHOWN} more", file=sys.stderr)


def finish(
    args: argparse.Namespace, codec: TokenizerCodec, found: Converted, title: str, **more: Any
) -> None:
    """Print a result as a table of two columns, or as JSON."""
    data: dict[str, Any] = {
        "model": args.model,
        "model_hash": codec.spec.model_hash,
        **more,
        "files": found.files,
        "skipped": [dict(row) for row in found.skipped],
        "nominal_bits": found.nominal_bits,
        "file_bits": found.file_bits,
        "unit": unit(codec.kind),
        "nominal_rate": found.nominal_bits / found.units,
        "file_rate": found.file_bits / found.units,
        "quality": dict(found.quality),
        "machine": machine(),
        "versions": versions(),
    }
    if args.json:
        write_json(data, args.json)
    warn_skipped(found.skipped)
    if args.json != "-":
        print(table([title, ""], _rows(data)))


def unit(kind: str) -> str:
    """Of a rate."""
    return "bits/pixel" if kind == "image" else "kbit/s"


def _rows(data: dict[str, Any]) -> list[list[str]]:
    rows = [["files", str(data["files"])]]
    if data["skipped"]:
        rows.append(["skipped", str(len(data["skipped"]))])
    rows += [
        [f"nominal rate, {data['unit']}", f"{data['nominal_rate']:.4g}"],
        [f"file, {data['unit']}", f"{data['file_rate']:.4g}"],
        ["file, bytes", str(data["file_bits"] // 8)],
    ]
    for name, value in data["quality"].items():
        label, form = QUALITY[name]
        rows.append([label, form.format(value)])
    return rows
