"""compress, eval and generate on a tiny model, as a user types them."""

import json

import pytest

from vq.cli.main import main

pytest.importorskip("transformers")
pytestmark = pytest.mark.hf
SMALL = ["--windows", "2", "--context", "32", "--codebook", "scalar(bits=2)"]


@pytest.fixture(scope="module")
def small(llama, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    command = ["compress", str(llama), "-o", str(folder / "small"), "--calibration", str(text)]
    assert main([*command, *SMALL, "--json", str(folder / "report.json")]) == 0
    return folder / "small"


def test_compress_reports_what_it_made(small):
    data = json.loads((small.parent / "report.json").read_text())
    assert data["totals"]["bits_per_weight"] > 2
    assert data["options"]["codebook"] == "scalar(bits=2)"
    assert data["resumed_blocks"] == 0 and data["seconds"] > 0


def test_compress_prints_the_bytes_of_embeddings(llama, text, tmp_path, capsys):
    command = ["compress", str(llama), "-o", str(tmp_path / "o"), "--calibration", str(text)]
    assert main([*command, *SMALL, "--json", str(tmp_path / "report.json")]) == 0
    packed = json.loads((tmp_path / "report.json").read_text())["embeddings"]["bytes"]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["bytes", "of", "embeddings", "and", "head", str(packed)] in lines and packed > 0


def test_eval(small, llama, text, capsys):
    command = ["eval", str(small), "--text", str(text), "--context", "32", "--windows", "4"]
    assert main([*command, "--reference", str(llama), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    keys = {"perplexity", "reference_perplexity", "kl", "top1", "context", "tokens"}
    assert keys | {"bits_per_weight", "file_bytes"} <= set(data)
    assert data["kl"] > 0 and data["tokens"] == 4 * 31 and data["context"] == 32
    assert main(command) == 0
    assert "bits per weight" in capsys.readouterr().out


def test_eval_of_the_original_against_itself(llama, text, capsys):
    command = ["eval", str(llama), "--reference", str(llama), "--text", str(text)]
    assert main([*command, "--context", "32", "--windows", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kl"] == pytest.approx(0, abs=1e-9) and data["top1"] == 1
    assert data["bits_per_weight"] == 16


def test_generate(small, capsys, tmp_path):
    command = ["generate", str(small), "--prompt", "w1 w2", "--tokens", "5"]
    assert main(command) == 0
    streamed = capsys.readouterr()
    assert "tokens/s" in streamed.err
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["text"].split() == streamed.out.split() and data["tokens"] <= 5
    assert main([*command, "--temperature", "1", "--seed", "3", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["text"]
    main([*command, "--temperature", "1", "--seed", "3", "--json"])
    assert json.loads(capsys.readouterr().out)["text"] == first


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["eval", "{model}", "--text", "nothing.txt"], "nothing.txt: no such file"),
        (["eval", "{model}", "--text", "{text}", "--context", "100000"], "fewer than one context"),
        (["eval", "nowhere/model", "--text", "{text}"], "nowhere/model"),
        (["generate", "{model}", "--prompt", "w1", "--tokens", "0"], "at least 1"),
        (["generate", "{model}", "--prompt", "w1", "--chat"], "chat template"),
        (["generate", "{model}", "--prompt", ""], "at least one word"),
        (["compress", "{model}", "-o", "{out}"], "calibration"),
        (["compress", "{model}", "-o", "{out}", "--bits", "9"], "--bits"),
        (["compress", "{model}", "-o", "{out}", "--recipe", "2bits"], "2bit"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, part, llama, text, tmp_path, capsys):
    names = {"model": llama, "text": text, "out": tmp_path / "out"}
    assert main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert part in error and error.splitlines()[-1].startswith("vq: error: ")
    assert not (tmp_path / "out").exists()
