"""Speech encoder-decoders: what they hear, what they write, and both as calibration windows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vq.compressors.calibration.sounds import read_sound, sound_files
from vq.compressors.calibration.texts import load_tokenizer
from vq.compressors.files.source import ModelSource
from vq.compressors.options import CompressOptions
from vq.errors import VqError


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
        inputs.append({"input_features": features, "decoder_input_ids": prompted(model, features)})
    tokens = sum(window["decoder_input_ids"].numel() for window in inputs)
    summary = {"windows": len(inputs), "sounds": len(files), "transcript_tokens": tokens}
    return inputs, summary


def _original(source: ModelSource) -> Any:
    """The uncompressed model, for its transcripts."""
    from vq.compressors.structure.skeleton import model_class

    kind = model_class(source.config, source.name)
    return kind.from_pretrained(source.folder, dtype=torch.float32).eval()


def prompted(model: Any, features: Tensor) -> Tensor:
    """A transcript as what the decoder is given: its start token first, no end."""
    own = features.to(next(p.dtype for p in model.parameters() if p.is_floating_point()))
    tokens = transcribe(model, own)
    ends = (tokens == int(model.config.eos_token_id)).nonzero()[:, 0]
    later = ends[ends > 0]
    return tokens[: int(later[0])][None] if later.numel() else tokens[None]
