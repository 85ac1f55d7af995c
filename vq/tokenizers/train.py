"""A training run, from a folder of files to a folder with a tokenizer."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vq.tokenizers.adversary import build_adversary
from vq.tokenizers.build import build_loss, build_tokenizer, describe, quality_of
from vq.tokenizers.callbacks import Keeper, Report, Validation, reconstruct
from vq.tokenizers.data import Fixed, Pieces, Steps, mix
from vq.tokenizers.metrics_file import MetricsFile
from vq.tokenizers.module import TokenizerModule
from vq.tokenizers.monitor import CodebookMonitor
from vq.tokenizers.pictures import Samples
from vq.tokenizers.recipe import Recipe
from vq.tokenizers.runfolder import RunFolder
from vq.tokenizers.source import Source, inspect
from vq.tokenizers.train_options import TrainOptions, TrainReport

__all__ = ["TrainOptions", "TrainReport", "train"]

_POOL = 1 << 48  # numbers of items that only the quantizer's start looks at


def train(
    recipe: Recipe, data: str | Path, out: str | Path, options: TrainOptions | None = None
) -> TrainReport:
    """Train a tokenizer on a folder, or go on with a run that was stopped.

    A run that was killed and resumed ends with the same weights, bit for bit, as one that was not (on the same machine
    with the same number of threads): items and random draws of a step depend on the seed and the step alone.

    Args:
        recipe: see ``read_recipe``.
        data: folder with images or sounds, searched with its subfolders.
        out: folder of the run: ``checkpoints``, ``metrics.csv``, ``samples`` and at the end ``model``.
        options: everything else.

    Raises:
        VqError: for data that cannot be used, a folder that holds another run, or losses that stay not finite.
        ValueError: for arguments of backbone, quantizer or loss that do not exist.
    """
    options = options or TrainOptions()
    began = time.monotonic()
    source = inspect(data, recipe)
    folder = RunFolder(out)
    module = make_module(recipe, source, options)
    if is_main_process():
        _tell(options, describe(module.tokenizer, recipe, source.folder))
        folder.open(_settings(recipe, source, options), fresh=options.fresh)
    report = _callbacks(module, folder, source, options)
    if folder.last_step < recipe.steps:
        _fit(module, folder, source, options, report)
    else:
        _restore(module, folder)
    return _finish(module, folder, source, options, report, began)


def make_module(recipe: Recipe, source: Source, options: TrainOptions) -> TokenizerModule:
    """The module of a run, with fresh weights."""
    pieces = source.pieces(recipe, mix(options.seed, 5))

    def pool(n: int) -> Tensor:
        """Batch n of the pieces that start the quantizer, which training does not see."""
        first = _POOL + n * recipe.batch
        return torch.stack([pieces[first + i] for i in range(recipe.batch)])

    tokenizer = build_tokenizer(recipe, options.seed)
    adversary = build_adversary(recipe, options.seed)
    return TokenizerModule(tokenizer, recipe, build_loss(recipe), pool, adversary, options.seed)


def _settings(recipe: Recipe, source: Source, options: TrainOptions) -> dict[str, Any]:
    """What a resumed run must share with the one that was stopped."""
    return {
        "recipe": recipe.to_dict(),
        "seed": options.seed,
        "overfit": options.overfit,
        "devices": options.devices,
        "data": source.digest,
    }


def _every(recipe: Recipe, options: TrainOptions) -> int:
    return options.log_every or min(max(recipe.steps // 50, 1), 100)


@dataclass
class _Watchers:
    """The callbacks of a run, in their order."""

    monitor: CodebookMonitor
    validation: Validation
    samples: Samples
    report: Report
    keeper: Keeper
    items: Tensor


def _callbacks(
    module: TokenizerModule, folder: RunFolder, source: Source, options: TrainOptions
) -> _Watchers:
    recipe = module.recipe
    every = _every(recipe, options)
    if options.overfit:
        pieces = source.pieces(recipe, mix(options.seed, 5))
        items = torch.stack([pieces[n] for n in range(options.overfit)])
    else:
        items = source.fixed(recipe, options.held_out)
    monitor = CodebookMonitor(every)
    validation = Validation(items, quality_of(recipe), every)
    rate = recipe.sample_rate if recipe.kind == "audio" else None
    limit = None if options.max_minutes is None else 60 * options.max_minutes
    return _Watchers(
        monitor,
        validation,
        Samples(folder.samples, items[:4] if rate else items[:8], recipe.steps, rate),
        Report(recipe.steps, every, monitor, validation, options.show),
        Keeper(folder.checkpoints, recipe.steps, limit=limit),
        items,
    )


def _fit(
    module: TokenizerModule,
    folder: RunFolder,
    source: Source,
    options: TrainOptions,
    watchers: _Watchers,
) -> None:
    with _quiet():
        loggers: list[Any] = [MetricsFile(folder.metrics, folder.last_step)]
        if options.tensorboard:
            loggers.append(_tensorboard(folder))
        w = watchers
        trainer = lightning.Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            strategy="auto" if options.devices == 1 else "ddp_find_unused_parameters_true",
            precision=module.recipe.precision,  # type: ignore[arg-type]  # a Literal; the recipe says what is wrong
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=loggers,
            callbacks=[w.monitor, w.validation, w.samples, w.report, w.keeper],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder.root,
        )
        loader = _loader(module, source, options, trainer)
        if folder.last is not None:
            _tell(options, f"going on from step {folder.last_step}")
        last = None if folder.last is None else str(folder.last)
        try:
            trainer.fit(module, loader, ckpt_path=last)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop


def _tensorboard(folder: RunFolder) -> Any:
    """A logger of event files in the run's folder."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder.root, name="tensorboard", version="")


def _loader(
    module: TokenizerModule, source: Source, options: TrainOptions, trainer: lightning.Trainer
) -> DataLoader[Tensor]:
    pieces: Dataset[Tensor] = source.pieces(module.recipe, mix(options.seed, 5))
    if options.overfit:
        assert isinstance(pieces, Pieces)
        pieces = Fixed(torch.stack([pieces[n] for n in range(options.overfit)]))
    sampler = Steps(
        module.recipe.batch, lambda: module.step, trainer.global_rank, trainer.world_size
    )
    return DataLoader(
        pieces,
        batch_sampler=sampler,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _restore(module: TokenizerModule, folder: RunFolder) -> None:
    """Weights and counters of the last checkpoint, without a Trainer."""
    assert folder.last is not None
    state = torch.load(folder.last, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    module.on_load_checkpoint(state)


def _finish(
    module: TokenizerModule,
    folder: RunFolder,
    source: Source,
    options: TrainOptions,
    watchers: _Watchers,
    began: float,
) -> TrainReport:
    """Write the tokenizer and say how it went."""
    recipe = module.recipe
    module.to("cpu")
    usable = module.tokenizer.quantizer is None or module.started
    model_hash = None
    if usable:
        if is_main_process():
            module.tokenizer.save(folder.model)
        model_hash = module.tokenizer.model_hash
    ratio = None
    values = dict(watchers.report.latest)
    if options.overfit and module.step >= recipe.steps:
        ratio = _loss_ratio(module, watchers.items)
        values["overfit"] = ratio
    return TrainReport(
        folder.root,
        module.step,
        recipe.steps,
        time.monotonic() - began,
        values,
        folder.model if usable else None,
        model_hash,
        ratio,
    )


@torch.no_grad()
def _loss_ratio(module: TokenizerModule, items: Tensor) -> float:
    """Reconstruction loss of items over that of signals that are constant, each item's mean."""
    output = reconstruct(module, items)
    axes = tuple(range(2, items.ndim))
    constant = items.mean(axes, keepdim=True).expand_as(items)
    loss = float(module.reconstruction(output, items).total)
    trivial = float(module.reconstruction(constant, items).total)
    return loss / trivial if trivial > 0 else math.inf


def is_main_process() -> bool:
    """Whether this is the first process of a run; Lightning and torchrun number the others in the environment."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def _tell(options: TrainOptions, text: str) -> None:
    if options.show is not None and is_main_process():
        options.show(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware and its advice on loaders; errors stay."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        warnings.filterwarnings("ignore", message=".*pytree.*")
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
