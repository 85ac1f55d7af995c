"""Speech encoder-decoders: sounds as calibration windows, transcripts, teacher-forced loss and word error rate."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.files.source import ModelSource
from vq.compressors.options import CompressOptions
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


@dataclass(frozen=True, eq=False)
class Listener:
    """Sounds to features and tokens to text, for a speech model.

    Attributes:
        extractor: feature extractor of transformers.
        tokenizer: of the model.
    """

    extractor: Any
    tokenizer: Any

    def features(self, path: Path) -> Tensor:
        """``(1, mels, frames)`` of the first 30 seconds of a sound."""
        rate = int(self.extractor.sampling_rate)
        sound = read_sound(path, rate)
        if not sound.numel():
            raise VqError(f"{path}: the sound is empty")
        made = self.extractor(sound.numpy(), sampling_rate=rate, return_tensors="pt")
        features: Tensor = next(iter(made.values()))
        return features

    def text(self, tokens: Tensor) -> str:
        """Words of a transcript."""
        written: str = self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        return written


def open_listener(folder: Path, name: str) -> Listener:
    """Feature extractor and tokenizer of a speech model's folder.

    Raises:
        VqError: if the folder lacks them.
    """
    from transformers import AutoFeatureExtractor

    from vq.compressors.calibration.texts import load_tokenizer

    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise VqError(
            f"{name}: no usable preprocessor_config.json in {folder} ({str(error).splitlines()[0][:120]})"
        ) from error
    return Listener(extractor, load_tokenizer(folder))


@torch.no_grad()
def transcribe(model: Any, features: Tensor, limit: int = 200) -> Tensor:
    """Greedy transcript as tokens ``(tokens,)``, the decoder's prompt included.

    Args:
        model: a speech encoder-decoder.
        features: ``(1, mels, frames)``.
        limit: most tokens that are written.
    """
    from transformers import GenerationMixin

    most = getattr(model.config, "max_target_positions", None) or limit
    prompt = _prompt(model, features)
    settings = copy.deepcopy(model.generation_config)
    settings.max_length, settings.max_new_tokens = prompt.shape[1] + min(limit, most - 8), None
    settings.do_sample = False
    # Whisper's own generate leaves the prompt out of what it returns
    made = GenerationMixin.generate(
        model, features, decoder_input_ids=prompt, generation_config=settings
    )
    tokens: Tensor = made[0]
    return tokens


def _prompt(model: Any, features: Tensor) -> Tensor:
    """What a decoder is given first, ``(1, tokens)``: its start; Whisper's language and task; no time stamps."""
    settings = model.generation_config
    prompt = [int(model.config.decoder_start_token_id)]
    if getattr(settings, "is_multilingual", False) and getattr(settings, "lang_to_id", None):
        prompt.append(int(model.detect_language(features)[0]))
        prompt.append(int(settings.task_to_id["transcribe"]))
    if getattr(settings, "no_timestamps_token_id", None) is not None:
        prompt.append(int(settings.no_timestamps_token_id))
    return torch.tensor([prompt])


def speech_windows(
    paths: Sequence[str | Path], source: ModelSource, options: CompressOptions
) -> tuple[list[dict[str, Tensor]], dict[str, Any]]:
    """Calibration windows of a speech model: sounds, and the transcripts that the model itself writes for them.

    Args:
        paths: sound files and folders.
        source: the model; it is loaded as a whole to write the transcripts.
        options: how many windows, and the seed by which sounds are chosen.

    Returns:
        Arguments of the model for each window, and a summary.
    """
    files = sound_files(paths)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(options.seed))
    chosen = [files[i] for i in sorted(order[: options.windows].tolist())]
    listener = open_listener(source.folder, source.name)
    model = _original(source)
    inputs = []
    for path in chosen:
        features = listener.features(path).float()
        inputs.append({"input_features": features, "decoder_input_ids": _prompted(model, features)})
    tokens = sum(window["decoder_input_ids"].numel() for window in inputs)
    summary = {"windows": len(inputs), "sounds": len(files), "transcript_tokens": tokens}
    return inputs, summary


def _original(source: ModelSource) -> Any:
    """The uncompressed model, for its transcripts."""
    from vq.compressors.structure.skeleton import model_class

    kind = model_class(source.config, source.name)
    return kind.from_pretrained(source.folder, dtype=torch.float32).eval()


def _prompted(model: Any, features: Tensor) -> Tensor:
    """A transcript as what the decoder is given: its start token first, no end."""
    own = features.to(next(p.dtype for p in model.parameters() if p.is_floating_point()))
    tokens = transcribe(model, own)
    ends = (tokens == int(model.config.eos_token_id)).nonzero()[:, 0]
    later = ends[ends > 0]
    return tokens[: int(later[0])][None] if later.numel() else tokens[None]


@dataclass(frozen=True)
class SpeechScores:
    """Scores of a speech model against the transcripts of its original.

    Attributes:
        loss: mean negative log-likelihood of the original's transcript tokens, in nats, teacher-forced.
        reference_loss: the same of the original.
        word_error_rate: word errors against the original's transcripts over their words.
        words: of the original's transcripts.
        tokens: scored.
        files: transcribed.
        same: transcripts that are the original's, word for word.
    """

    loss: float
    reference_loss: float
    word_error_rate: float
    words: int
    tokens: int
    files: int
    same: int


@torch.no_grad()
def score_speech(
    model: nn.Module,
    reference: nn.Module,
    listener: Listener,
    files: Sequence[Path],
    done: Callable[[int], None] | None = None,
    known: dict[Path, Tensor] | None = None,
) -> SpeechScores:
    """Score a speech model against its original.

    Args:
        model: a speech encoder-decoder.
        reference: the original; its greedy transcripts count as true.
        listener: features and text.
        files: sounds.
        done: hears of the number of files finished.
        known: transcripts of the original by file; it is filled, for the next model of the same original.

    Raises:
        VqError: if a likelihood is not finite.
    """
    loss = reference_loss = 0.0
    tokens = words = errors = same = 0
    truth = {} if known is None else known
    for number, path in enumerate(files):
        features = listener.features(path).float()
        if path not in truth:
            truth[path] = _prompted(reference, features)
        given = truth[path]
        ours, count = _forced(model, features, given, path)
        theirs, _ = _forced(reference, features, given, path)
        loss, reference_loss, tokens = loss + ours, reference_loss + theirs, tokens + count
        wanted = words_of(listener.text(given[0]))
        heard = words_of(listener.text(_prompted(model, features)[0]))
        errors += word_errors(wanted, heard)
        words += len(wanted)
        same += wanted == heard
        if done is not None:
            done(number + 1)
    many = max(tokens, 1)
    rate = errors / max(words, 1)
    return SpeechScores(loss / many, reference_loss / many, rate, words, tokens, len(files), same)


def _forced(model: Any, features: Tensor, given: Tensor, path: Path) -> tuple[float, int]:
    """Sum of negative log-likelihoods of a transcript and its end, each token after the true ones; their number.

    Tokens of the prompt (language, task, no time stamps) are not scored: their numbers lie above the end's.
    """
    end = int(model.config.eos_token_id)
    own = features.to(next(p.dtype for p in model.parameters() if p.is_floating_point()))
    logits = model(input_features=own, decoder_input_ids=given, use_cache=False).logits[0]
    target = torch.cat([given[0, 1:], torch.tensor([end])])
    scored = target <= end
    total = float(
        nn.functional.cross_entropy(logits[scored].float(), target[scored], reduction="sum")
    )
    if not math.isfinite(total):
        raise VqError(f"{path}: the model's likelihood is not finite; it cannot be scored")
    return total, int(scored.sum())


def words_of(text: str) -> list[str]:
    """Words in lower case, without punctuation."""
    return re.findall(r"[\w']+", text.lower())


def word_errors(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Least number of words to put in, take out or change (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            cost = previous + (word != other)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, cost)
    return row[-1]
