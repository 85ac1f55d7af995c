import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vq.errors import VqError
from vq.tokenizers.codec import TokenizerCodec, open_tokenizer
from vq.tokenizers.convert import (
    decode_folder,
    encode_folder,
    roundtrip,
)
from vq.tokenizers.images import read_image
from vq.tokenizers.signals import Signals
from vq.tokenizers.tokenreader import TokenReader


@pytest.fixture
def images(image_model):
    return TokenizerCodec(open_tokenizer(image_model))


@pytest.fixture
def sounds(audio_model):
    return TokenizerCodec(open_tokenizer(audio_model))


@pytest.mark.parametrize("storage", ["auto", "packed"])
def test_pictures_come_back_at_their_size(images, pictures, tmp_path, storage):
    done = []
    found = encode_folder(images, pictures, tmp_path / "t", storage=storage, done=done.append)
    assert (found.files, found.skipped, done) == (4, [], [1, 2, 3, 4])
    decode_folder(images, tmp_path / "t", tmp_path / "out")
    for name, target in (
        ("a.jpg", "a.jpg.png"),
        ("a.png", "a.png.png"),
        ("more/b.png", "more/b.png"),
    ):
        x = read_image(pictures / name)
        memory = images.tokenizer.decode(images.tokenizer.encode(x[None]), size=x.shape[1:])[0]
        bytes_of = ((memory.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        again = (read_image(tmp_path / "out" / target) + 1) * 127.5
        torch.testing.assert_close(again.round().to(torch.uint8), bytes_of, rtol=0, atol=0)


def test_sounds_come_back_at_their_length(sounds, recordings, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    encode_folder(sounds, recordings, tmp_path / "t")
    decode_folder(sounds, tmp_path / "t", tmp_path / "out")
    for name, samples in (("r0.wav", 1003), ("r1.wav", 777), ("r2.wav", 1250)):
        x, rate = soundfile.read(tmp_path / "out" / name, dtype="float32")
        assert (rate, x.shape) == (8000, (samples,))
    codes = TokenReader(tmp_path / "t").codes("r1.wav")
    memory = sounds.tokenizer.decode(codes[None], size=(777,))[0, 0].clamp(-1, 1)
    x, _ = soundfile.read(tmp_path / "out" / "r1.wav", dtype="int16")
    np.testing.assert_array_equal(x, (memory * 32768).round().clamp(-32768, 32767).int().numpy())


def test_prefixes_decode_from_the_first_stages(images, pictures, tmp_path):
    encode_folder(images, pictures, tmp_path / "t")
    outputs = []
    for stages in (1, 2, 3):
        decode_folder(images, tmp_path / "t", tmp_path / str(stages), stages=stages)
        outputs.append(read_image(tmp_path / str(stages) / "grey.png"))
    codes = TokenReader(tmp_path / "t").codes("grey.png")[None]
    quantizer = images.tokenizer.quantizer
    first = quantizer.decode(codes.movedim(1, -1), 1)
    expected = images.tokenizer.synthesize(first).detach()[0, :, :30, :25].clamp(-1, 1)
    torch.testing.assert_close(outputs[0], expected, rtol=0, atol=1.01 / 127.5)
    assert not torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[1], outputs[2])
    for stages in (0, 4):
        with pytest.raises(VqError, match=f"stages: expected 1 to 3, got {stages}"):
            decode_folder(images, tmp_path / "t", tmp_path / "x", stages=stages)


def test_tokens_of_another_model_are_refused(images, pictures, tmp_path, build_tokenizer, sounds):
    encode_folder(images, pictures, tmp_path / "t")
    other = TokenizerCodec(build_tokenizer("image", seed=1))
    with pytest.raises(VqError, match="tokens of another model"):
        decode_folder(other, tmp_path / "t", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert decode_folder(other, tmp_path / "t", tmp_path / "out", force=True).files == 4
    with pytest.raises(VqError, match="codes of another layout: kind 'image' against 'audio'"):
        decode_folder(sounds, tmp_path / "t", tmp_path / "out", force=True)


def test_bad_files_are_named_and_the_rest_goes_on(images, pictures, tmp_path):
    (pictures / "b-broken.png").write_bytes((pictures / "a.png").read_bytes()[:200])
    (pictures / "empty.jpg").write_bytes(b"")
    found = encode_folder(images, pictures, tmp_path / "t")
    assert found.files == 4
    assert [row["file"] for row in found.skipped] == ["b-broken.png", "empty.jpg"]
    assert "empty" in found.skipped[1]["reason"]
    assert TokenReader(tmp_path / "t").keys() == ["a.jpg", "a.png", "grey.png", "more/b.png"]


def test_a_folder_of_bad_files_is_an_error(images, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    with pytest.raises(VqError, match=r"none of 1 files can be read; first: x.png: is no image"):
        encode_folder(images, tmp_path / "bad", tmp_path / "t")


def test_an_interrupted_encoding_ends_with_the_same_bytes(images, pictures, tmp_path, contents):
    encode_folder(images, pictures, tmp_path / "whole", storage="packed", shard_bytes=60)

    class Stop(Exception):
        pass

    def stop_after(count):
        def done(n):
            if n >= count:
                raise Stop

        return done

    for count in (1, 3):
        with pytest.raises(Stop):
            encode_folder(
                images,
                pictures,
                tmp_path / "t",
                storage="packed",
                shard_bytes=60,
                done=stop_after(count),
            )
    found = encode_folder(images, pictures, tmp_path / "t", storage="packed", shard_bytes=60)
    assert found.files == 4 and len(list((tmp_path / "t").glob("*.safetensors"))) > 1
    assert contents(tmp_path / "t") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_command_goes_on(image_model, pictures, tmp_path, contents):
    """kill -9 at several moments; then the same command."""
    image = pytest.importorskip("PIL.Image")
    for n in range(40):
        pixels = torch.randint(0, 255, (64, 64, 3), generator=torch.Generator().manual_seed(n))
        image.fromarray(pixels.to(torch.uint8).numpy()).save(pictures / f"n{n:02}.png")

    def command(target: Path) -> list[str]:
        words = ["encode", str(image_model), str(pictures), "-o", str(target), "--packed"]
        return [sys.executable, "-m", "vq", *words, "--threads", "1", "--shard-mb", "0.001"]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True, env=environment)
    target, killed = tmp_path / "t", 0
    for wanted in (3, 20):
        process = subprocess.Popen(
            command(target), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        while process.poll() is None:
            journal = list((target / "unfinished").glob("*.jsonl"))
            if journal and journal[0].read_bytes().count(b"\n") >= wanted:
                process.send_signal(signal.SIGKILL)
                killed += process.wait() == -signal.SIGKILL
                break
            time.sleep(0.002)
    assert killed and not (target / "index.json").exists()
    subprocess.run(command(target), check=True, capture_output=True, env=environment)
    assert contents(target) == contents(tmp_path / "whole")


def test_bits_are_those_of_the_files(images, pictures, tmp_path):
    found = encode_folder(images, pictures, tmp_path / "t", storage="packed")
    files = [p for p in (tmp_path / "t").rglob("*") if p.is_file()]
    assert found.file_bits == 8 * sum(p.stat().st_size for p in files)
    positions = sum(-(-h // 4) * -(-w // 4) for h, w in ((22, 31), (18, 13), (30, 25), (41, 19)))
    assert found.nominal_bits == positions * 9
    assert found.units == 22 * 31 + 18 * 13 + 30 * 25 + 41 * 19


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_roundtrip_is_exact_and_sees_what_is_not(kind, images, sounds, pictures, recordings):
    codec, folder = (images, pictures) if kind == "image" else (sounds, recordings)
    found = roundtrip(codec, folder)
    assert found.different == [] and found.files == (4 if kind == "image" else 3)
    assert set(found.quality) == (
        {"psnr", "ssim"} if kind == "image" else {"si_sdr", "stft", "mel"}
    )
    original, calls = codec.restore, []

    def unsteady(coded, size, stages=None):
        calls.append(1)
        return original(coded, size, stages) + (1e-7 if len(calls) == 3 else 0)

    codec.restore = unsteady
    keys = [key for key, _ in Signals(folder, codec.spec)]
    assert roundtrip(codec, folder).different == [keys[1]]


def test_damaged_tokens_are_not_decoded(images, pictures, tmp_path):
    encode_folder(images, pictures, tmp_path / "t")
    shard = next((tmp_path / "t").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(VqError, match="SHA-256"):
        decode_folder(images, tmp_path / "t", tmp_path / "out")
    index = json.loads((tmp_path / "t" / "index.json").read_text())
    index["items"][0]["offset"] = 5
    (tmp_path / "t" / "index.json").write_text(json.dumps(index))
    with pytest.raises(VqError, match="damaged"):
        decode_folder(images, tmp_path / "t", tmp_path / "out")
