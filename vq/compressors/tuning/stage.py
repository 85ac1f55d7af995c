"""The stage behind the blocks: the whole model is tuned towards the original, with checkpoints in the work folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.calibration.texts import choose_windows
from vq.compressors.files.tensorfile import pending, read_header, write_tensors
from vq.compressors.files.workfolder import STATE, TEACHER, TUNED, WorkFolder
from vq.compressors.layers.sides import SCALED, scale_rows
from vq.compressors.options import CompressOptions
from vq.compressors.ranks import Ranks
from vq.compressors.rounding.block import BlockQuantizer, derived_seed
from vq.compressors.structure.skeleton import Skeleton
from vq.compressors.tuning.blocks import disk_name
from vq.compressors.tuning.loss import Teacher
from vq.compressors.tuning.model import Lessons, ModelTuner, teach
from vq.compressors.tuning.options import TuneOptions
from vq.errors import VqError

_HELD_OUT = 24  # windows that decide which state is kept
Tell = Callable[[str, int, int], None]


def fill_whole(skeleton: Skeleton, blocks: bool = True) -> None:
    """Load everything, or all but the blocks; a head that is tied to the embeddings is their parameter."""
    model = skeleton.model
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and bool(getattr(model.config, "tie_word_embeddings", False))
    skip: list[nn.Module] = [] if blocks else [skeleton.stack(name) for name in skeleton.stacks]
    skeleton.fill(model, "", skip=[*skip, head] if tied else skip)
    if tied:
        head.weight = embeddings.weight


def check_processes(options: CompressOptions, ranks: Ranks) -> None:
    """Raise VqError for tuning in several processes."""
    if ranks.size > 1 and TuneOptions.from_dict(options.tuning).used:
        raise VqError(
            f"tuning: every step needs the one before it and works in one process, got {ranks.size} of them; start "
            "without torchrun (more --threads help), or take a recipe without tuning"
        )


def check_tunable(
    skeleton: Skeleton, options: CompressOptions, ranks: Ranks, weighted: bool
) -> None:
    """Raise VqError for a tuning that this model or this way of working does not have."""
    tuning = TuneOptions.from_dict(options.tuning)
    if not tuning.used:
        return
    check_processes(options, ranks)
    if options.calibrate_on == "original":
        raise VqError("tuning: follows the original model anyway; calibrate_on must be quantized")
    if weighted or options.token_weights != "none":
        raise VqError("tuning: has token weights of its own; use token_weights none")
    if tuning.tokens and (
        len(skeleton.stacks) > 1 or skeleton.model.get_output_embeddings() is None
    ):
        raise VqError(
            f"{skeleton.source.name}: tuning of the whole model (tokens) is for language models of one stack of "
            "blocks; set tuning.tokens to 0"
        )


def tune_stage(
    skeleton: Skeleton,
    quantizer: BlockQuantizer,
    work: WorkFolder,
    options: CompressOptions,
    text: Tensor | None,
    tell: Tell,
) -> None:
    """Tune the model, or go on with it; does nothing if the recipe does not ask for it or it is finished.

    Args:
        skeleton: empty; it is filled as a whole, and empty again after.
        quantizer: of the blocks, which are all finished.
        work: where checkpoints lie, and where the result goes.
        options: of the run.
        text: int64 ``(tokens,)``: the calibration text.
        tell: hears the stage, steps done and steps in all.

    Raises:
        VqError: if the calibration data is no text.
    """
    tuning = TuneOptions.from_dict(options.tuning)
    if not tuning.steps or (work.path / TUNED).is_file():
        return
    if text is None:
        raise VqError("tuning: the whole model is tuned on text; calibrate on text files")
    train, held_out = _lessons(skeleton, work, tuning, options.seed, text, tell)
    fill_whole(skeleton)
    tensors: dict[str, Tensor] = {}
    rounded: dict[str, nn.Linear] = {}
    for index in range(len(skeleton.blocks)):
        stored, reports = work.load_block(index)
        quantizer.restore(index, stored, reports)
        tensors |= {n: t for n, t in stored.items() if n.rpartition(".")[2] in SCALED}
        rounded |= quantizer.targets(index)
    seed = derived_seed(options.seed, "tuning")
    names = _disk_names(skeleton)
    fixed = [p for n, p in skeleton.model.named_parameters() if n not in names]
    tuner = ModelTuner(skeleton.model, rounded, train, held_out, tuning, seed, fixed)
    _resume(tuner, work)
    tuner.run(lambda state: _store(state, work), lambda done, total: tell("tune", done, total))
    _write(tuner, work, skeleton, tensors, names)
    skeleton.empty(skeleton.model)
    for name in (TEACHER, STATE):
        (work.path / name).unlink(missing_ok=True)


def _disk_names(skeleton: Skeleton) -> dict[str, str]:
    """Name on disk of each parameter that is stored as it is."""
    found = {}
    for name, value in skeleton.model.named_parameters():
        key = disk_name(skeleton, name, value)
        if key is not None:
            found[name] = key
    return found


def _lessons(
    skeleton: Skeleton,
    work: WorkFolder,
    tuning: TuneOptions,
    seed: int,
    text: Tensor,
    tell: Tell,
) -> tuple[Lessons, Lessons]:
    """Windows with the original's predictions, to train on and held out; made once."""
    wanted = -(-tuning.steps * tuning.batch // tuning.passes)
    windows = choose_windows(text, wanted + _HELD_OUT, tuning.context, seed + 1).tokens
    path = work.path / TEACHER
    if not path.is_file():
        fill_whole(skeleton)
        total = len(windows)
        made = teach(skeleton.model, windows, tuning.top, lambda i: tell("teach", i, total))
        skeleton.empty(skeleton.model)
        parts = {"ids": made.teacher.ids, "probabilities": made.teacher.probabilities}
        write_tensors(path, {n: pending(t) for n, t in parts.items()}, {})
    entries = read_header(path)[0]
    teacher = Teacher(entries["ids"].read(), entries["probabilities"].read())
    spread = torch.linspace(0, len(windows) - 1, min(_HELD_OUT, len(windows) // 2)).round().long()
    held = torch.zeros(len(windows), dtype=torch.bool)
    held[spread] = True
    return (
        Lessons(windows[~held], teacher[~held]),
        Lessons(windows[held], teacher[held]),
    )


def _store(tuner: ModelTuner, work: WorkFolder) -> None:
    """Write a checkpoint."""
    note = {"step": tuner.step, "best": tuner.best, "history": tuner.history}
    items = {n: pending(t) for n, t in tuner.state_dict().items()}
    write_tensors(work.path / STATE, items, {"state": json.dumps(note)})


def _resume(tuner: ModelTuner, work: WorkFolder) -> None:
    """Go on from a checkpoint, if there is one."""
    path = work.path / STATE
    if path.is_file():
        entries, metadata = read_header(path)
        note: dict[str, Any] = json.loads(metadata["state"])
        tuner.load_state_dict({n: e.read() for n, e in entries.items()}, **note)


def _write(
    tuner: ModelTuner,
    work: WorkFolder,
    skeleton: Skeleton,
    scales: Mapping[str, Tensor],
    names: Mapping[str, str],
) -> None:
    """Store what was tuned, in the types of the checkpoint: row scales, norms, embeddings."""
    entries = skeleton.source.entries
    found: dict[str, Tensor] = {}
    for name, value in tuner.parameters.items():
        if name.startswith("gain:"):
            found |= scale_rows(name.removeprefix("gain:"), scales, value.detach())
        else:
            found[names[name]] = value.detach().cpu().to(entries[names[name]].dtype)
    tuner.gains.detach()
    report = {
        "steps": tuner.options.steps,
        "tokens": tuner.options.steps * tuner.options.batch * tuner.options.context,
        "held_out": tuner.history,
    }
    write_tensors(
        work.path / TUNED, {n: pending(t) for n, t in found.items()}, {"report": json.dumps(report)}
    )
