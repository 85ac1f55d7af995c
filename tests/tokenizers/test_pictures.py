from __future__ import annotations

import sys
import wave

import pytest
import torch

pytest.importorskip("lightning")

from vq.tokenizers.pictures import is_dump_step, picture, write_png, write_samples, write_wav


def test_dumps_at_powers_of_two_and_at_the_end():
    assert [n for n in range(41) if is_dump_step(n, 40)] == [1, 2, 4, 8, 16, 32, 40]


def test_a_row_is_input_output_difference():
    items = torch.stack([torch.full((3, 2, 2), -1.0), torch.zeros(3, 2, 2)])
    output = torch.stack([torch.full((3, 2, 2), 3.0), torch.full((3, 2, 2), 0.5)])
    seen = picture(items, output)
    assert seen.shape == (3, 4, 6) and seen.dtype == torch.uint8
    assert seen[0, 0].tolist() == [0, 0, 255, 255, 255, 255]  # clipped to 1; difference 2 / 2
    assert seen[0, 3].tolist() == [128, 128, 191, 191, 159, 159]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_there_and_back(tmp_path, channels):
    image = pytest.importorskip("PIL.Image")
    numpy = pytest.importorskip("numpy")
    pixels = torch.randint(256, (channels, 4, 5), dtype=torch.uint8)
    write_png(tmp_path / "x.png", pixels)
    with image.open(tmp_path / "x.png") as file:
        array = torch.from_numpy(numpy.array(file))
    assert torch.equal(array, pixels.movedim(0, -1).squeeze(-1))
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_wav_there_and_back(tmp_path):
    x = torch.tensor([[0.0, 0.5, -0.5, 2.0], [1.0, -1.0, 0.25, 0.0]])
    write_wav(tmp_path / "x.wav", x, 8000)
    with wave.open(str(tmp_path / "x.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 2, 2)
        raw = torch.frombuffer(bytearray(file.readframes(4)), dtype=torch.int16)
    torch.testing.assert_close(raw.reshape(4, 2).T / 32767, x.clamp(-1, 1), atol=1e-4, rtol=0)


def test_sounds_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_samples(tmp_path, 7, torch.zeros(1, 1, 800), torch.zeros(1, 1, 800), 8000)
    assert {p.name for p in tmp_path.iterdir()} == {
        "step_000000007_0_input.wav", "step_000000007_0_output.wav",
    }  # fmt: skip


def test_spectrograms_where_matplotlib_is_installed(tmp_path):
    pytest.importorskip("matplotlib")
    x = torch.sin(torch.arange(2000.0))[None, None]
    write_samples(tmp_path, 7, x, x, 8000)
    assert (tmp_path / "step_000000007.png").read_bytes().startswith(b"\x89PNG")
