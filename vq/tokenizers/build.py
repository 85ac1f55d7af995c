"""What a recipe names, made: tokenizer, loss, discriminator, measures."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vq.errors import VqError
from vq.quantizers import KINDS
from vq.quantizers import make as make_quantizer
from vq.tokenizers.backbones import make_backbone
from vq.tokenizers.budget import token_budget
from vq.tokenizers.data import mix
from vq.tokenizers.folder import Folder
from vq.tokenizers.folder_report import aligned, folder_table
from vq.tokenizers.losses import ReconstructionLoss
from vq.tokenizers.measures import psnr, si_sdr, ssim
from vq.tokenizers.recipe import Recipe
from vq.tokenizers.tokenizer import Tokenizer

_SSIM_WINDOW = 11
UNTRAINED = "untrained"


def build_tokenizer(recipe: Recipe, seed: int = 0) -> Tokenizer:
    """A tokenizer with fresh weights; torch's global generator stays as it was.

    Raises:
        VqError: for names and arguments that do not exist or do not fit, with the recipe's key.
    """
    backbone = dict(recipe.backbone)
    quantizer = dict(recipe.quantizer)
    name, kind = backbone.pop("name"), quantizer.pop("kind")
    backbone.setdefault("channels", recipe.channels)
    try:
        body = make_backbone(name, seed=mix(seed, 6) % (1 << 62), **backbone)
        if not recipe.quantized:
            return Tokenizer(body, None, _rate(recipe), recipe.normalisation)
        if kind in KINDS and "dim" in inspect.signature(KINDS[kind]).parameters:
            quantizer.setdefault("dim", body.dim)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(seed, 7))
            made = make_quantizer(kind, **quantizer)
        tokenizer = Tokenizer(body, made, _rate(recipe), recipe.normalisation)
    except ValueError as error:
        raise VqError(f"recipe: {error}") from error
    if tokenizer.kind != recipe.kind:
        raise VqError(
            f"backbone.name: {name} is for {tokenizer.kind}, the recipe is for {recipe.kind}"
        )
    if body.channels != recipe.channels:
        raise VqError(f"backbone.channels is {body.channels}, channels is {recipe.channels}")
    _check_size(recipe, tokenizer)
    return tokenizer


def _check_size(recipe: Recipe, tokenizer: Tokenizer) -> None:
    try:
        tokenizer.backbone.positions(recipe.item_size)
    except ValueError as error:
        key = "size" if recipe.kind == "image" else "seconds"
        grain = tokenizer.backbone.grain[0]
        near = max(round(recipe.item_size[0] / grain), 1) * grain
        fits = str(near) if recipe.kind == "image" else f"{near / recipe.sample_rate:.6g}"
        raise VqError(f"{error}. Try {key}={fits}") from error


def _rate(recipe: Recipe) -> int | None:
    return recipe.sample_rate if recipe.kind == "audio" else None


def build_loss(recipe: Recipe) -> ReconstructionLoss:
    """The reconstruction loss of a recipe.

    Each key of ``loss`` is a part, its value a weight (0 drops it) or a map of ``weight`` and options.

    Raises:
        VqError: for parts or options that do not exist.
    """
    weights: dict[str, float] = {}
    options: dict[str, dict[str, Any]] = {}
    for name, value in recipe.loss.items():
        more = dict(value) if isinstance(value, dict) else {"weight": value}
        weight = more.pop("weight", 1.0)
        if weight == 0:
            continue
        weights[name] = weight
        if more:
            options[name] = more
    try:
        return ReconstructionLoss(weights, _rate(recipe), options)
    except (TypeError, ValueError) as error:
        raise VqError(f"recipe: loss: {error}") from error


def quality_of(recipe: Recipe) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """Measures of the recipe's kind, means over items: PSNR and SSIM, or SI-SDR; decibels."""

    def image(output: Tensor, target: Tensor) -> dict[str, float]:
        """PSNR, and SSIM of images that its window fits into."""
        found = {"psnr": float(psnr(output, target).mean())}
        if min(target.shape[2:]) >= _SSIM_WINDOW:
            found["ssim"] = float(ssim(output, target).mean())
        return found

    def audio(output: Tensor, target: Tensor) -> dict[str, float]:
        """SI-SDR."""
        return {"si_sdr": float(si_sdr(output, target).mean())}

    return image if recipe.kind == "image" else audio


def describe(tokenizer: Tokenizer, recipe: Recipe, folder: Folder) -> str:
    """What is about to be trained on what, and what its codes will cost: a table for people."""
    parameters = sum(p.numel() for p in tokenizer.parameters())
    rows = [("model", f"{tokenizer.named}, {parameters / 1e6:.2f} M parameters")]
    if tokenizer.quantizer is None:
        return f"{folder_table(folder)}\n{aligned(rows)}"
    spec = tokenizer.spec(UNTRAINED)
    positions = math.prod(tokenizer.backbone.positions(recipe.item_size))
    books = Counter(spec.entries)
    rows.append(("codes", ", ".join(f"{count} x {n:,} entries" for n, count in books.items())))
    rows.append(("rate", f"{spec.bits_per_position:.1f} bits a position"))
    drawn = positions * recipe.batch * (recipe.steps - round(recipe.warmup * recipe.steps))
    rows.append(("training", f"{drawn / max(spec.entries):.0f} vectors for each entry"))
    return f"{folder_table(folder)}\n{aligned(rows)}\n{token_budget(folder, spec).table()}"
