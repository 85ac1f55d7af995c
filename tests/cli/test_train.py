from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("lightning")

import vq
from vq.cli.main import main

TINY = [
    "size=16",
    "batch=4",
    "backbone.width=8",
    "backbone.dim=8",
    "quantizer.codebook=kmeans(dim=8, entries=32)",
    "start_vectors=128",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("photos")
    ramp = torch.linspace(0, 2 * math.pi, 40)
    for number in range(3):
        plane = torch.sin(ramp[:, None] * (number + 1)) * torch.cos(ramp[None, :])
        pixels = ((torch.stack([plane, -plane, plane**2], -1) + 1) * 127.5).to(torch.uint8)
        image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return folder


def train(photos, out, *more) -> int:
    return main(["train", "image", "--data", str(photos), "--out", str(out), *TINY, *more])


def test_from_a_folder_to_a_tokenizer(photos, tmp_path, capsys):
    target = tmp_path / "result.json"
    assert train(photos, tmp_path / "run", "--steps", "6", "--json", str(target)) == 0
    shown = capsys.readouterr()
    assert "6 of 6" in shown.out and "model hash" in shown.out and "PSNR, dB" in shown.out
    assert "1 x 32 entries" in shown.err
    assert "step 6/6 quantized" in shown.err
    found = json.loads(target.read_text())
    tokenizer = vq.Tokenizer.load(tmp_path / "run" / "model")
    assert found["finished"] and found["model_hash"] == tokenizer.model_hash
    assert found["recipe"]["size"] == 16 and found["overfit"] is None
    assert found["values"]["codebook/n_over_k"] > 0


def test_json_on_standard_output_is_all_there_is(photos, tmp_path, capsys):
    assert train(photos, tmp_path / "run", "--steps", "2", "--quiet", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["step"] == 2 and shown.err == ""


def test_stopped_by_the_clock_and_resumed(photos, tmp_path, capsys):
    short = tmp_path / "run"
    assert train(photos, short, "--steps", "6", "--max-minutes", "0.00001") == 0
    assert "stopped at step 1 of 6; the same command goes on" in capsys.readouterr().out
    assert train(photos, short, "--steps", "6") == 0
    assert "going on from step 1" in capsys.readouterr().err
    assert train(photos, tmp_path / "whole", "--steps", "6", "--quiet") == 0
    hashes = {vq.Tokenizer.load(run / "model").model_hash for run in (short, tmp_path / "whole")}
    assert len(hashes) == 1


def test_overfit_has_an_exit_code(photos, tmp_path, capsys):
    changes = ["learning_rate=1e-2", "--steps", "80", "--overfit", "2", "--quiet"]
    assert train(photos, tmp_path / "good", *changes) == 0
    assert "(learnt by heart)" in capsys.readouterr().out
    changes = ["learning_rate=1e-9", "--steps", "3", "--overfit", "2", "--quiet"]
    assert train(photos, tmp_path / "bad", *changes) == 1
    assert "NOT learnt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stepz=3"], "unknown key 'stepz'; did you mean steps"),
        (["--recipe", "image-f9"], "unknown recipe 'image-f9'; did you mean image-f"),
        (["--recipe", "speech-16k"], "is for audio; those for image: image-bsq"),
        (["--overfit", "-1"], "overfit: expected at least 0"),
        (["--max-minutes", "0"], "max_minutes: expected more than 0"),
        (["quantizer.entries=3"], "has no argument 'entries'"),
    ],
)
def test_what_a_user_can_mend(photos, tmp_path, capsys, words, message):
    assert main(["train", "image", "--data", str(photos), "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_missing_data(tmp_path, capsys):
    assert main(["train", "image", "--data", str(tmp_path / "no")]) == 2
    assert "no" in capsys.readouterr().err


def test_default_folder_of_a_run(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(photos), "--steps", "1", "--quiet", "warmup=0"]
    assert main(["train", "image", *words, *TINY]) == 0
    assert (tmp_path / "runs" / "image-f4" / "model" / "config.json").exists()


def test_the_command_is_listed(capsys):
    assert main([]) == 2
    assert "train an image or audio tokenizer" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_train_what_one_trains_with_twice_the_batch(photos, tmp_path):
    """The codes are those of one process: losses, gradients and codebook statistics are shared."""
    tokenizers = []
    for name, devices, batch in (("one", 1, 4), ("two", 2, 2)):
        words = ["train", "image", "--data", str(photos), "--out", str(tmp_path / name), *TINY]
        words += ["--steps", "6", "--threads", "1", "--devices", str(devices), f"batch={batch}"]
        words += ["start_vectors=128", "--log-every", "2"]
        found = subprocess.run(
            [sys.executable, "-m", "vq", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout.count("model hash") == 1
        tokenizers.append(vq.Tokenizer.load(tmp_path / name / "model"))
    one, two = (tokenizer.state_dict() for tokenizer in tokenizers)
    for key, value in one.items():
        torch.testing.assert_close(two[key].float(), value.float(), atol=2e-3, rtol=2e-2, msg=key)
    counted = []
    for name in ("one", "two"):
        with (tmp_path / name / "metrics.csv").open() as file:
            counted.append([row["codebook/n_over_k"] for row in csv.DictReader(file)])
    assert counted[0] == counted[1] and len(counted[0]) == 3 and counted[0][-1] == "4"
