import json

import pytest

from vq.cli.main import main


@pytest.fixture
def tokens(image_model, pictures, tmp_path, capsys):
    assert main(["encode", str(image_model), str(pictures), "-o", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    return tmp_path / "t"


def test_files_come_back_under_their_names(image_model, tokens, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    out = tmp_path / "out"
    assert main(["decode", str(image_model), str(tokens), "-o", str(out), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["files"] == 4 and data["stages"] == 3
    found = {str(p.relative_to(out)): image.open(p).size for p in out.rglob("*.png")}
    assert found == {
        "a.jpg.png": (13, 18),
        "a.png.png": (31, 22),
        "grey.png": (25, 30),
        "more/b.png": (19, 41),
    }


def test_stages(image_model, tokens, tmp_path, capsys, contents):
    words = ["decode", str(image_model), str(tokens), "-o"]
    for stages in ("1", "3"):
        assert main([*words, str(tmp_path / stages), "--stages", stages]) == 0
    assert main([*words, str(tmp_path / "all")]) == 0
    assert contents(tmp_path / "3") == contents(tmp_path / "all") != contents(tmp_path / "1")
    capsys.readouterr()
    assert main([*words, str(tmp_path / "x"), "--stages", "4"]) == 2
    assert capsys.readouterr().err == "vq: error: stages: expected 1 to 3, got 4\n"


def test_sound(audio_model, recordings, tmp_path, capsys):
    soundfile = pytest.importorskip("soundfile")
    assert main(["encode", str(audio_model), str(recordings), "-o", str(tmp_path / "t")]) == 0
    assert main(["decode", str(audio_model), str(tmp_path / "t"), "-o", str(tmp_path / "out")]) == 0
    assert "kbit/s" in capsys.readouterr().out
    assert soundfile.info(tmp_path / "out" / "r2.wav").frames == 1250


def test_another_models_tokens_are_refused(build_tokenizer, tokens, tmp_path, capsys):
    build_tokenizer("image", seed=1).save(tmp_path / "other")
    words = ["decode", str(tmp_path / "other"), str(tokens), "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert "tokens of another model" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_an_unfinished_or_missing_folder_of_tokens(image_model, tmp_path, capsys):
    assert main(["decode", str(image_model), str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "expected a folder of tokens" in capsys.readouterr().err
    (tmp_path / "unfinished").mkdir()
    assert main(["decode", str(image_model), str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "interrupted" in capsys.readouterr().err
