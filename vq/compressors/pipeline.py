"""From a model to a compressed folder: a queue of blocks that survives being killed."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import vq
from vq.compressors.calibrate import Activations, capture
from vq.compressors.checkpoint import FORMAT_VERSION, assemble, check_output, publish
from vq.compressors.options import CompressOptions
from vq.compressors.plan_stage import planned
from vq.compressors.quantize import Shelf
from vq.compressors.recipes import read_recipe
from vq.compressors.skeleton import Skeleton, build_skeleton
from vq.compressors.source import ModelSource, open_source
from vq.compressors.texts import (
    Windows,
    choose_windows,
    digest,
    load_tokenizer,
    read_texts,
    tokenize,
)
from vq.compressors.tune_blocks import block_quantizer, install_block
from vq.compressors.tune_stage import tune_stage
from vq.compressors.workfolder import WorkFolder
from vq.errors import VqError

MIN_COVERAGE = 0.9  # part of the block weights that must be in linear layers


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        stage: ``read``, ``calibrate``, ``block``, ``teach``, ``tune`` or ``write``.
        done: blocks finished; windows or steps in ``teach`` and ``tune``.
        total: blocks, windows or steps in all.
        name: of the block just finished, or empty.
        seconds: spent on it; 0 if it was found finished.
        layers: figures of its layers by name.
    """

    stage: str
    done: int
    total: int
    name: str = ""
    seconds: float = 0.0
    layers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CompressReport:
    """What a run made.

    Attributes:
        output: the folder.
        report: content of its ``compression.json``.
        seconds: of this process.
        resumed: blocks that an earlier process had finished.
        warnings: what a user should know, by layer.
    """

    output: Path
    report: dict[str, Any]
    seconds: float
    resumed: int
    warnings: list[str]


def compress(
    model: str | Path,
    output: str | Path,
    *,
    options: CompressOptions | None = None,
    recipe: str | Path = "2bit",
    calibration: str | Path | Sequence[str | Path] | None = None,
    max_shard_bytes: int = 2 * 10**9,
    overwrite: bool = False,
    restart: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> CompressReport:
    """Compress a causal language model to a Hugging Face folder.

    One block is in memory at a time. The run may be killed: the same call goes on after the last finished block and
    ends with the same bytes.

    Args:
        model: a Hugging Face folder, a ``.gguf`` file, or a hub id.
        output: folder to make; it appears only when it is complete.
        options: see CompressOptions; None takes the recipe's.
        recipe: name or YAML file, used where ``options`` is None.
        calibration: text files or folders of them; needed unless ``options.windows`` is 0.
        max_shard_bytes: largest weight file.
        overwrite: replace an existing output at the end.
        restart: throw away what an earlier, unfinished run left.
        progress: called after each step.

    Raises:
        VqError: for anything wrong with the input; says what to do.
    """
    started = time.perf_counter()
    chosen = options or read_recipe(recipe)
    target = Path(output)
    check_output(target, overwrite)
    if chosen.windows and calibration is None:
        raise VqError("calibration: expected text files (the recipe uses calibration), got none")
    if max_shard_bytes < 1:
        raise VqError(f"max_shard_bytes: expected a positive number, got {max_shard_bytes}")
    work = WorkFolder(target)
    with work.locked():
        source = open_source(model, work.path)
        chosen = planned(source, work, chosen, calibration, restart)
        run = _Run(source, work, chosen, progress or (lambda _: None))
        windows = run.read_windows(calibration) if chosen.windows else None
        fingerprint = run.fingerprint(windows, max_shard_bytes)
        changed = work.begin(fingerprint, {"threads": torch.get_num_threads()}, restart)
        resumed = run.blocks(windows)
        if windows is not None:
            tune_stage(run.skeleton, run.quantizer, work, chosen, run.text, run.tell)
        folder, report = assemble(
            source, work, run.skeleton, run.shelf, chosen, max_shard_bytes, windows
        )
        publish(folder, target)
    work.remove()
    run.tell("write", len(run.skeleton.blocks))
    seconds = time.perf_counter() - started
    warnings = [f"{change}: the last digits may differ from a run in one go" for change in changed]
    return CompressReport(target, report, seconds, resumed, warnings + _warnings(report, chosen))


class _Run:
    """The state of one call of compress."""

    def __init__(
        self,
        source: ModelSource,
        work: WorkFolder,
        options: CompressOptions,
        progress: Callable[[Progress], None],
    ) -> None:
        self.source, self.work, self.options, self.progress = source, work, options, progress
        self.skeleton: Skeleton = build_skeleton(source)
        self.shelf = Shelf(options, options.seed)
        self.quantizer = block_quantizer(self.skeleton, self.shelf, options)
        self.text = torch.empty(0, dtype=torch.int64)  # tokens of the calibration text
        self._check_layers()
        self.tell("read", 0)

    def tell(self, stage: str, done: int, total: int | None = None, **more: Any) -> None:
        """Report progress."""
        self.progress(Progress(stage, done, total or len(self.skeleton.blocks), **more))

    def _check_layers(self) -> None:
        """Raise for a model most of whose block weights are not in linear layers, or a pattern that matches none."""
        names = [n for i in range(len(self.skeleton.blocks)) for n in self.skeleton.linears(i)]
        covered = self.skeleton.coverage(set(names))
        if covered < MIN_COVERAGE:
            raise VqError(
                f"{self.source.name}: only {covered:.0%} of the block weights are in linear layers; the rest "
                "(for instance experts stored as one tensor) cannot be compressed yet"
            )
        for pattern in self.options.layers:
            if pattern.startswith("?"):  # of a recipe for many models: it may match nothing
                continue
            alone = CompressOptions(layers={pattern: "keep"})
            if not any(alone.codebook_of(name) == "keep" for name in names):
                raise VqError(f"layers: {pattern!r} matches no layer; names are such as {names[0]}")

    def read_windows(self, calibration: str | Path | Sequence[str | Path] | None) -> Windows:
        """Calibration windows from the user's text."""
        assert calibration is not None
        tokens = tokenize(read_texts(calibration), load_tokenizer(self.source.folder))
        limit = self.source.config.get("max_position_embeddings")
        if isinstance(limit, int) and self.options.context > limit:
            raise VqError(
                f"context: the model takes at most {limit} tokens, got {self.options.context}"
            )
        size = self.skeleton.model.get_input_embeddings().weight.shape[0]
        if tokens.numel() and int(tokens.max()) >= size:
            raise VqError(
                f"{self.source.name}: the tokenizer gives token {int(tokens.max())}, but the model knows "
                f"{size} tokens; they do not belong together"
            )
        self.text = tokens
        return choose_windows(tokens, self.options.windows, self.options.context, self.options.seed)

    def fingerprint(self, windows: Windows | None, max_shard_bytes: int) -> dict[str, Any]:
        """Everything that determines the bytes of the result."""
        import transformers

        return {
            "model": self.source.identity(),
            "options": self.options.to_dict(),
            "calibration": None if windows is None else windows.digest,
            "text": digest(self.text),
            "max_shard_bytes": max_shard_bytes,
            "format_version": FORMAT_VERSION,
            "versions": {
                "vq": vq.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.machine(),
            },
        }

    def blocks(self, windows: Windows | None) -> int:
        """Quantize all blocks that are not finished; returns how many were."""
        total = len(self.skeleton.blocks)
        finished = [self.work.has_block(i) for i in range(total)]
        if all(finished):
            return total
        last = max(i for i in range(total) if not finished[i])
        activations = None
        if windows is not None:
            self.tell("calibrate", 0)
            activations = capture(self.skeleton, windows.tokens)
            self.quantizer.begin(activations)
        for index in range(last + 1):
            if finished[index]:
                self._replay(index, activations)
                self.tell("block", index + 1, name=self.skeleton.block_name(index))
            else:
                self._work(index, activations, advance=index < last)
        return sum(finished)

    def _work(self, index: int, activations: Activations | None, advance: bool) -> None:
        """Quantize one block and store the result."""
        started = time.perf_counter()
        name, block = self.skeleton.block_name(index), self.skeleton.blocks[index]
        self.skeleton.fill(block, name)
        result = self.quantizer.quantize(index, activations)
        self.work.save_block(index, result.tensors, result.reports)
        if activations is not None and advance:
            activations.advance(block, index, name)
        self.skeleton.empty(block)
        seconds = time.perf_counter() - started
        self.work.note_time(index, seconds)
        self.tell("block", index + 1, name=name, seconds=seconds, layers=result.reports)

    def _replay(self, index: int, activations: Activations | None) -> None:
        """Run a block that was finished earlier, for the inputs of the next."""
        if activations is None:
            return
        name, block = self.skeleton.block_name(index), self.skeleton.blocks[index]
        self.skeleton.fill(block, name)
        self.quantizer.follow(index)
        install_block(self.quantizer, index, self.work.load_block(index)[0])
        activations.advance(block, index, name)
        self.skeleton.empty(block)


def _warnings(report: dict[str, Any], options: CompressOptions) -> list[str]:
    """Layers of which a user should know."""
    found = []
    for name, layer in report["layers"].items():
        if options.rounding == "ldlq" and layer["damping"] > options.damping * 1.001:
            found.append(f"{name}: damping had to grow to {layer['damping']:g}")
        if layer.get("dead_inputs"):
            found.append(f"{name}: {layer['dead_inputs']} input channels were always zero")
        if layer.get("not_finite_tokens"):
            found.append(
                f"{name}: {layer['not_finite_tokens']} inputs were not finite and left out"
            )
        if options.windows and not layer.get("tokens"):
            found.append(f"{name}: never used by the calibration text; rounded without a Hessian")
    return found
