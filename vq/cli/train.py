"""Train an image or audio tokenizer on a folder of files.

Give the same command again and a run that was stopped goes on where it was. KEY=VALUE changes the recipe, for
instance steps=2000 or quantizer.codebook="kmeans(dim=8, entries=1024)". The run's folder has metrics.csv, samples/
and at the end model/, which vq.Tokenizer.load reads.

  vq train image --data photos/
  vq train audio --data speech/ --recipe speech-16k --max-minutes 15
  vq train image --data photos/ --overfit 8 --steps 300
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vq.analysis.environment import machine, table, versions, write_json
from vq.cli.common import add_common, apply_threads
from vq.errors import VqError

if TYPE_CHECKING:
    from vq.tokenizers.recipe import Recipe
    from vq.tokenizers.train import TrainReport


INTERMIXED = True
"""KEY=VALUE may stand anywhere between the options."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``vq train``."""
    parser.add_argument("kind", choices=["image", "audio"], help="what the files are")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="files to train on")
    parser.add_argument(
        "--recipe", metavar="NAME", help="recipe name or YAML file (image-f4 or speech-16k)"
    )
    parser.add_argument("--out", metavar="RUN", help="folder of the run (default: runs/NAME)")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--steps", type=int, metavar="N", help="batches, as steps=N")
    parser.add_argument(
        "--max-minutes", type=float, metavar="M", help="stop then; the same command goes on"
    )
    parser.add_argument(
        "--overfit",
        type=int,
        default=0,
        metavar="N",
        help="can the model learn N fixed items by heart? Exit code 1 if not",
    )
    parser.add_argument("--fresh", action="store_true", help="throw an earlier run in RUN away")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read data (default: 0)"
    )
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="GPUs or CPU processes (default: 1)"
    )
    parser.add_argument(
        "--log-every", type=int, default=0, metavar="N", help="batches between lines of the report"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="also write event files, in RUN/tensorboard"
    )
    parser.add_argument("--quiet", action="store_true", help="no report while training")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Train and print what came out."""
    need_lightning()
    from vq.tokenizers.train import TrainOptions, is_main_process, train

    apply_threads(args)
    recipe = _recipe(args)
    show = _Lines()
    options = TrainOptions(
        seed=args.seed,
        max_minutes=args.max_minutes,
        overfit=args.overfit,
        fresh=args.fresh,
        workers=args.workers,
        devices=args.devices,
        tensorboard=args.tensorboard,
        log_every=args.log_every,
        show=None if args.quiet else show,
    )
    try:
        report = train(recipe, args.data, _out(args), options)
    finally:
        show.close()
    if is_main_process():
        _print(report, recipe, args.json)
    return 0 if report.passed else 1


def need_lightning() -> None:
    """Raise with the command that helps where lightning is missing."""
    try:
        import lightning  # noqa: F401  (only looked for)
    except ImportError as error:
        raise ImportError(
            "training needs lightning; install it with: pip install 'vq-toolkit[train]'"
        ) from error


def _name(args: argparse.Namespace) -> str:
    from vq.tokenizers.recipe import DEFAULTS

    return str(args.recipe or DEFAULTS[args.kind])


def _recipe(args: argparse.Namespace) -> Recipe:
    from vq.tokenizers.recipe import read_recipe, recipe_names

    changes = list(args.changes)
    if args.steps is not None:
        changes.append(f"steps={args.steps}")
    recipe = read_recipe(_name(args), changes)
    if recipe.kind != args.kind:
        raise VqError(
            f"recipe {_name(args)} is for {recipe.kind}; those for {args.kind}: "
            f"{', '.join(recipe_names(args.kind))}"
        )
    return recipe


def _out(args: argparse.Namespace) -> Path:
    if args.out:
        return Path(args.out)
    return Path("runs") / (Path(_name(args)).stem + ("-overfit" if args.overfit else ""))


class _Lines:
    """Lines on standard error; on a terminal the progress stays on one line."""

    def __init__(self) -> None:
        self.open = False

    def __call__(self, text: str) -> None:
        if not sys.stderr.isatty():
            print(text, file=sys.stderr, flush=True)
            return
        progress = text.startswith("step ")
        if self.open:
            print("\r\x1b[K" if progress else "", end="" if progress else "\n", file=sys.stderr)
        print(text, end="" if progress else "\n", file=sys.stderr, flush=True)
        self.open = progress

    def close(self) -> None:
        """End an open line."""
        if self.open:
            print(file=sys.stderr)
            self.open = False


def _print(report: TrainReport, recipe: Recipe, target: str | None) -> None:
    if target:
        write_json(_as_json(report, recipe), target)
    if target != "-":
        rows = [[name, text] for name, text in _rows(report)]
        print(table([str(report.folder), ""], rows))
    if not report.finished:
        print(f"stopped at step {report.step} of {report.steps}; the same command goes on")


def _as_json(report: TrainReport, recipe: Recipe) -> dict[str, Any]:
    return {
        "run": str(report.folder),
        "recipe": recipe.to_dict(),
        "step": report.step,
        "steps": report.steps,
        "finished": report.finished,
        "seconds": report.seconds,
        "values": report.values,
        "model": None if report.model is None else str(report.model),
        "model_hash": report.model_hash,
        "overfit": None
        if report.overfit is None
        else {"ratio": report.overfit, "passed": report.passed},
        "machine": machine(),
        "versions": versions(),
    }


def _rows(report: TrainReport) -> list[tuple[str, str]]:
    values, rows = report.values, [("steps", f"{report.step} of {report.steps}")]
    names = {
        "validation/psnr": ("PSNR, dB", "{:.2f}"),
        "validation/ssim": ("SSIM", "{:.4f}"),
        "validation/si_sdr": ("SI-SDR, dB", "{:.2f}"),
        "codebook/utilization": ("utilization", "{:.1%}"),
        "codebook/n_over_k": ("  of N/K", "{:.1f}"),
        "codebook/ceiling": ("  ceiling", "{:.1%}"),
        "codebook/perplexity": ("perplexity", "{:.0f}"),
        "codebook/effective_rank": ("effective rank", "{:.1f}"),
    }
    rows += [
        (name, form.format(values[key])) for key, (name, form) in names.items() if key in values
    ]
    if report.overfit is not None:
        verdict = (
            "learnt by heart" if report.passed else "NOT learnt; the model or its rate is wrong"
        )
        rows.append(("loss / constant's", f"{report.overfit:.3f} ({verdict})"))
    rows.append(("seconds", f"{report.seconds:.1f}"))
    if report.model is None:
        rows.append(("model", "none yet: the quantizer starts after the warm-up"))
    else:
        rows += [("model", str(report.model)), ("model hash", str(report.model_hash)[:16])]
    return rows
