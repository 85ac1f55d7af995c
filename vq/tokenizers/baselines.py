"""What a trained tokenizer has to beat: JPEG, and codebooks on blocks of samples without any network."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from vq.codebooks import Codebook, build
from vq.tokenizers.code_spec import AXES, CodeSpec
from vq.tokenizers.windows import pad_to_grain


@dataclass(frozen=True)
class Coded:
    """What a codec keeps of one signal: codes or bytes, not both.

    Attributes:
        codes: ``(Q, *positions)`` int64.
        data: a file's bytes.
        gain: what the restored signal is multiplied by.
    """

    codes: Tensor | None = None
    data: bytes | None = None
    gain: float = 1.0


class Codec(Protocol):
    """Anything the evaluator can score: a tokenizer or a baseline, one signal at a time."""

    @property
    def name(self) -> str:
        """For tables."""

    @property
    def kind(self) -> str:
        """``image`` or ``audio``."""

    @property
    def spec(self) -> CodeSpec | None:
        """What the codes mean; None for a codec whose output is bytes."""

    @property
    def prefix_bits(self) -> tuple[float, ...]:
        """Nominal bits of a position for the first 1, 2, ... stages; empty for bytes."""

    def encode(self, x: Tensor) -> Coded:
        """What is kept of a signal ``(channels, *size)`` from -1 to 1."""

    def restore(self, coded: Coded, size: Sequence[int], stages: int | None = None) -> Tensor:
        """The signal ``(channels, *size)`` again, from the first stages or all."""


class Jpeg:
    """JPEG files of one quality, written and read by Pillow: real bytes, headers and tables included.

    Args:
        quality: 1 (smallest) to 95.
        chroma: keep the colour at full resolution (4:4:4) or at half of each side (4:2:0, what most files have).

    Raises:
        ValueError: for another quality.
    """

    kind = "image"
    spec = None
    prefix_bits: tuple[float, ...] = ()

    def __init__(self, quality: int = 50, chroma: bool = False) -> None:
        if not isinstance(quality, int) or not 1 <= quality <= 95:
            raise ValueError(f"jpeg: quality must be a whole number from 1 to 95, got {quality!r}")
        self.quality, self.chroma = quality, chroma

    @property
    def name(self) -> str:
        """``jpeg`` with its quality."""
        return f"jpeg {self.quality}"

    def encode(self, x: Tensor) -> Coded:
        """The bytes of an optimised JPEG file of ``(3 or 1, H, W)``."""
        from PIL import Image

        levels = to_bytes(x).permute(1, 2, 0).numpy()
        image = Image.fromarray(levels[..., 0] if x.shape[0] == 1 else levels)
        file = io.BytesIO()
        sampling = 0 if self.chroma else 2
        image.save(file, "JPEG", quality=self.quality, optimize=True, subsampling=sampling)
        return Coded(data=file.getvalue())

    def restore(self, coded: Coded, size: Sequence[int], stages: int | None = None) -> Tensor:
        """The image ``(3 or 1, H, W)`` in -1..1; JPEG keeps its size itself and has no stages."""
        import numpy as np
        from PIL import Image

        assert coded.data is not None
        levels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(coded.data))).copy())
        levels = levels[None] if levels.ndim == 2 else levels.permute(2, 0, 1)
        assert tuple(levels.shape[1:]) == tuple(size), (levels.shape, size)
        return levels.float() / 127.5 - 1


class Blocks:
    """A codebook on the principal axes of blocks of samples: the best that can be done without a network or context.

    A block of ``hop`` pixels or samples, all channels together, is one vector; its mean is taken away, it is turned to
    the principal axes of the training blocks, the first ``dim`` coordinates are quantized and the others dropped. With
    all coordinates kept the turn changes nothing (k-means sees distances only) and is left out.

    Args:
        kind: ``image`` or ``audio``.
        channels: of the signal.
        hop: size of a block on each axis.
        codebook: spec of what is fitted, with its ``dim`` at most ``channels * prod(hop)``; for instance
            ``residual(stages=8, of=kmeans(dim=32, entries=256), beam=1)``. A greedy search (beam 1) makes prefixes as
            good as they can be.
        sample_rate: in Hz, for audio.

    Raises:
        ValueError: for another kind, a hop of another number of axes, or too large a dimension.
    """

    def __init__(
        self,
        kind: Literal["image", "audio"],
        channels: int,
        hop: Sequence[int],
        codebook: str,
        sample_rate: int | None = None,
    ) -> None:
        if kind not in AXES or len(hop) != AXES[kind] or min(hop) < 1:
            raise ValueError(
                f"blocks: expected an image with 2 sizes of a block or audio with 1, got {kind!r} with {tuple(hop)}"
            )
        self.kind: Literal["image", "audio"] = kind
        self.channels, self.hop, self.sample_rate = channels, tuple(hop), sample_rate
        self.codebook: Codebook = build(codebook)
        self.length = channels * int(torch.Size(self.hop).numel())
        if self.codebook.dim > self.length:
            raise ValueError(
                f"blocks: a block has {self.length} values, fewer than the codebook's dim {self.codebook.dim}"
            )
        self.mean = torch.zeros(self.length)
        self.axes = torch.eye(self.length)[: self.codebook.dim]

    @property
    def name(self) -> str:
        """Blocks, their size and the codebook."""
        size = "x".join(map(str, self.hop))
        kept = "" if self.codebook.dim == self.length else f" pca {self.codebook.dim}"
        return f"blocks {size}{kept} {self.codebook.spec}"

    @property
    def spec(self) -> CodeSpec:
        """One code for each index of the codebook; the hash is of everything that was fitted."""
        digest = hashlib.sha256(self.name.encode())
        for tensor in (self.mean, self.axes, *self.codebook.state_dict().values()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        count = self.codebook.codes_per_vector
        return CodeSpec(
            kind=self.kind,
            entries=(1 << self.codebook.code_bits,) * count,
            strides=(1,) * count,
            hop=self.hop,
            channels=self.channels,
            sample_rate=self.sample_rate,
            normalisation="none",
            model_hash=digest.hexdigest(),
        )

    @property
    def prefix_bits(self) -> tuple[float, ...]:
        """Those of 1, 2, ... stages of a residual codebook, else of the whole."""
        total = self.codebook.code_bits * self.codebook.codes_per_vector
        stages = self.codebook.codes_shape[0] if self._residual else 1
        return tuple(total * n / stages for n in range(1, stages + 1))

    @property
    def _residual(self) -> bool:
        return self.codebook.spec.name == "residual"

    def fit(
        self, signals: Iterable[Tensor], most: int = 65536, generator: torch.Generator | None = None
    ) -> Blocks:
        """Principal axes and codebook of training signals ``(channels, *size)``.

        Args:
            signals: each is cut into blocks; what does not fill one is padded.
            most: blocks used; where there are more, they are drawn.
            generator: of the draw and of k-means; a fresh one with seed 0 by default.

        Raises:
            ValueError: for fewer blocks than the codebook needs.
        """
        generator = generator or torch.Generator().manual_seed(0)
        blocks = torch.cat([self._cut(x).reshape(-1, self.length) for x in signals])
        if len(blocks) > most:
            blocks = blocks[torch.randperm(len(blocks), generator=generator)[:most]]
        self.mean = blocks.mean(0)
        centred = blocks - self.mean
        if self.codebook.dim < self.length:
            self.axes = principal_axes(centred, self.codebook.dim)
        self.codebook.fit(centred @ self.axes.T, generator=generator)
        return self

    def encode(self, x: Tensor) -> Coded:
        """Codes ``(Q, *blocks)``."""
        codes = self.codebook.encode((self._cut(x) - self.mean) @ self.axes.T).long()
        positions = codes.shape[: len(self.hop)]
        return Coded(codes=codes.reshape(*positions, -1).movedim(-1, 0).contiguous())

    def restore(self, coded: Coded, size: Sequence[int], stages: int | None = None) -> Tensor:
        """The signal ``(channels, *size)``."""
        assert coded.codes is not None
        codes = coded.codes.movedim(0, -1)
        if self.codebook.codes_shape:
            codes = codes.unflatten(-1, (-1, *self.codebook.codes_shape[1:]))
        else:
            codes = codes.squeeze(-1)
        if self._residual:
            values = self.codebook.decode(codes, stages=stages)  # type: ignore[call-arg]
        else:
            values = self.codebook.decode(codes)
        return self._join(values @ self.axes + self.mean, size)

    def _cut(self, x: Tensor) -> Tensor:
        """Blocks ``(*positions, channels * prod(hop))``."""
        if x.shape[0] != self.channels or x.ndim != 1 + len(self.hop):
            raise ValueError(
                f"blocks: expected ({self.channels}, *{len(self.hop)} sizes), got {tuple(x.shape)}"
            )
        x = pad_to_grain(x[None], self.hop)[0]
        for axis, hop in enumerate(self.hop, start=1):
            x = x.unfold(axis, hop, hop)
        return x.movedim(0, len(self.hop)).flatten(len(self.hop))

    def _join(self, blocks: Tensor, size: Sequence[int]) -> Tensor:
        axes = len(self.hop)
        x = blocks.unflatten(-1, (self.channels, *self.hop)).movedim(axes, 0)
        order = [0, *(i for axis in range(axes) for i in (1 + axis, 1 + axes + axis))]
        positions = blocks.shape[:axes]
        x = x.permute(order).reshape(
            self.channels, *(n * h for n, h in zip(positions, self.hop, strict=True))
        )
        for axis, length in enumerate(size, start=1):
            x = x.narrow(axis, 0, length)
        return x


def principal_axes(centred: Tensor, dim: int) -> Tensor:
    """The ``dim`` directions of largest variance, ``(dim, length)`` orthonormal, of vectors ``(n, length)`` of mean 0.

    The sign of each is such that its largest component is positive.
    """
    covariance = centred.double().T @ centred.double() / len(centred)
    axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :dim].T
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return (axes * signs).float()


def to_bytes(x: Tensor) -> Tensor:
    """Uint8 from 0 to 255 of values from -1 to 1, rounded; what lies outside is clipped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
