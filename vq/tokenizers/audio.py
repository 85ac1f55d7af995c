"""Sound in and out: files as float32 ``(channels, samples)`` at the rate a tokenizer works at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vq._files import atomic_file
from vq.errors import VqError
from vq.tokenizers.atomic import UnreadableFile, check_exists

SOUNDFILE_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64".split()
)
AV_SUFFIXES = frozenset(".g722 .m4a .aac .mp4 .mka .webm .wma .amr .ac3 .mov".split())
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES | AV_SUFFIXES
FULL_SCALE = 0.999
QUIETEST_DB, MAX_GAIN_DB = -60.0, 30.0


@dataclass(frozen=True)
class AudioInfo:
    """What an audio file holds.

    Attributes:
        samples: of each channel, at the file's own rate.
        channels: of the file.
        sample_rate: of the file, in Hz.
    """

    samples: int
    channels: int
    sample_rate: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples / self.sample_rate


def audio_info(path: str | Path) -> AudioInfo:
    """Length, channels and rate; from the header where the format has one that says so.

    Raises:
        UnreadableFile: if this is no audio, or holds no samples.
    """
    path = Path(path)
    check_exists(path)
    if path.suffix.lower() in AV_SUFFIXES:
        raw, rate = _read_av(path)
        return AudioInfo(raw.shape[1], raw.shape[0], rate)
    soundfile = _soundfile()
    try:
        header = soundfile.info(str(path))
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise UnreadableFile(path, f"is no audio that soundfile knows: {error}") from error
    if header.frames < 1:
        raise UnreadableFile(path, "has no samples")
    return AudioInfo(header.frames, header.channels, header.samplerate)


def read_audio(
    path: str | Path, sample_rate: int | None = None, channels: int | None = None
) -> tuple[Tensor, int]:
    """Read an audio file.

    soundfile reads wav, flac, ogg, mp3 and more; everything else goes to PyAV (``pip install 'vq-toolkit[av]'``),
    raw ``.g722`` included (16 kHz, mono). Many channels become one by their mean, one becomes two by copying. See
    ``resample`` for the exact length at another rate.

    Args:
        path: the file.
        sample_rate: wanted rate in Hz; None for the file's own.
        channels: wanted number of channels; None for the file's own.

    Returns:
        float32 ``(channels, samples)``, full scale 1, and the rate in Hz.

    Raises:
        UnreadableFile: if the file is missing, broken, has no samples, holds NaN, cannot get this many channels, or
            needs PyAV where that is not installed.
        VqError: if soundfile is not installed.
    """
    path = Path(path)
    check_exists(path)
    raw, own_rate = (_read_av if path.suffix.lower() in AV_SUFFIXES else _read_soundfile)(path)
    if raw.shape[1] == 0:
        raise UnreadableFile(path, "has no samples")
    if not np.isfinite(raw).all():
        raise UnreadableFile(path, "holds NaN or infinite samples")
    mixed = _with_channels(raw, channels, path)
    x = torch.from_numpy(np.ascontiguousarray(mixed, dtype=np.float32))
    return resample(x, own_rate, sample_rate or own_rate), sample_rate or own_rate


def resample(x: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Band-limited change of rate by a zero-phase polyphase filter (Kaiser window, beta 5).

    Args:
        x: float ``(..., samples)``.
        source_rate: Hz.
        target_rate: Hz.

    Returns:
        float32 ``(..., ceil(samples * target_rate / source_rate))``; x itself where the rates are equal.

    Raises:
        ValueError: for rates below 1.
    """
    if source_rate < 1 or target_rate < 1:
        raise ValueError(f"rates: expected positive Hz, got {source_rate} and {target_rate}")
    if source_rate == target_rate:
        return x
    from scipy.signal import resample_poly

    common = math.gcd(source_rate, target_rate)
    up, down = target_rate // common, source_rate // common
    return torch.from_numpy(
        np.ascontiguousarray(
            resample_poly(x.detach().cpu().numpy(), up, down, axis=-1), dtype=np.float32
        )
    )


def write_audio(path: str | Path, x: Tensor, sample_rate: int, subtype: str = "PCM_16") -> None:
    """Write a WAV file; appears complete or not at all.

    Args:
        path: ends in .wav.
        x: float ``(channels, samples)``; clipped to full scale for PCM_16.
        sample_rate: Hz.
        subtype: "PCM_16", or "FLOAT" for float32.

    Raises:
        ValueError: for another shape, suffix or subtype, or numbers that are not finite.
    """
    path = Path(path)
    if path.suffix.lower() != ".wav":
        raise ValueError(f"path: audio is written as .wav, got {path.name!r}")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"x: expected shape (channels, samples), got {tuple(x.shape)}")
    if subtype not in ("PCM_16", "FLOAT"):
        raise ValueError(f"subtype: expected PCM_16 or FLOAT, got {subtype!r}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("x: expected finite samples")
    samples = x.detach().cpu().float().T.contiguous().numpy()
    if subtype == "PCM_16":  # by 32768, as soundfile reads: what was 16 bits is so again
        samples = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    with atomic_file(path) as file:
        _soundfile().write(file, samples, sample_rate, subtype=subtype, format="WAV")


def loudness(x: Tensor) -> float:
    """Level of the signal in dB of its root mean square to full scale (dBFS); -inf for silence."""
    power = float(x.double().square().mean())
    return 10 * math.log10(power) if power > 0 else -math.inf


def normalise_loudness(x: Tensor, target_db: float = -20.0) -> tuple[Tensor, float]:
    """Bring a signal to one level.

    Silence and noise below -60 dBFS stay as they are, and no signal is raised by more than 30 dB.

    Args:
        x: float ``(channels, samples)``.
        target_db: wanted level in dBFS of the root mean square.

    Returns:
        The scaled signal, and the gain that brings it back: ``scaled * gain`` is x.
    """
    level = loudness(x)
    if level < QUIETEST_DB:
        return x, 1.0
    factor = 10 ** (min(target_db - level, MAX_GAIN_DB) / 20)
    return x * factor, 1 / factor


def clipped_share(x: Tensor) -> float:
    """Share of samples at full scale (0.999 or more): above 0.001 a recording is audibly clipped."""
    return float((x.abs() >= FULL_SCALE).double().mean()) if x.numel() else 0.0


def _with_channels(raw: np.ndarray, channels: int | None, path: Path) -> np.ndarray:
    own = raw.shape[0]
    if channels is None or channels == own:
        return raw
    if channels == 1:
        return raw.mean(axis=0, keepdims=True)
    if own == 1:
        return np.repeat(raw, channels, axis=0)
    raise UnreadableFile(
        path, f"has {own} channels, which cannot become {channels}; use 1 or mix it down first"
    )


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise VqError("audio needs soundfile: pip install 'vq-toolkit[train]'") from error
    return soundfile


def _read_soundfile(path: Path) -> tuple[np.ndarray, int]:
    soundfile = _soundfile()
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        raise UnreadableFile(path, f"is no audio that soundfile can read: {error}") from error
    return samples.T, int(rate)


def _read_av(path: Path) -> tuple[np.ndarray, int]:
    """Samples ``(channels, n)`` float32 by FFmpeg; a file that is cut short gives what is there."""
    try:
        import av
    except ImportError as error:
        raise UnreadableFile(path, f"{path.suffix} needs PyAV: pip install av") from error
    form = "g722" if path.suffix.lower() == ".g722" else None
    parts: list[np.ndarray] = []
    rate = 0
    try:
        with av.open(str(path), format=form) as container:
            if not container.streams.audio:
                raise UnreadableFile(path, "has no sound in it")
            plain = av.AudioResampler(format="fltp")
            for frame in container.decode(audio=0):
                rate = frame.sample_rate
                parts += [piece.to_ndarray() for piece in plain.resample(frame)]
    except av.FFmpegError as error:
        raise UnreadableFile(
            path, f"is no audio that FFmpeg can read: {error.strerror or error}"
        ) from error
    if not parts:
        raise UnreadableFile(path, "has no samples")
    return np.concatenate(parts, axis=1), rate
