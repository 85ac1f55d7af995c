"""The stage before the blocks: a recipe with a budget gets its codebooks from a plan, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vq.compressors.calibration.samples import Calibration, read_samples
from vq.compressors.calibration.texts import choose_windows
from vq.compressors.files.source import ModelSource
from vq.compressors.files.tensorfile import write_json
from vq.compressors.files.workfolder import PLAN, WorkFolder
from vq.compressors.options import CompressOptions
from vq.compressors.planning.plan import Planner, parse_budget, recipe
from vq.compressors.planning.sensitivity import Findings, Probe, probe
from vq.compressors.ranks import Ranks
from vq.compressors.structure.skeleton import build_skeleton
from vq.errors import VqError

WINDOWS, PROBES, CONTEXT, EVERY = 8, 2, 512, 4


def find_sensitivities(
    source: ModelSource,
    calibration: Calibration,
    *,
    windows: int = WINDOWS,
    probes: int = PROBES,
    context: int = CONTEXT,
    every: int = EVERY,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Sensitivities of a model's matrices on a text.

    Args:
        source: the original model.
        calibration: text, see read_samples.
        windows: for Hessians.
        probes: windows whose predictions are compared.
        context: tokens of a window.
        every: see Probe.
        seed: of windows and noise.
        progress: hears of blocks done and in all.
    """
    skeleton = build_skeleton(source)
    read = CompressOptions(windows=windows, context=context, seed=seed)
    tokens = read_samples(calibration, source, skeleton, read).text
    if tokens is None:
        raise VqError("a plan is made on text; calibrate on text files")
    settings = Probe(
        choose_windows(tokens, windows, context, seed).tokens,
        choose_windows(tokens, probes, context, seed + 1).tokens,
        every=every,
        seed=seed,
    )
    return probe(skeleton, settings, progress)


def planned(
    source: ModelSource,
    work: WorkFolder,
    options: CompressOptions,
    calibration: Calibration | None,
    restart: bool,
    ranks: Ranks,
) -> CompressOptions:
    """The options with the codebooks of the plan; they are kept in the work folder for a run that goes on.

    Of several processes the first makes the plan, and the others wait for it.
    """
    path = work.path / PLAN
    if restart and ranks.first:
        path.unlink(missing_ok=True)
    if not options.budget:
        return options
    if not ranks.first:
        return replace(options, **_awaited(ranks))
    if not path.is_file():
        assert calibration is not None
        try:
            _plan(path, source, options, calibration, ranks)
        except VqError as error:
            ranks.agree({"error": str(error)})
            raise
    stored = json.loads(path.read_text(encoding="utf-8"))
    ranks.agree({"plan": stored})
    return replace(options, codebook=stored["codebook"], layers=stored["layers"])


def _plan(
    path: Path,
    source: ModelSource,
    options: CompressOptions,
    calibration: Calibration,
    ranks: Ranks,
) -> None:
    """Make the plan of a budget; the other processes hear after each block that this one is at work."""
    findings = find_sensitivities(
        source,
        calibration,
        context=min(CONTEXT, options.context),
        seed=options.seed,
        progress=lambda done, total: ranks.agree({"done": done, "total": total}),
    )
    planner = Planner(findings)
    plan = planner.plan(parse_budget(options.budget, planner.weights))
    write_json(path, {key: recipe(plan, {})[key] for key in ("codebook", "layers")})


def _awaited(ranks: Ranks) -> dict[str, Any]:
    """The plan that the first process makes.

    Raises:
        VqError: what was wrong there.
    """
    while True:
        news = ranks.agree(None)
        if "error" in news:
            raise VqError(news["error"])
        if "plan" in news:
            return {key: news["plan"][key] for key in ("codebook", "layers")}
