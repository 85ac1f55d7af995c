"""Whisper models of CTranslate2 (``model.bin``): converted once to a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vq._files import sync_folder
from vq.errors import VqError

_KINDS: dict[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}
_HEAD = 64  # width of an attention head in every Whisper
_ENGLISH = 51864  # tokens of the models that know English alone
_LONGEST = 1 << 12  # of a name
Arrays = dict[str, np.ndarray[Any, Any]]


def is_ctranslate2(path: Path) -> bool:
    """Whether a file starts like a CTranslate2 Whisper model; nothing is unpickled to tell."""
    with path.open("rb") as file:
        start = file.read(64)
    if len(start) < 8:
        return False
    version, length = struct.unpack_from("<IH", start)
    return 1 <= version <= 100 and start[6 : 6 + length].rstrip(b"\0") == b"WhisperSpec"


def convert(path: Path, target: Path) -> Path:
    """Folder with the model of a file, made unless it is there.

    Args:
        path: ``model.bin`` of a Whisper model; ``tokenizer.json`` and ``config.json`` lie beside it.
        target: folder to make; it appears only when complete.

    Raises:
        VqError: if the file is of another kind, cut short or quantized, or its neighbours are missing.
    """
    if target.is_dir():
        return target
    try:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
    except ImportError as error:
        raise VqError(
            f"{path}: reading this file needs transformers: pip install 'vq-toolkit[hf]' ({error})"
        ) from error
    arrays = read_arrays(path)
    settings, tokens = _beside(path, "config.json"), _beside(path, "tokenizer.json")
    config = whisper_config(arrays, tokens, path)
    dtype = torch.from_numpy(arrays["decoder/embeddings/weight"][:1].copy()).dtype
    with torch.device("meta"):
        model: Any = WhisperForConditionalGeneration(config)
    lost, extra = model.load_state_dict(whisper_state(arrays), strict=False, assign=True)
    lost = [name for name in lost if name != "proj_out.weight"]
    if lost or extra:
        raise VqError(f"{path}: not a Whisper model of a known layout: {(lost or extra)[0]}")
    model.tie_weights()
    model.config.dtype = dtype
    model.generation_config = _generation(config, settings, tokens)
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(temporary)
    _save_tokenizer(path, temporary)
    temporary.rename(target)
    sync_folder(target.parent)
    return target


def read_arrays(path: Path) -> Arrays:
    """All variables of a file by name.

    Raises:
        VqError: if it is cut short, or holds integers (a quantized model).
    """
    found: Arrays = {}
    try:
        with path.open("rb") as file:
            _number(file, "I")
            _text(file)
            _number(file, "I")
            for _ in range(_number(file, "I")):
                name, array = _variable(file)
                found[name] = array
            for _ in range(_number(file, "I")):
                alias = _text(file)
                found[alias] = found[_text(file)]
    except (struct.error, ValueError, KeyError) as error:
        raise VqError(
            f"{path}: not a complete CTranslate2 model ({error}); fetch it again"
        ) from error
    for name, array in found.items():
        if array.dtype == np.int8 and array.ndim > 1:
            raise VqError(f"{path}: {name} is int8; pass a model that was not quantized")
    return found


def _variable(file: BinaryIO) -> tuple[str, np.ndarray[Any, Any]]:
    name = _text(file)
    shape = [_number(file, "I") for _ in range(_number(file, "B"))]
    kind, size = np.dtype(_KINDS[_number(file, "B")]), _number(file, "I")
    data = file.read(size)
    if len(data) != size:
        raise ValueError(f"{name} is cut short: expected {size} bytes, got {len(data)}")
    return name, np.frombuffer(data, kind).reshape(shape)


def _number(file: BinaryIO, kind: str) -> int:
    value: int = struct.unpack(f"<{kind}", file.read(struct.calcsize(kind)))[0]
    return value


def _text(file: BinaryIO) -> str:
    length = _number(file, "H")
    if length > _LONGEST:
        raise ValueError(f"a name of {length} bytes")
    return file.read(length).rstrip(b"\0").decode()


def _beside(path: Path, name: str) -> dict[str, Any]:
    """A JSON file in the same folder."""
    try:
        found: dict[str, Any] = json.loads((path.parent / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VqError(f"{path}: needs {name} beside it ({error})") from error
    return found


def _special(tokens: dict[str, Any]) -> dict[str, int]:
    return {str(entry["content"]): int(entry["id"]) for entry in tokens["added_tokens"]}


def _layers(arrays: Arrays, side: str) -> int:
    lead = f"{side}/layer_"
    numbers = {name[len(lead) :].split("/")[0] for name in arrays if name.startswith(lead)}
    return sum(number.isdigit() for number in numbers)


def whisper_config(arrays: Arrays, tokens: dict[str, Any], path: Path) -> Any:
    """Config of the model, from the shapes of its variables and the tokenizer's special tokens.

    Raises:
        VqError: if a variable or token of Whisper is missing.
    """
    from transformers import WhisperConfig

    special = _special(tokens)
    try:
        words, width = arrays["decoder/embeddings/weight"].shape
        start, end = special["<|startoftranscript|>"], special["<|endoftext|>"]
        return WhisperConfig(
            vocab_size=words,
            num_mel_bins=arrays["encoder/conv1/weight"].shape[1],
            d_model=width,
            encoder_layers=_layers(arrays, "encoder"),
            decoder_layers=_layers(arrays, "decoder"),
            encoder_attention_heads=width // _HEAD,
            decoder_attention_heads=width // _HEAD,
            encoder_ffn_dim=arrays["encoder/layer_0/ffn/linear_0/weight"].shape[0],
            decoder_ffn_dim=arrays["decoder/layer_0/ffn/linear_0/weight"].shape[0],
            max_source_positions=arrays["encoder/position_encodings/encodings"].shape[0],
            max_target_positions=arrays["decoder/position_encodings/encodings"].shape[0],
            decoder_start_token_id=start,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            architectures=["WhisperForConditionalGeneration"],
        )
    except KeyError as error:
        raise VqError(f"{path}: not a Whisper model: {error} is missing") from error


def whisper_state(arrays: Arrays) -> dict[str, Tensor]:
    """Tensors under the names of transformers; fused projections are split."""
    state: dict[str, Tensor] = {}

    def put(name: str, source: str) -> None:
        state[name] = torch.from_numpy(arrays[source].copy())

    def linear(name: str, source: str) -> None:
        put(f"{name}.weight", f"{source}/weight")
        put(f"{name}.bias", f"{source}/bias")

    for conv in ("conv1", "conv2"):
        linear(f"model.encoder.{conv}", f"encoder/{conv}")
    for side in ("encoder", "decoder"):
        put(f"model.{side}.embed_positions.weight", f"{side}/position_encodings/encodings")
        put(f"model.{side}.layer_norm.weight", f"{side}/layer_norm/gamma")
        put(f"model.{side}.layer_norm.bias", f"{side}/layer_norm/beta")
        for i in range(_layers(arrays, side)):
            state.update(_layer(arrays, f"model.{side}.layers.{i}", f"{side}/layer_{i}"))
    put("model.decoder.embed_tokens.weight", "decoder/embeddings/weight")
    return state


def _layer(arrays: Arrays, name: str, source: str) -> Iterator[tuple[str, Tensor]]:
    """Tensors of one layer of either side."""
    parts = [("self_attn", "self_attention", {"linear_0": "qkv"}, "linear_1")]
    if f"{source}/attention/linear_0/weight" in arrays:
        parts.append(("encoder_attn", "attention", {"linear_0": "q", "linear_1": "kv"}, "linear_2"))
    for ours, theirs, fused, out in parts:
        yield from _norm(arrays, f"{name}.{ours}_layer_norm", f"{source}/{theirs}/layer_norm")
        for stored, letters in fused.items():
            yield from _split(arrays, f"{name}.{ours}", f"{source}/{theirs}/{stored}", letters)
        yield from _split(arrays, f"{name}.{ours}", f"{source}/{theirs}/{out}", ["out"])
    yield from _norm(arrays, f"{name}.final_layer_norm", f"{source}/ffn/layer_norm")
    for ours, theirs in (("fc1", "linear_0"), ("fc2", "linear_1")):
        for kind in ("weight", "bias"):
            yield (
                f"{name}.{ours}.{kind}",
                torch.from_numpy(arrays[f"{source}/ffn/{theirs}/{kind}"].copy()),
            )


def _norm(arrays: Arrays, name: str, source: str) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in (("weight", "gamma"), ("bias", "beta")):
        yield f"{name}.{ours}", torch.from_numpy(arrays[f"{source}/{theirs}"].copy())


def _split(
    arrays: Arrays, name: str, source: str, letters: str | list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Projections that are stored on top of each other; that of the keys has no bias."""
    for kind in ("weight", "bias"):
        rows = np.split(arrays[f"{source}/{kind}"], len(letters))
        for letter, part in zip(letters, rows, strict=True):
            if kind == "weight" or letter != "k":
                yield f"{name}.{letter}_proj.{kind}", torch.from_numpy(part.copy())


def _generation(config: Any, settings: dict[str, Any], tokens: dict[str, Any]) -> Any:
    """What transformers must know to transcribe."""
    from transformers import GenerationConfig

    special = _special(tokens)
    end = config.eos_token_id
    more: dict[str, Any] = {"is_multilingual": config.vocab_size > _ENGLISH}
    if more["is_multilingual"]:
        languages = {i: text for text, i in special.items()}
        more["lang_to_id"] = {languages[i]: i for i in settings.get("lang_ids", ())}
        more["task_to_id"] = {t: special[f"<|{t}|>"] for t in ("transcribe", "translate")}
    if settings.get("alignment_heads"):
        more["alignment_heads"] = settings["alignment_heads"]
    return GenerationConfig(
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=config.max_target_positions,
        no_timestamps_token_id=special["<|notimestamps|>"],
        suppress_tokens=settings.get("suppress_ids"),
        begin_suppress_tokens=settings.get("suppress_ids_begin"),
        **more,
    )


def _save_tokenizer(path: Path, folder: Path) -> None:
    """The tokenizer as transformers expects it."""
    shutil.copyfile(path.parent / "tokenizer.json", folder / "tokenizer.json")
    end = "<|endoftext|>"
    values = {"tokenizer_class": "WhisperTokenizer", "bos_token": end, "eos_token": end}
    text = json.dumps({**values, "unk_token": end, "pad_token": end}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
