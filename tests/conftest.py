"""Tiny random models with a tokenizer, as folders on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
WORDS = [f"w{i}" for i in range(60)]


@pytest.fixture(scope="session", autouse=True)
def _one_thread_from_the_start():
    """Fixtures of modules and sessions run before those of a test; bits of float sums depend on threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save_tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocab = {"<unk>": 0, **{word: i + 1 for i, word in enumerate(WORDS)}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>"
    ).save_pretrained(folder)


def make_model(folder: Path, kind: str = "llama", layers: int = 3, **changes: Any) -> Path:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 64,
        "max_position_embeddings": 64,
    }
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.ndim == 1
            ):  # norms and biases away from 1 and 0, where mistakes would not show
                parameter.add_(0.1 * torch.randn(parameter.shape))
            else:
                parameter.mul_(4)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    """Three blocks, tied embeddings."""
    return make_model(tmp_path_factory.mktemp("models") / "llama", tie_word_embeddings=True)


@pytest.fixture(scope="session")
def biased(tmp_path_factory) -> Path:
    """Biases everywhere; a head of its own."""
    changes = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    return make_model(tmp_path_factory.mktemp("models") / "biased", **changes)


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """2000 words in a fixed random order."""
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(len(WORDS), (2000,), generator=generator).tolist()
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(WORDS[i] for i in picks), encoding="utf-8")
    return path


@pytest.fixture
def copy(tmp_path) -> Callable[..., Path]:
    """Copies a model folder for a test that damages it; changes go to its config.json."""

    def make(folder: Path, **changes: Any) -> Path:
        target = tmp_path / "copy"
        shutil.copytree(folder, target)
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps({**config, **changes}))
        return target

    return make


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Function: all files of a folder with their bytes."""
    return folder_bytes


@pytest.fixture(scope="session")
def build_model() -> Callable[..., Path]:
    """Function: make a tiny model folder."""
    return make_model


@pytest.fixture(scope="session")
def build_tokenizer_files() -> Callable[[Path], None]:
    """Function: put the files of a tokenizer of 61 words into a model folder."""
    return save_tokenizer


def make_tokenizer(kind: str, seed: int = 0) -> Any:
    """A small tokenizer with random networks and a codebook of three stages, started on its own features."""
    from vq.quantizers import make
    from vq.tokenizers.backbones import make_backbone
    from vq.tokenizers.tokenizer import Tokenizer

    generator = torch.Generator().manual_seed(seed)
    if kind == "image":
        backbone = make_backbone("conv2d", factor=4, dim=6, width=8, seed=seed)
        x, rate = torch.rand(4, 3, 32, 32, generator=generator) * 2 - 1, None
    else:
        sizes = {"strides": (2, 5), "dim": 6, "width": 4, "dilations": (1,)}
        backbone = make_backbone("seanet", seed=seed, **sizes)
        x, rate = torch.randn(4, 1, 2000, generator=generator) * 0.2, 8000
    book = "residual(stages=3, of=kmeans(dim=6, entries=8), beam=1)"
    quantizer = make("fixed", codebook=book)
    tokenizer = Tokenizer(backbone, quantizer, rate).eval()
    with torch.no_grad():
        quantizer.start(tokenizer.features(x).reshape(-1, 6))
    return tokenizer


@pytest.fixture(scope="session")
def image_model(tmp_path_factory) -> Path:
    """Folder of a small image tokenizer, 4 x 4 pixels a position, 3 stages of 8."""
    folder = tmp_path_factory.mktemp("tokenizers") / "image"
    make_tokenizer("image").save(folder)
    return folder


@pytest.fixture(scope="session")
def audio_model(tmp_path_factory) -> Path:
    """Folder of a small audio tokenizer, 8 kHz, 10 samples a position, 3 stages of 8."""
    folder = tmp_path_factory.mktemp("tokenizers") / "audio"
    make_tokenizer("audio").save(folder)
    return folder


@pytest.fixture(scope="session")
def build_tokenizer() -> Callable[..., Any]:
    """Function: a small tokenizer of a kind, ``image`` or ``audio``, and a seed."""
    return make_tokenizer


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Four pictures, no side of a whole number of positions: png and jpg of one name, grey, one in a subfolder."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    generator = torch.Generator().manual_seed(3)
    for name, height, width in (
        ("a.png", 22, 31),
        ("a.jpg", 18, 13),
        ("grey.png", 30, 25),
        ("more/b.png", 41, 19),
    ):
        y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
        planes = [(x * (3 + c) + y * (5 - c)) % 200 for c in range(3)]
        noise = torch.randint(0, 40, (height, width, 3), generator=generator)
        pixels = (torch.stack(planes, -1) + noise).to(torch.uint8).numpy()
        image.fromarray(pixels[..., 0] if name == "grey.png" else pixels).save(folder / name)
    return folder


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Three sounds of odd lengths, one of them at another rate."""
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, (rate, samples) in enumerate(((8000, 1003), (8000, 777), (16000, 2500))):
        t = torch.arange(samples) / rate
        x = 0.3 * torch.sin(2 * torch.pi * (200 + 150 * number) * t) * torch.exp(-2 * t)
        soundfile.write(folder / f"r{number}.wav", x.numpy(), rate)
    return folder
