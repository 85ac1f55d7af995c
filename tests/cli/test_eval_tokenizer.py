import json

import pytest
import torch

from vq.cli.main import main
from vq.tokenizers.recipe import read_recipe
from vq.tokenizers.source import inspect


def test_tables_for_people(image_model, pictures, capsys):
    assert main(["eval", str(image_model), str(pictures)]) == 0
    out = capsys.readouterr().out
    for text in ("PSNR, dB", "95 % interval", "nominal, bits/pixel", "N/K", "ceiling", "stages"):
        assert text in out
    assert len([line for line in out.splitlines() if line.startswith(("1 ", "2 ", "3 "))]) == 6


def test_json_for_programs(audio_model, recordings, tmp_path, capsys):
    target = tmp_path / "r.json"
    assert main(["eval", str(audio_model), str(recordings), "--json", str(target)]) == 0
    data = json.loads(target.read_text())
    assert data["kind"] == "audio" and data["rate"]["unit"] == "kbit/s"
    assert len(data["files"]) == 3 and len(data["stages"]) == len(data["codes"]) == 3
    quality = data["quality"]["si_sdr"]
    assert quality["low"] < quality["mean"] < quality["high"] and quality["files"] == 3
    mean = sum(row["si_sdr"] for row in data["files"]) / 3
    assert quality["mean"] == pytest.approx(mean)
    assert data["rate"]["nominal"] < data["rate"]["file"]
    assert "SI-SDR, dB" in capsys.readouterr().out


def test_held_out_files_only(image_model, pictures, capsys):
    assert main(["eval", str(image_model), str(pictures), "--held-out", "--json"]) == 0
    keys = [row["key"] for row in json.loads(capsys.readouterr().out)["files"]]
    held = inspect(pictures, read_recipe("image-f4")).held_out
    assert keys == [item.key for item in held]
    assert 0 < len(keys) < 4


def test_bad_files_are_named(image_model, pictures, capsys):
    (pictures / "bad.png").write_bytes(b"no picture")
    assert main(["eval", str(image_model), str(pictures), "--json"]) == 0
    out, error = capsys.readouterr()
    assert [row["file"] for row in json.loads(out)["skipped"]] == ["bad.png"]
    assert "skipped bad.png" in error


def test_options_of_the_other_kind_are_refused(image_model, pictures, tmp_path, capsys):
    model = str(image_model)
    for words, message in (
        ([model], "is a tokenizer: give a folder of files"),
        ([model, str(pictures), "--text", "x.txt"], "--text is for language models"),
        ([model, str(pictures), "--reference", "y"], "--reference is for language models"),
        ([str(tmp_path), str(pictures)], "is no tokenizer of `vq train`"),
        ([str(tmp_path)], "--text FILE: expected held-out text"),
        ([str(tmp_path), "--held-out", "--text", "x"], "is no tokenizer of `vq train`"),
    ):
        assert main(["eval", *words]) == 2
        assert message in capsys.readouterr().err


def test_a_run_without_a_model_says_so(tmp_path, pictures, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert main(["eval", str(tmp_path), str(pictures)]) == 2
    assert "this run has no model yet" in capsys.readouterr().err


@pytest.mark.hf
def test_language_models_are_scored_as_before(llama, text, capsys):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    words = ["eval", str(llama), "--text", str(text), "--context", "32", "--windows", "2"]
    assert main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["perplexity"] > 1 and data["context"] == 32


def test_options_may_stand_between_model_and_data(image_model, pictures, capsys):
    assert main(["eval", str(image_model), "--held-out", str(pictures)]) == 0
    assert "PSNR" in capsys.readouterr().out
