"""A trained tokenizer as a codec: opened from its folder, one signal at a time, loudness and size given back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vq.errors import VqError
from vq.tokenizers.audio import normalise_loudness
from vq.tokenizers.baselines import Coded
from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.evaluate import prefix_bits
from vq.tokenizers.tokenizer import FORMAT, Tokenizer


def find_tokenizer(path: str | Path) -> Path | None:
    """The folder of the tokenizer that a path means: itself, or ``model`` in the folder of a run; None if neither."""
    for folder in (Path(path), Path(path) / "model"):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and config.get("format") == FORMAT:
            return folder
    return None


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model's folder or of a run's.

    Raises:
        VqError: if there is none, or it cannot be loaded.
    """
    folder = find_tokenizer(path)
    if folder is not None:
        return Tokenizer.load(folder)
    if (Path(path) / "run.json").exists():
        raise VqError(
            f"{path}: this run has no model yet; give its `vq train` command again, it goes on"
        )
    raise VqError(
        f"{path}: no tokenizer here; expected the folder of a `vq train` run, or the model folder inside it"
    )


class TokenizerCodec:
    """A tokenizer behind the interface of ``vq.tokenizers.baselines.Codec``.

    Args:
        tokenizer: with a quantizer that has started.
        name: for tables.

    Raises:
        ValueError: for an autoencoder, or a quantizer that has not started.
    """

    def __init__(self, tokenizer: Tokenizer, name: str = "tokenizer") -> None:
        self.tokenizer = tokenizer.eval()
        self.name = name
        self.spec: CodeSpec = tokenizer.code_spec
        self.kind = self.spec.kind

    @property
    def prefix_bits(self) -> tuple[float, ...]:
        """Nominal bits of a position for the first 1, 2, ... stages."""
        quantizer = self.tokenizer.quantizer
        assert quantizer is not None
        shape = quantizer.codes_shape

        def decode(codes: Tensor, stages: int) -> Tensor:
            return quantizer.decode(codes.reshape(len(codes), *shape), stages)

        with torch.no_grad():
            return prefix_bits(self.spec, quantizer.stages, decode)

    def encode(self, x: Tensor) -> Coded:
        """Codes ``(Q, *positions)`` of a signal ``(channels, *size)``, and the gain that restores its loudness."""
        gain = 1.0
        if self.spec.normalisation == "loudness":
            x, gain = normalise_loudness(x)
        return Coded(codes=self.tokenizer.encode(x[None])[0], gain=gain)

    def restore(self, coded: Coded, size: Sequence[int], stages: int | None = None) -> Tensor:
        """The signal ``(channels, *size)``, at its own loudness."""
        assert coded.codes is not None
        x = self.tokenizer.decode(coded.codes[None], stages, tuple(size))[0]
        return x if coded.gain == 1.0 else x * coded.gain
