"""The tokenizer: encoder, quantizer, decoder; a signal to codes and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq.errors import VqError
from vq.quantizers import Quantized, Quantizer
from vq.quantizers import make as make_quantizer
from vq.tokenizers.backbones import Backbone, make_backbone
from vq.tokenizers.code_spec import CodeSpec, check_normalisation
from vq.tokenizers.modelfile import content_hash, read_model, write_model
from vq.tokenizers.windows import decode_long, encode_long, pad_to_grain

FORMAT = "vq-tokenizer"
VERSION = 1
MODES = ("quantized", "bypass")


@dataclass(frozen=True)
class Reconstruction:
    """What one pass through a tokenizer gives.

    Attributes:
        values: ``(B, channels, *size)``, the signal again.
        quantized: the quantizer's result, features last; None in bypass mode.
    """

    values: Tensor
    quantized: Quantized | None


class Tokenizer(nn.Module):
    """Signals ``(B, channels, *size)`` from -1 to 1 to codes ``(B, Q, *positions)`` int64 and back.

    Q codes stand at each position, the quantizer's own axes in row-major order; a position is ``hop`` samples (pixels)
    on each axis.

    Args:
        backbone: encoder and decoder.
        quantizer: between them; None for a plain autoencoder, which has no codes.
        sample_rate: of audio, in Hz.
        normalisation: what is done to signals before they come here: "none", or "loudness" for audio, see
            ``vq.tokenizers.audio.normalise_loudness``. ``TokenizerCodec`` does it, and gives the loudness back.

    Attributes:
        mode: ``quantized``, or ``bypass`` to leave the quantizer out of ``forward`` (the warm-up of training).

    Raises:
        ValueError: if the quantizer takes vectors of another length than the backbone makes, or for another
            normalisation.
    """

    def __init__(
        self,
        backbone: Backbone,
        quantizer: Quantizer | None,
        sample_rate: int | None = None,
        normalisation: str = "none",
    ) -> None:
        super().__init__()
        check_normalisation(backbone.kind, normalisation)
        if quantizer is not None and quantizer.dim != backbone.dim:
            raise ValueError(
                f"backbone {backbone.name} makes features of dim {backbone.dim}, quantizer {quantizer.kind} takes "
                f"{quantizer.dim}; set backbone.dim to {quantizer.dim}"
            )
        self.backbone = backbone
        self.quantizer = quantizer
        self.sample_rate = sample_rate
        self.normalisation = normalisation
        self.mode = "bypass" if quantizer is None else "quantized"

    @property
    def kind(self) -> str:
        """``image`` or ``audio``."""
        return self.backbone.kind

    def set_mode(self, mode: str) -> None:
        """Choose ``quantized`` or ``bypass``.

        Raises:
            ValueError: for another mode, or ``quantized`` where there is no quantizer.
        """
        if mode not in MODES or (mode == "quantized" and self.quantizer is None):
            raise ValueError(f"mode: expected {' or '.join(MODES)}, got {mode!r} for {self.named}")
        self.mode = mode

    @property
    def named(self) -> str:
        """Backbone and quantizer in a few words."""
        quantizer = "no quantizer" if self.quantizer is None else self.quantizer.kind
        return f"{self.backbone.name} with {quantizer}"

    def features(self, x: Tensor) -> Tensor:
        """Encoder output, features last: ``(B, *positions, dim)``."""
        return self.backbone.encode(x).movedim(1, -1)

    def synthesize(self, values: Tensor) -> Tensor:
        """Decoder output ``(B, channels, *size)`` of features ``(B, *positions, dim)``."""
        return self.backbone.decode(values.movedim(-1, 1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Reconstruction:
        """Encode, quantize unless bypassed, decode; what training differentiates.

        Args:
            x: ``(B, channels, *size)`` with sizes that are multiples of the backbone's grain.
            mask: ``(B, *positions)`` bool, True for positions that count.

        Raises:
            ValueError: for other shapes, or a quantizer that has not started yet.
        """
        z = self.features(x)
        if self.mode == "bypass" or self.quantizer is None:
            return Reconstruction(self.synthesize(z), None)
        quantized = self.quantizer(z, mask)
        return Reconstruction(self.synthesize(quantized.values), quantized)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes ``(B, Q, *positions)`` int64 of signals of any size, without a change of state.

        Signals are mirrored at their end up to the backbone's grain, and run item by item in windows of one shape: the
        codes do not depend on the batch, nor on how a longer file was read (see ``vq.tokenizers.windows``).

        Raises:
            ValueError: for other shapes or values that are not finite; no quantizer, or one not started.
        """
        self._need_quantizer()
        padded = pad_to_grain(x, self.backbone.grain)
        if self._local:
            return encode_long(self.backbone, padded, then=self._codes)
        return torch.cat(
            [self._codes(encode_long(self.backbone, item)) for item in padded.split(1)]
        )

    @torch.no_grad()
    def decode(
        self, codes: Tensor, stages: int | None = None, size: Sequence[int] | None = None
    ) -> Tensor:
        """Signals ``(B, channels, *size)`` of codes, item by item in windows like ``encode``.

        Args:
            codes: ``(B, Q, *positions)``.
            stages: use the first stages of the quantizer only; None takes all.
            size: crop to this size, that of the signal before padding.

        Raises:
            ValueError: for codes out of range or of another shape, and where there is no quantizer that has started.
        """
        quantizer = self._need_quantizer()
        axes, depth = len(self.backbone.hop), len(quantizer.code_entries)
        if codes.ndim != 2 + axes or codes.shape[1] != depth:
            raise ValueError(
                f"expected codes (B, {depth}, *{axes} axes) of {self.named}, got {tuple(codes.shape)}"
            )

        def values(part: Tensor) -> Tensor:
            """Values with their axis in the place where that of the codes was."""
            last = part.movedim(1, -1)
            shaped = last.reshape(*last.shape[:-1], *quantizer.codes_shape)
            return quantizer.decode(shaped, stages).movedim(-1, 1)

        if self._local:
            x = decode_long(self.backbone, codes, first=values)
        else:
            x = torch.cat([decode_long(self.backbone, values(item)) for item in codes.split(1)])
        if size is not None:
            for axis, length in enumerate(size, start=2):
                x = x.narrow(axis, 0, min(length, x.shape[axis]))
        return x

    def _codes(self, features: Tensor) -> Tensor:
        """Codes ``(B, Q, *positions)`` of features ``(B, dim, *positions)``."""
        assert self.quantizer is not None
        codes = self.quantizer.encode(features.movedim(1, -1))
        axes = len(self.backbone.hop)
        return codes.reshape(*codes.shape[: 1 + axes], -1).movedim(-1, 1).contiguous()

    @property
    def strides(self) -> tuple[int, ...]:
        """For each of the Q codes, along how many positions of the last axis it stays the same."""
        if self.quantizer is None:
            return ()
        depth = len(self.quantizer.code_entries)
        each = [int(n) for n in getattr(self.quantizer, "strides", (1,))]
        return tuple(n for n in each for _ in range(depth // len(each)))

    @property
    def _local(self) -> bool:
        """Whether each position is quantized by itself."""
        return all(stride == 1 for stride in self.strides)

    @property
    def code_spec(self) -> CodeSpec:
        """What the codes mean, for token files; hashes all weights.

        Raises:
            ValueError: where there is no quantizer that has started.
        """
        self._need_quantizer()
        return self.spec(self.model_hash)

    def spec(self, model_hash: str) -> CodeSpec:
        """What the codes mean, with a hash that is known already.

        Raises:
            ValueError: where there is no quantizer.
        """
        return CodeSpec(
            kind="image" if self.kind == "image" else "audio",
            entries=() if self.quantizer is None else self.quantizer.code_entries,
            strides=self.strides,
            hop=self.backbone.hop,
            channels=self.backbone.channels,
            sample_rate=self.sample_rate,
            normalisation=self.normalisation,
            model_hash=model_hash,
        )

    def _need_quantizer(self) -> Quantizer:
        if self.quantizer is None:
            raise ValueError(f"{self.named} is an autoencoder and has no codes; use forward")
        if not self.quantizer.ready:
            raise ValueError(
                f"the quantizer {self.quantizer.kind} has not started; train beyond the warm-up first"
            )
        return self.quantizer

    def config(self) -> dict[str, Any]:
        """What ``from_config`` needs, in plain values."""
        quantizer = self.quantizer
        plain = self.normalisation == "none"
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "sample_rate": self.sample_rate,
            **({} if plain else {"normalisation": self.normalisation}),
            "backbone": {"name": self.backbone.name, **self.backbone.config()},
            "quantizer": quantizer and {"kind": quantizer.kind, **quantizer.config()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Tokenizer:
        """A tokenizer with fresh weights.

        Raises:
            VqError: for another format or a later version.
            ValueError: for names and arguments that do not exist.
        """
        if config.get("format") != FORMAT or config.get("version") != VERSION:
            raise VqError(
                f"expected a {FORMAT} of version {VERSION}, got {config.get('format')!r} of version "
                f"{config.get('version')!r}"
            )
        backbone, quantizer = dict(config["backbone"]), config["quantizer"]
        name = backbone.pop("name")
        made = None
        if quantizer is not None:
            arguments = dict(quantizer)
            made = make_quantizer(arguments.pop("kind"), **arguments)
        normalisation = config.get("normalisation", "none")
        return cls(make_backbone(name, **backbone), made, config["sample_rate"], normalisation)

    @property
    def model_hash(self) -> str:
        """SHA-256 (hex) of the configuration and every weight: two tokenizers with one hash give the same codes."""
        return content_hash(self.config(), self.state_dict())

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; an existing folder is replaced whole at the end."""
        config = {**self.config(), "model_hash": self.model_hash}
        write_model(Path(folder), config, self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """The tokenizer of a folder, on the CPU and in eval mode.

        Raises:
            VqError: if there is none, or its weights are not those its hash was made of.
        """
        config, weights = read_model(Path(folder))
        stated = config.pop("model_hash", None)
        tokenizer = cls.from_config(config)
        try:
            tokenizer.load_state_dict(weights)
        except RuntimeError as error:
            raise VqError(
                f"{folder}: the weights do not fit the configuration ({error})"
            ) from error
        if tokenizer.model_hash != stated:
            raise VqError(f"{folder}: the weights are not those its model_hash names; copy it anew")
        return tokenizer.eval()
