"""Speech models: CTranslate2 files, sounds, and scores against the original."""

import json
import math
import struct
from functools import cache

import numpy as np
import pytest
import torch

import vq
from vq.compressors.calibration.sounds import read_sound, sound_files
from vq.compressors.calibration.speech import open_listener, transcribe
from vq.compressors.files.ctranslate2 import is_ctranslate2, read_arrays
from vq.compressors.files.source import open_source
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.scores.speech import score_speech, word_errors, words_of
from vq.errors import VqError

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


def tiny_whisper():
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=65,
        num_mel_bins=8,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_source_positions=50,
        max_target_positions=40,
        bos_token_id=60,
        eos_token_id=60,
        pad_token_id=60,
        decoder_start_token_id=61,
    )
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config).half().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape))
            else:
                parameter.copy_(torch.randn(parameter.shape) / parameter[0].numel() ** 0.5)
    return model


def ct2_variables(model):
    """The variables of a CTranslate2 file, from a model of transformers."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    found = {}

    def put(target, *names):
        for kind in ("weight", "bias"):
            rows = [
                state.get(f"{name}.{kind}", np.zeros(state[f"{name}.weight"].shape[0], np.float16))
                for name in names
            ]
            found[f"{target}/{kind}"] = np.concatenate(rows)

    def norm(target, name):
        found[f"{target}/gamma"] = state[f"{name}.weight"]
        found[f"{target}/beta"] = state[f"{name}.bias"]

    for conv in ("conv1", "conv2"):
        put(f"encoder/{conv}", f"model.encoder.{conv}")
    for side in ("encoder", "decoder"):
        found[f"{side}/position_encodings/encodings"] = state[
            f"model.{side}.embed_positions.weight"
        ]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(2):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            parts = [f"{ours}.self_attn.{c}_proj" for c in "qkv"]
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            put(f"{theirs}/self_attention/linear_0", *parts)
            put(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            if side == "decoder":
                cross = f"{ours}.encoder_attn"
                norm(f"{theirs}/attention/layer_norm", f"{cross}_layer_norm")
                put(f"{theirs}/attention/linear_0", f"{cross}.q_proj")
                put(f"{theirs}/attention/linear_1", f"{cross}.k_proj", f"{cross}.v_proj")
                put(f"{theirs}/attention/linear_2", f"{cross}.out_proj")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            put(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            put(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
    found["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    return found


def ct2_bytes(variables):
    def text(value):
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {np.dtype(np.float32): 0, np.dtype(np.int8): 1, np.dtype(np.float16): 4}
    out = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        out += text(name) + struct.pack("<B", array.ndim)
        out += struct.pack(f"<{array.ndim}I", *array.shape)
        out += struct.pack("<BI", kinds[array.dtype], array.nbytes) + array.tobytes()
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    out += struct.pack("<I", len(aliases))
    return out + b"".join(text(a) + text(b) for a, b in aliases.items())


@pytest.fixture(scope="module")
def ct2(tmp_path_factory):
    """A tiny Whisper, and its folder in the form of CTranslate2."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("ct2")
    model = tiny_whisper()
    (folder / "model.bin").write_bytes(ct2_bytes(ct2_variables(model)))
    vocab = {f"w{i}": i for i in range(60)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="w0"))
    made.add_special_tokens(list(SPECIAL))
    made.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(
        json.dumps({"suppress_ids": [5], "suppress_ids_begin": [6]})
    )
    return model, folder / "model.bin"


@pytest.mark.hf
def test_a_converted_file_is_the_model(ct2, tmp_path):
    model, path = ct2
    source = open_source(path, tmp_path)
    again = vq.load(source.folder, dtype=torch.float16)
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
    assert again.config.decoder_start_token_id == 61 and again.config.eos_token_id == 60
    assert again.generation_config.suppress_tokens == [5]
    assert again.generation_config.no_timestamps_token_id == 64
    assert open_source(path, tmp_path).folder == source.folder


@pytest.mark.hf
def test_damaged_and_quantized_files(ct2, tmp_path):
    _, path = ct2
    data = path.read_bytes()
    assert is_ctranslate2(path)
    cut = tmp_path / "model.bin"
    tables = {"decoder/embeddings/weight": np.zeros((2, 2), np.float16)}
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(VqError, match="not a complete CTranslate2 model"):
        read_arrays(cut)
    cut.write_bytes(ct2_bytes({"a": np.zeros((2, 2), np.int8), **tables}))
    with pytest.raises(VqError, match="a is int8; pass a model that was not quantized"):
        read_arrays(cut)
    cut.write_bytes(data)
    with pytest.raises(VqError, match=r"needs config\.json beside it"):
        open_source(cut, tmp_path / "work")
    cut.write_bytes(b"\x80\x04pickle" + bytes(80))
    with pytest.raises(VqError, match="pickled checkpoints are never opened"):
        open_source(cut, tmp_path / "work")


@pytest.fixture
def listened(ct2, tmp_path):
    """Source of the tiny model with a feature extractor of one second, and some sounds."""
    soundfile = pytest.importorskip("soundfile")
    transformers = pytest.importorskip("transformers")
    source = open_source(ct2[1], tmp_path / "work")
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(
        source.folder
    )
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number in range(3):
        t = torch.arange(12000) / 16000
        wave = 0.3 * torch.sin(2 * math.pi * (300 + 400 * number) * t)
        soundfile.write(sounds / f"s{number}.wav", wave.numpy(), 16000)
    return source, sounds


@pytest.mark.hf
def test_compress_and_score_a_speech_model(listened, tmp_path):
    source, sounds = listened
    results = {}
    for bits in (2, 6):
        options = CompressOptions(codebook=f"scalar(bits={bits})", windows=2)
        results[bits] = compress(
            source.folder, tmp_path / str(bits), options=options, calibration=sounds
        )
    report = results[2].report
    assert report["coverage"] == 1 and len(report["layers"]) == 32
    assert report["calibration"]["sounds"] == 3 and report["calibration"]["windows"] == 2
    listener = open_listener(source.folder, "x")
    reference = vq.load(source.folder, dtype=torch.float32)
    files = sound_files([sounds])
    own = score_speech(reference, reference, listener, files)
    assert (
        own.loss == own.reference_loss and own.word_error_rate == 0 and own.same == own.files == 3
    )
    scores = {
        bits: score_speech(vq.load(r.output, dtype=torch.float32), reference, listener, files)
        for bits, r in results.items()
    }
    assert scores[2].reference_loss == pytest.approx(own.loss)
    assert abs(scores[6].loss - own.loss) < abs(scores[2].loss - own.loss)


@pytest.mark.hf
def test_a_transcript_begins_with_the_whole_prompt_and_is_greedy(listened):
    source, sounds = listened
    model = vq.load(source.folder, dtype=torch.float32)
    features = open_listener(source.folder, "x").features(sorted(sounds.glob("*.wav"))[0]).float()
    told = transcribe(model, features, limit=6)
    settings = model.generation_config
    prompt = [model.config.decoder_start_token_id, settings.no_timestamps_token_id]
    assert told[:2].tolist() == prompt and 2 < len(told) <= 8
    muted = [*(settings.suppress_tokens or [])]
    for place in range(2, len(told)):
        logits = model(input_features=features, decoder_input_ids=told[None, :place]).logits[0, -1]
        first = (settings.begin_suppress_tokens or []) if place == 2 else []
        logits[[*muted, *first]] = -math.inf
        assert told[place] == logits.argmax()


@pytest.mark.hf
def test_eval_scores_speech(listened, tmp_path, capsys):
    from vq.cli.main import main

    source, sounds = listened
    where = str(source.folder)
    arguments = ["eval", where, "--reference", where, "--audio", str(sounds), "--limit", "2"]
    assert main([*arguments, "--json", str(tmp_path / "s.json")]) == 0
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["files"] == 2 and data["word_error_rate"] == 0
    assert data["loss"] == pytest.approx(data["reference_loss"])
    assert "word error rate" in capsys.readouterr().out
    assert main(["eval", where, "--audio", str(sounds)]) == 2
    assert "--reference MODEL" in capsys.readouterr().err


def errors_by_search(wanted, heard):
    """Levenshtein by its definition."""

    @cache
    def least(i, j):
        if not i or not j:
            return i + j
        change = least(i - 1, j - 1) + (wanted[i - 1] != heard[j - 1])
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, change)

    return least(len(wanted), len(heard))


def test_word_errors():
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        sizes = torch.randint(0, 7, (2,), generator=generator).tolist()
        a, b = (tuple(torch.randint(3, (n,), generator=generator).tolist()) for n in sizes)
        assert word_errors(a, b) == errors_by_search(a, b)
    assert words_of("Please, press 1 -- don't.") == ["please", "press", "1", "don't"]


def test_sounds_of_another_rate(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    t = torch.arange(44100) / 44100
    soundfile.write(tmp_path / "a.wav", (0.5 * torch.sin(2 * math.pi * 441 * t)).numpy(), 44100)
    found = read_sound(tmp_path / "a.wav", 16000)
    expected = 0.5 * torch.sin(2 * math.pi * 441 * torch.arange(16000) / 16000)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    (tmp_path / "b.wav").write_text("no sound")
    with pytest.raises(VqError, match="not a readable sound"):
        read_sound(tmp_path / "b.wav")
    with pytest.raises(VqError, match="no such sound file"):
        sound_files([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VqError, match="holds no sound file"):
        sound_files([tmp_path / "empty"])
