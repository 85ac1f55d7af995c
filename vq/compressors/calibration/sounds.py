"""Sound files as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vq.errors import VqError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".g722", ".opus")
_RATE = 16000  # Hz, of the feature extractor of Whisper


def sound_files(paths: Sequence[str | Path]) -> list[Path]:
    """Sound files, in order of name within a folder.

    Raises:
        VqError: if a path is missing or a folder holds no sound.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise VqError(f"{path}: the folder holds no sound file ({', '.join(SUFFIXES)})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise VqError(f"{path}: no such sound file or folder")
    return files


def read_sound(path: Path, rate: int = _RATE) -> Tensor:
    """A sound as mono float32 ``(samples,)`` at ``rate`` Hz, between -1 and 1.

    Raises:
        VqError: if no installed package can read it.
    """
    if path.suffix.lower() in (".wav", ".flac", ".ogg"):
        try:
            import soundfile
        except ImportError:
            pass
        else:
            try:
                data, own = soundfile.read(path, dtype="float32", always_2d=True)
            except RuntimeError as error:
                raise VqError(f"{path}: not a readable sound ({error})") from error
            return _resample(torch.from_numpy(data).mean(1), own, rate)
    return _read_with_av(path, rate)


def _read_with_av(path: Path, rate: int) -> Tensor:
    """A sound of any container that FFmpeg knows."""
    try:
        import av
    except ImportError as error:
        raise VqError(
            f"{path}: reading sound needs soundfile or av: pip install 'vq-toolkit[av]' ({error})"
        ) from error
    kind = "g722" if path.suffix.lower() == ".g722" else None
    try:
        with av.open(str(path), format=kind) as container:
            turn = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            frames = [f for frame in container.decode(audio=0) for f in turn.resample(frame)]
            frames += turn.resample(None)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise VqError(f"{path}: not a readable sound ({error})") from error
    parts = [torch.from_numpy(frame.to_ndarray()).reshape(-1) for frame in frames]
    return torch.cat(parts) if parts else torch.zeros(0)


def _resample(x: Tensor, own: int, rate: int) -> Tensor:
    """Sound at another rate, band-limited: the spectrum is cut or padded."""
    if own == rate or not x.numel():
        return x
    length = max(1, round(x.numel() * rate / own))
    spectrum = torch.fft.rfft(x)
    bins = length // 2 + 1
    kept = torch.zeros(bins, dtype=spectrum.dtype)
    both = min(bins, spectrum.numel())
    kept[:both] = spectrum[:both]
    return torch.fft.irfft(kept, n=length) * (length / x.numel())
