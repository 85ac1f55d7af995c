"""From a model to a compressed folder: a queue of blocks that survives being killed."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import vq
from vq.compressors.calibration.calibrate import Activations, NotAChain, capture
from vq.compressors.calibration.hessian import my_windows
from vq.compressors.calibration.samples import Calibration, Samples, TokenWeights, read_samples
from vq.compressors.calibration.texts import digest
from vq.compressors.calibration.whole import run_whole
from vq.compressors.checkpoint.embeddings import NoEmbeddings, pack_embeddings
from vq.compressors.checkpoint.folder import assemble, check_output, publish
from vq.compressors.checkpoint.shards import FORMAT_VERSION
from vq.compressors.files.source import ModelSource, open_source
from vq.compressors.files.workfolder import WorkFolder
from vq.compressors.options import KEEP, CompressOptions
from vq.compressors.planning.stage import planned
from vq.compressors.ranks import TIMEOUT, Ranks, join
from vq.compressors.recipes import read_recipe
from vq.compressors.report import warnings_of
from vq.compressors.rounding.block import BlockResult, Shelf
from vq.compressors.structure.memory import release
from vq.compressors.structure.skeleton import Skeleton, build_skeleton
from vq.compressors.tuning.blocks import block_quantizer
from vq.compressors.tuning.stage import check_processes, check_tunable, tune_stage
from vq.errors import VqError


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
    calibration: Calibration | None = None,
    token_weights: TokenWeights | None = None,
    max_shard_bytes: int = 2 * 10**9,
    overwrite: bool = False,
    restart: bool = False,
    progress: Callable[[Progress], None] | None = None,
    timeout: float = TIMEOUT,
) -> CompressReport:
    """Compress a model of transformers to a Hugging Face folder.

    One block is in memory at a time. The run may be killed: the same call goes on after the last finished block and
    ends with the same bytes. Started by ``torchrun`` in several processes, they share the work, and the bytes are
    those of one process.

    Args:
        model: a Hugging Face folder, a ``.gguf`` file, a CTranslate2 ``model.bin``, or a hub id.
        output: folder to make; it appears only when it is complete.
        options: see CompressOptions; None takes the recipe's.
        recipe: name or YAML file, used where ``options`` is None.
        calibration: files or folders of text (of sound for a speech model), or an iterable of texts, of token tensors,
            or of mappings with the arguments of the model; needed unless ``options.windows`` is 0.
        token_weights: how much each calibration token counts: ``(tokens,)`` for each window, or a function from a
            window's tokens to that.
        max_shard_bytes: largest weight file.
        overwrite: replace an existing output at the end.
        restart: throw away what an earlier, unfinished run left.
        progress: called after each step, in the process that writes.
        timeout: seconds that a process waits for another one before the job ends.

    Raises:
        VqError: for anything wrong with the input; says what to do.
    """
    started = time.perf_counter()
    chosen = options or read_recipe(recipe)
    target = Path(output)
    _check_arguments(chosen, calibration is not None, token_weights is not None, max_shard_bytes)
    with join(timeout) as ranks:
        if ranks.first:
            check_output(target, overwrite)
        work = WorkFolder(target)
        with work.locked() if ranks.first else contextlib.nullcontext():
            source = _open(model, work, ranks)
            check_processes(chosen, ranks)  # before a plan takes its time
            chosen = planned(source, work, chosen, calibration, restart, ranks)
            tell = progress if progress and ranks.first else lambda _: None
            run = _Run(source, work, chosen, tell, ranks)
            check_tunable(run.skeleton, chosen, ranks, token_weights is not None)
            samples = run.read(calibration, token_weights)
            changed = run.begin(samples, max_shard_bytes, restart)
            resumed = run.blocks(samples)
            if samples is not None:
                tune_stage(run.skeleton, run.quantizer, work, chosen, samples.text, run.tell)
            report = run.write(target, samples, max_shard_bytes)
        if ranks.first:
            work.remove()
        report = ranks.agree(report)
    run.tell("write", run.total)
    seconds = time.perf_counter() - started
    warnings = [f"{change}: the last digits may differ from a run in one go" for change in changed]
    warnings += [*run.notes, *warnings_of(report, chosen)]
    return CompressReport(target, report, seconds, resumed, warnings)


def _check_arguments(
    options: CompressOptions, calibration: bool, token_weights: bool, max_shard_bytes: int
) -> None:
    """Raise VqError for arguments of ``compress`` that do not go together."""
    if options.windows and not calibration:
        raise VqError("calibration: expected text files (the recipe uses calibration), got none")
    if token_weights and options.token_weights != "none":
        raise VqError("token_weights: given in the options and in the call; use one of them")
    if max_shard_bytes < 1:
        raise VqError(f"max_shard_bytes: expected a positive number, got {max_shard_bytes}")


def _open(model: str | Path, work: WorkFolder, ranks: Ranks) -> ModelSource:
    """Open the model; what must be fetched or converted is so by one process, before the others look."""
    if ranks.first:
        source = open_source(model, work.path)
    ranks.wait()
    return source if ranks.first else open_source(model, work.path)


class _Run:
    """The state of one call of compress."""

    def __init__(
        self,
        source: ModelSource,
        work: WorkFolder,
        options: CompressOptions,
        progress: Callable[[Progress], None],
        ranks: Ranks,
    ) -> None:
        self.source, self.work, self.options, self.progress = source, work, options, progress
        self.ranks = ranks
        self.notes: list[str] = []
        self.example: dict[str, Any] = {}
        attention = "eager" if options.token_weights == "attention" else None
        self.skeleton: Skeleton = build_skeleton(source, attention=attention)
        self.total = len(self.skeleton.blocks)
        self.shelf = Shelf(options, options.seed)
        self.quantizer = block_quantizer(self.skeleton, self.shelf, options, ranks)
        self._check_layers()
        self.tell("read", 0)

    def tell(self, stage: str, done: int, total: int | None = None, **more: Any) -> None:
        """Report progress."""
        self.progress(Progress(stage, done, total or self.total, **more))

    def _check_layers(self) -> None:
        """Raise where there is nothing to compress, or a pattern matches no layer."""
        names = [n for i in range(self.total) for n in self.skeleton.linears(i)]
        if not names:
            raise VqError(f"{self.source.name}: its blocks hold no linear layer to compress")
        for pattern in self.options.layers:
            if pattern.startswith("?"):  # of a recipe for many models: it may match nothing
                continue
            alone = CompressOptions(layers={pattern: "keep"})
            if not any(alone.codebook_of(name) == "keep" for name in names):
                raise VqError(f"layers: {pattern!r} matches no layer; names are such as {names[0]}")

    def read(self, calibration: Calibration | None, weights: TokenWeights | None) -> Samples | None:
        """Calibration windows from the user's data; None without calibration."""
        if not self.options.windows:
            return None
        assert calibration is not None
        samples = read_samples(calibration, self.source, self.skeleton, self.options, weights)
        mine = my_windows(len(samples), self.ranks)
        self.quantizer.windows = len(samples)
        if samples.weights is not None:
            self.quantizer.weights = [samples.weights[i] for i in mine]
        return samples

    def fingerprint(self, samples: Samples | None, max_shard_bytes: int) -> dict[str, Any]:
        """Everything that determines the bytes of the result."""
        import transformers

        return {
            "model": self.source.identity(),
            "options": self.options.to_dict(),
            "calibration": None if samples is None else samples.digest,
            "text": None if samples is None or samples.text is None else digest(samples.text),
            "max_shard_bytes": max_shard_bytes,
            "format_version": FORMAT_VERSION,
            "versions": {
                "vq": vq.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "machine": platform.machine(),
            },
        }

    def begin(self, samples: Samples | None, max_shard_bytes: int, restart: bool) -> list[str]:
        """Begin or go on in the work folder; returns what changed since the run began that may change last digits."""
        fingerprint = self.fingerprint(samples, max_shard_bytes)
        noted = {"threads": torch.get_num_threads()}
        return self.work.begin(fingerprint, noted, restart) if self.ranks.first else []

    def write(self, target: Path, samples: Samples | None, max_shard_bytes: int) -> dict[str, Any]:
        """Make the folder of the finished blocks and put it in place; the report, in the process that writes."""
        report: dict[str, Any] = {}
        if self.ranks.first:
            folder, report = assemble(
                self.source,
                self.work,
                self.skeleton,
                self.shelf,
                self.options,
                max_shard_bytes,
                samples,
            )
            report = self._pack_embeddings(folder, max_shard_bytes) or report
            publish(folder, target)
        self.ranks.wait()
        return report

    def _pack_embeddings(self, folder: Path, max_shard_bytes: int) -> dict[str, Any] | None:
        """Pack the embeddings of the finished folder, if the options say so; the new report."""
        if self.options.embeddings == KEEP:
            return None
        try:
            return pack_embeddings(folder, self.skeleton.model, self.options, max_shard_bytes)
        except NoEmbeddings as reason:
            if self.options.embeddings == self.options.packed_embeddings:
                raise
            self.notes.append(f"{reason}; they stay as they are")
            return None

    def blocks(self, samples: Samples | None) -> int:
        """Quantize all blocks that are not finished; returns how many were."""
        finished = self._finished()
        if all(finished):
            return self.total
        inputs = None
        if samples is not None:
            self.tell("calibrate", 0)
            inputs = [samples.inputs[i] for i in my_windows(len(samples), self.ranks)]
            self.example = samples.inputs[0]
        try:
            self._chains(finished, inputs)
        except NotAChain as reason:
            self.notes.append(
                f"{reason}: the whole model was kept in memory, and run from its start for each block"
            )
            self._whole(self._finished(), inputs or [])
        return sum(finished)

    def _finished(self) -> list[bool]:
        """Whether each block is."""
        found = [self.work.has_block(i) for i in range(self.total)] if self.ranks.first else None
        finished: list[bool] = self.ranks.agree(found)
        return finished

    def _chains(self, finished: list[bool], inputs: list[dict[str, Any]] | None) -> None:
        """Block by block, with one of them in memory, stack after stack."""
        last = max(i for i in range(self.total) if not finished[i])
        before: dict[str, Activations] = {}
        activations: Activations | None = None
        for index in range(last + 1):
            stack, number = self.skeleton.place(index)
            if inputs is not None and number == 0:
                if activations is not None:
                    before[self.skeleton.place(index - 1)[0]] = activations
                activations = self._capture(inputs, stack, before)
                self.quantizer.begin(activations)
            following = index < last
            if finished[index]:
                self._replay(index, activations if following else None)
                self.tell("block", index + 1, name=self.skeleton.block_name(index))
            else:
                self._work(index, activations, advance=following)

    def _capture(
        self, inputs: list[dict[str, Any]], stack: str, before: dict[str, Activations]
    ) -> Activations:
        """Inputs of a stack in this process's windows; one without any only looks whether the stack is a chain."""
        if inputs:
            return capture(self.skeleton, inputs, stack, before)
        found = capture(self.skeleton, [self.example], stack, before)
        return Activations([], [[] for _ in found.calls], found.start, found.outputs)

    def _work(self, index: int, activations: Activations | None, advance: bool) -> None:
        """Quantize one block and store the result."""
        started = time.perf_counter()
        name, block = self.skeleton.block_name(index), self.skeleton.blocks[index]
        self.skeleton.fill(block, name)
        original = self.options.calibrate_on == "original"
        later = None
        if activations is not None and advance and original:
            later = activations.after(block, index, name)
        result = self.quantizer.quantize(index, activations)
        self._store(index, result)
        if activations is not None and advance:
            if later is not None:
                activations.hidden = later
            else:
                activations.advance(block, index, name)
        if activations is not None:
            activations.forget()
        self.skeleton.empty(block)
        self._done(index, started, result)

    def _store(self, index: int, result: BlockResult) -> None:
        if self.ranks.first:
            self.work.save_block(index, result.tensors, result.reports)

    def _done(self, index: int, started: float, result: BlockResult) -> None:
        seconds = time.perf_counter() - started
        name = self.skeleton.block_name(index)
        if self.ranks.first:
            self.work.note_time(index, seconds)
        self.tell("block", index + 1, name=name, seconds=seconds, layers=result.reports)

    def _replay(self, index: int, activations: Activations | None) -> None:
        """Run a block that was finished earlier, for the inputs of the next."""
        if activations is None:
            return
        name, block = self.skeleton.block_name(index), self.skeleton.blocks[index]
        self.skeleton.fill(block, name)
        self.quantizer.follow(index)
        if self.options.calibrate_on == "quantized":
            self._install(index)
        activations.advance(block, index, name)
        self.skeleton.empty(block)

    def _install(self, index: int) -> None:
        """Put the finished weights of a block in place."""
        tensors, reports = self.work.load_block(index) if self.ranks.first else ({}, {})
        tensors, reports = self.ranks.share_tensors(tensors, reports, 0)
        self.quantizer.restore(index, tensors, reports)

    def _whole(self, finished: list[bool], inputs: list[dict[str, Any]]) -> None:
        """Quantize the blocks of a model that must be run as a whole."""
        activations = run_whole(self.skeleton, inputs, self.options)
        for index in range(self.total):
            if finished[index]:
                self._install(index)
                continue
            started = time.perf_counter()
            result = self.quantizer.quantize(index, activations)
            self._store(index, result)
            release()
            self._done(index, started, result)
