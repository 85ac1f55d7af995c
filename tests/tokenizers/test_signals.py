import pytest
import torch

from vq.errors import VqError
from vq.tokenizers.images import read_image
from vq.tokenizers.signals import Signals, output_names, read_signal, signal_files, write_signal


@pytest.fixture
def images(build_tokenizer):
    return build_tokenizer("image").code_spec


@pytest.fixture
def sounds(build_tokenizer):
    return build_tokenizer("audio").code_spec


def test_files_of_a_folder_and_one_file(pictures):
    (pictures / "notes.txt").write_text("no picture")
    (pictures / ".hidden.png").write_bytes(b"x")
    keys = [key for key, _ in signal_files(pictures, "image")]
    assert keys == ["a.jpg", "a.png", "grey.png", "more/b.png"]
    assert signal_files(pictures / "a.png", "image") == [("a.png", pictures / "a.png")]
    with pytest.raises(VqError, match="no audio files"):
        signal_files(pictures, "audio")
    with pytest.raises(VqError, match="no such file or folder"):
        signal_files(pictures / "nothing", "image")


def test_output_names_never_clash_or_escape():
    assert output_names(["a.jpg", "b/a.jpg", "c.png"], "image") == {
        "a.jpg": "a.png",
        "b/a.jpg": "b/a.png",
        "c.png": "c.png",
    }
    assert output_names(["x.wav", "x.flac"], "audio") == {
        "x.wav": "x.wav.wav",
        "x.flac": "x.flac.wav",
    }
    for key in ("../a.png", "/a.png", "b/../../a.png", "..\\a.png"):
        with pytest.raises(VqError, match="leads out of the folder"):
            output_names([key], "image")


def test_signals_are_read_one_at_a_time_and_can_be_read_again(images, pictures):
    (pictures / "broken.jpg").write_bytes((pictures / "a.jpg").read_bytes()[:100])
    signals = Signals(pictures, images)
    assert len(signals) == 5 and signals.skipped == []
    for _ in range(2):
        found = dict(signals)
        assert list(found) == ["a.jpg", "a.png", "grey.png", "more/b.png"]
        assert [row["file"] for row in signals.skipped] == ["broken.jpg"]
    torch.testing.assert_close(found["grey.png"], read_image(pictures / "grey.png", 3))
    rest = [key for key, _ in signals.without({"a.png", "more/b.png"})]
    assert rest == ["a.jpg", "grey.png"]


def test_sound_comes_at_the_rate_that_is_wanted(sounds, recordings):
    lengths = {key: tuple(x.shape) for key, x in Signals(recordings, sounds)}
    assert lengths == {"r0.wav": (1, 1003), "r1.wav": (1, 777), "r2.wav": (1, 1250)}


def test_held_out_files_are_the_same_every_time(images, pictures):
    held = Signals(pictures, images, held_out=True)
    assert 0 < len(held) < 4
    assert held.files == Signals(pictures, images, held_out=True).files
    one = Signals(pictures / "a.png", images, held_out=True)
    assert [key for key, _ in one.files] == ["a.png"]


def test_what_is_written_is_read_again(images, sounds, tmp_path):
    x = (torch.arange(3 * 5 * 7) % 256).reshape(3, 5, 7) / 127.5 - 1
    write_signal(tmp_path / "new" / "x.png", x, images)
    torch.testing.assert_close(read_signal(tmp_path / "new" / "x.png", images), x)
    y = torch.linspace(-0.5, 0.5, 41)[None]
    write_signal(tmp_path / "y.wav", y, sounds)
    torch.testing.assert_close(read_signal(tmp_path / "y.wav", sounds), y, rtol=0, atol=2**-15)
