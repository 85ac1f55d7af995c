import json

import pytest

from vq.cli.main import main
from vq.tokenizers.tokenreader import TokenReader


def test_encoding_prints_sizes_and_writes_json(image_model, pictures, tmp_path, capsys):
    target, report = tmp_path / "t", tmp_path / "r.json"
    assert (
        main(["encode", str(image_model), str(pictures), "-o", str(target), "--json", str(report)])
        == 0
    )
    shown = capsys.readouterr().out
    data = json.loads(report.read_text())
    real = sum(p.stat().st_size for p in target.iterdir())
    assert data["file_bits"] == 8 * real and f"{real}" in shown
    assert data["files"] == 4 and data["unit"] == "bits/pixel"
    assert data["model_hash"] == TokenReader(target).spec.model_hash
    assert TokenReader(target).index.storage == "uint8"


def test_packed_tokens_hold_the_same_in_less(image_model, pictures, tmp_path, capsys):
    words = ["encode", str(image_model), str(pictures), "-o"]
    assert main([*words, str(tmp_path / "plain"), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*words, str(tmp_path / "packed"), "--packed", "--json"]) == 0
    packed = json.loads(capsys.readouterr().out)
    assert packed["file_bits"] < plain["file_bits"]
    a, b = TokenReader(tmp_path / "plain"), TokenReader(tmp_path / "packed")
    assert b.index.storage == "packed" and a.keys() == b.keys()
    assert all(a.codes(key).equal(b.codes(key)) for key in a.keys())
    assert 8 * sum(item.bytes for item in b.index.items) < packed["nominal_bits"] + 8 * 4


def test_bad_files_are_named_on_standard_error(image_model, pictures, tmp_path, capsys):
    (pictures / "bad.png").write_bytes(b"no picture")
    assert main(["encode", str(image_model), str(pictures), "-o", str(tmp_path / "t")]) == 0
    out, error = capsys.readouterr()
    assert "skipped bad.png: is no image" in error
    assert "skipped" in out and len(TokenReader(tmp_path / "t")) == 4


def test_finished_tokens_are_not_overwritten_unasked(
    image_model, pictures, tmp_path, capsys, contents
):
    words = ["encode", str(image_model), str(pictures), "-o", str(tmp_path / "t")]
    assert main(words) == 0
    before = contents(tmp_path / "t")
    assert main(words) == 2
    assert "finished tokens already" in capsys.readouterr().err
    assert main([*words, "--restart"]) == 0 and contents(tmp_path / "t") == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["nothing"], "no tokenizer here"),
        (None, "no such file or folder"),
        (["--shard-mb", "0"], "--shard-mb: expected more than 0"),
        (["--threads", "0"], "--threads: expected at least 1"),
    ],
)
def test_mistakes_are_one_line(image_model, pictures, tmp_path, capsys, change, message):
    words = ["encode", str(image_model), str(pictures), "-o", str(tmp_path / "t")]
    if change is None:
        words[2] = str(tmp_path / "nowhere")
    elif len(change) == 1:
        words[1] = str(tmp_path)
    else:
        words += change
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("vq: error:") and message in error and error.count("\n") == 1
