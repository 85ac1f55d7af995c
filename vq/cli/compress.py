"""Compress a model to a Hugging Face folder.

MODEL is a folder of safetensors, a .gguf file, a CTranslate2 model.bin or a hub id: a language model, an
encoder, an encoder-decoder. One block is in memory at a time. A run that was stopped goes on where it was: give
the same command again, the result has the same bytes. Several processes share the work when torchrun starts them,
and the bytes stay the same.

  vq compress ./SmolLM2 -o ./SmolLM2-2bit --calibration texts/
  vq compress ./SmolLM2 -o ./SmolLM2-2bit --calibration texts/ --set polish=2 outliers.share=0.005 rotation=none
  torchrun --nproc-per-node 4 -m vq.cli compress ./SmolLM2 -o ./SmolLM2-2bit --calibration texts/
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from vq.analysis.environment import machine, table, versions, write_json
from vq.cli.common import add_common, apply_threads, need_transformers
from vq.errors import VqError

if TYPE_CHECKING:
    from vq.compressors.pipeline import CompressReport, Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq compress``."""
    parser.add_argument("model", metavar="MODEL", help="model folder, .gguf file or hub id")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to make")
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="FILE",
        help="text (sound for a speech model) the model should stay good at: files or folders",
    )
    parser.add_argument(
        "--bits", type=float, metavar="B", help="bits per weight of the default trellis (1 to 4)"
    )
    parser.add_argument("--codebook", metavar="SPEC", help="codebook, see `vq codebooks`")
    parser.add_argument(
        "--recipe", default="2bit", metavar="NAME", help="recipe name or YAML file (default: 2bit)"
    )
    parser.add_argument("--windows", type=int, metavar="N", help="calibration windows")
    parser.add_argument("--context", type=int, metavar="N", help="tokens of a calibration window")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing OUT at the end"
    )
    parser.add_argument("--restart", action="store_true", help="throw an unfinished run away")
    parser.add_argument(
        "--calibrate-on",
        choices=("quantized", "original"),
        help="what a block sees in calibration: outputs of the quantized blocks before it (default), or of "
        "the original ones",
    )
    parser.add_argument(
        "--token-weights",
        choices=("none", "attention"),
        help="how calibration tokens count: all alike (default), or by the attention they receive",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="any other key of a recipe, for instance polish=2 outliers.share=0.005 outliers.by=magnitude "
        "low_rank.rank=16 tables.rows=0 group=128",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=1800,
        metavar="S",
        help="with torchrun: seconds to wait for another process before the job ends (default: 1800)",
    )
    add_common(parser)
    parser.set_defaults(seed=None)


def run(args: argparse.Namespace) -> None:
    """Compress and print what came out."""
    need_transformers()
    from vq.compressors.pipeline import compress

    apply_threads(args)
    options = read_options(args)
    report = compress(
        args.model,
        args.output,
        options=options,
        calibration=args.calibration,
        overwrite=args.overwrite,
        restart=args.restart,
        progress=_Bar(),
        timeout=args.timeout,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        _print(report, asdict(options), args.json)


def read_options(args: argparse.Namespace) -> Any:
    """The recipe with the command line's changes.

    Raises:
        VqError: for ``--bits`` beside ``--codebook``, or a number of bits the trellis does not have.
    """
    from vq.compressors.recipes import read_recipe

    names = ("codebook", "windows", "context", "seed", "calibrate_on", "token_weights")
    changes = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.bits is not None:
        if args.codebook:
            raise VqError("--bits and --codebook both name a codebook; give one of them")
        if not 1 <= args.bits <= 4 or args.bits * 2 % 1:
            raise VqError(f"--bits: expected 1 to 4 in steps of 0.5, got {args.bits:g}")
        changes["codebook"] = f"trellis(bits={args.bits:g}, memory=12, code=hash)"
    whole, inside = _settings(args.set, changes)
    return read_recipe(args.recipe, inside, **changes, **whole)


def _settings(
    pairs: list[str], taken: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Options of ``--set``, and those within mappings, where a dot leads; values are YAML.

    Raises:
        VqError: for a pair without ``=``, or a key that another option sets.
    """
    import yaml

    whole: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        path, mark, text = pair.partition("=")
        key, _, inner = path.partition(".")
        if not mark or not key:
            raise VqError(
                f"--set {pair}: expected KEY=VALUE, such as polish=2 or outliers.share=0.005"
            )
        if key in taken:
            raise VqError(f"--set {pair}: {key} is set by another option too; give one of them")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise VqError(f"--set {pair}: the value is not YAML ({error})") from error
        if inner:
            inside.setdefault(key, {})[inner] = value
        else:
            whole[key] = value
    for key, value in whole.items():
        if key in inside and not isinstance(value, dict):
            raise VqError(f"--set {key}: given as a whole and by its keys; give one of them")
    return whole, inside


class _Bar:
    """Progress on standard error: one bar a stage."""

    TEXTS: ClassVar[dict[str, tuple[str, str]]] = {
        "block": ("compressing", "block"),
        "teach": ("asking the original", "window"),
        "tune": ("tuning", "step"),
    }

    def __init__(self) -> None:
        from tqdm import tqdm

        self.make = tqdm
        self.bar: Any = None
        self.stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "calibrate":
            print("reading the calibration text", file=sys.stderr)
        if progress.stage != self.stage and self.bar is not None:
            self.bar.close()
            self.bar = None
        self.stage = progress.stage
        if progress.stage not in self.TEXTS:
            return
        if self.bar is None:
            text, unit = self.TEXTS[progress.stage]
            self.bar = self.make(
                total=progress.total, desc=text, unit=unit, disable=None, file=sys.stderr
            )
        self.bar.update(progress.done - self.bar.n)


def _print(report: CompressReport, options: dict[str, Any], target: str | None) -> None:
    totals = report.report["totals"]
    for warning in report.warnings:
        print(f"vq: warning: {warning}", file=sys.stderr)
    if target:
        data = {
            "output": str(report.output),
            "options": options,
            "seconds": report.seconds,
            "resumed_blocks": report.resumed,
            "warnings": report.warnings,
            "machine": machine(),
            "versions": versions(),
            **report.report,
        }
        write_json(data, target)
    if target != "-":
        rows = [[str(key).replace("_", " "), _text(value)] for key, value in totals.items()]
        packed = report.report.get("embeddings")
        if packed:
            rows.append(["bytes of embeddings and head", str(packed["bytes"])])
        rows.append(["seconds", f"{report.seconds:.1f}"])
        print(table([str(report.output), ""], rows))


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
