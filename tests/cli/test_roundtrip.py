import json

import pytest

import vq.tokenizers.convert
from vq.cli.main import main


def test_images_are_exact(image_model, pictures, capsys):
    assert main(["roundtrip", str(image_model), str(pictures)]) == 0
    out = capsys.readouterr().out
    assert "bit for bit" in out and "PSNR, dB" in out
    assert sorted(p.name for p in pictures.parent.iterdir()) == ["pictures"]


def test_sounds_are_exact(audio_model, recordings, capsys):
    assert main(["roundtrip", str(audio_model), str(recordings), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["different"] == [] and data["files"] == 3 and data["unit"] == "kbit/s"
    assert set(data["quality"]) == {"si_sdr", "stft", "mel"}


def test_one_file(image_model, pictures, capsys):
    assert main(["roundtrip", str(image_model), str(pictures / "a.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 1


def test_a_difference_is_seen_and_named(image_model, pictures, capsys, monkeypatch):
    restore = vq.tokenizers.convert.restore_item

    def wrong(codec, item, codes, stages=None):
        values = restore(codec, item, codes, stages)
        return values + 1e-6 * (item.key == "grey.png")

    monkeypatch.setattr(vq.tokenizers.convert, "restore_item", wrong)
    assert main(["roundtrip", str(image_model), str(pictures)]) == 1
    out, error = capsys.readouterr()
    assert error == "vq: 1 files came back different: grey.png\n" and "bit for bit" not in out


def test_a_language_model_is_refused(tmp_path, pictures, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert main(["roundtrip", str(tmp_path), str(pictures)]) == 2
    assert "no tokenizer here" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seed", "--packed"])
def test_options_that_would_do_nothing_do_not_exist(image_model, pictures, option):
    with pytest.raises(SystemExit):
        main(["roundtrip", str(image_model), str(pictures), option, "1"])
