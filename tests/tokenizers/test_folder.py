"""Folders as people have them: mixed, broken, growing."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch

from vq.errors import VqError

Image = pytest.importorskip("PIL.Image")
soundfile = pytest.importorskip("soundfile")

from vq.tokenizers import folder  # noqa: E402
from vq.tokenizers.audio import write_audio  # noqa: E402 (needs soundfile)
from vq.tokenizers.folder import inspect_folder, list_files, split_of  # noqa: E402
from vq.tokenizers.images import write_image  # noqa: E402 (needs Pillow)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def photos(target, count: int = 4, start: int = 0) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for n in range(start, start + count):
        write_image(target / f"{n}.png", noise(3, 8 + n, 6, seed=n))


def sides(target, **options) -> dict[str, str]:
    return {item.key: item.split for item in inspect_folder(target, **options).items}


def test_images_with_broken_files_and_other_files(tmp_path):
    photos(tmp_path / "a" / "deep", 2)
    photos(tmp_path, 2, 5)
    write_image(tmp_path / "b.PNG", noise(1, 4, 4))
    (tmp_path / "a" / "broken.jpg").write_text("no")
    cut = (tmp_path / "5.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "x.png").write_text("x")
    found = inspect_folder(tmp_path)
    keys = [item.key for item in found.items]
    assert keys == ["5.png", "6.png", "a/deep/0.png", "a/deep/1.png", "b.PNG"]
    assert found.kind == "image" and found.ignored == 1
    assert [key for key, _ in found.unreadable] == ["a/broken.jpg", "cut.png"]
    assert "no image that Pillow knows" in found.unreadable[0][1]
    assert found.items[0].size == (13, 6) and found.items[0].channels == 3
    assert found.items[4].channels == 1 and found.items[0].sample_rate is None
    headers = inspect_folder(tmp_path, decode=False)
    assert [key for key, _ in headers.unreadable] == ["a/broken.jpg"]


def test_audio_with_odd_files(tmp_path):
    write_audio(tmp_path / "a.wav", noise(1, 16000), 16000)
    write_audio(tmp_path / "b.wav", noise(2, 22050), 44100)
    write_audio(tmp_path / "clipped.wav", 8 * noise(1, 8000), 8000)
    write_audio(tmp_path / "silent.wav", torch.zeros(1, 8000), 8000)
    soundfile.write(tmp_path / "zero.wav", np.zeros((0, 1), np.float32), 8000)
    found = inspect_folder(tmp_path)
    assert found.kind == "audio" and found.unreadable == (("zero.wav", "has no samples"),)
    by_key = {item.key: item for item in found.items}
    assert by_key["b.wav"].size == (22050,) and by_key["b.wav"].seconds == 0.5
    assert by_key["b.wav"].channels == 2 and by_key["b.wav"].sample_rate == 44100
    assert by_key["clipped.wav"].notes == ("clipped",)
    assert by_key["silent.wav"].notes == ("silent",) and by_key["a.wav"].notes == ()
    headers = inspect_folder(tmp_path, decode=False)
    assert [i.size for i in headers.items] == [i.size for i in found.items]


def test_the_split_stays_when_files_are_added_or_renamed(tmp_path):
    photos(tmp_path, 30)
    before = sides(tmp_path, val_fraction=0.3)
    assert 2 <= list(before.values()).count("val") <= 18
    photos(tmp_path, 10, 30)
    after = sides(tmp_path, val_fraction=0.3)
    assert {key: after[key] for key in before} == before
    (tmp_path / "0.png").rename(tmp_path / "renamed.png")
    assert sides(tmp_path, val_fraction=0.3)["renamed.png"] == before["0.png"]


def test_copies_are_on_one_side(tmp_path):
    photos(tmp_path, 12)
    for n in range(12):
        shutil.copy(tmp_path / f"{n}.png", tmp_path / f"copy{n}.png")
    side = sides(tmp_path, val_fraction=0.5)
    assert all(side[f"{n}.png"] == side[f"copy{n}.png"] for n in range(12))
    assert set(side.values()) == {"train", "val"}


def test_share_of_the_split():
    generator = np.random.default_rng(0)
    digests = [f"{n:08x}" + "0" * 56 for n in generator.integers(0, 2**32, 20000)]
    share = np.mean([split_of(digest, 0.1) == "val" for digest in digests])
    assert share == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 20000))


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_no_side_is_empty_in_a_small_folder(tmp_path, fraction):
    photos(tmp_path, 2)
    found = inspect_folder(tmp_path, val_fraction=fraction)
    assert len(found.train) == len(found.val) == 1
    assert not inspect_folder(tmp_path, val_fraction=0).val


def test_a_single_file_where_that_is_enough(tmp_path):
    photos(tmp_path, 1)
    assert len(inspect_folder(tmp_path, minimum=1).items) == 1
    with pytest.raises(VqError, match="1 readable image files, expected at least 2"):
        inspect_folder(tmp_path)


def test_empty_and_useless_folders(tmp_path):
    with pytest.raises(VqError, match="not found; expected a folder"):
        inspect_folder(tmp_path / "absent")
    with pytest.raises(VqError, match="neither images nor audio here; the folder is empty"):
        inspect_folder(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(VqError, match=r"found 1 of .txt"):
        inspect_folder(tmp_path)
    with pytest.raises(VqError, match="is a file; expected a folder"):
        inspect_folder(tmp_path / "a.txt")
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(
        VqError, match=r"0 readable image files.*1 cannot be read: a.png is no image"
    ):
        inspect_folder(tmp_path)
    with pytest.raises(VqError, match="no audio files here; found 1 of .png, 1 of .txt"):
        inspect_folder(tmp_path, "audio")


def test_a_file_that_vanishes_meanwhile(tmp_path, monkeypatch):
    photos(tmp_path, 3)
    real = folder.content_digest

    def vanish(path):
        if path.name == "1.png":
            path.unlink()
        return real(path)

    monkeypatch.setattr(folder, "content_digest", vanish)
    found = inspect_folder(tmp_path)
    assert [item.key for item in found.items] == ["0.png", "2.png"]
    assert found.unreadable == (("1.png", "No such file or directory"),)


def test_kind_is_what_most_files_are(tmp_path):
    photos(tmp_path, 3)
    write_audio(tmp_path / "a.wav", noise(1, 100), 8000)
    write_audio(tmp_path / "b.wav", noise(1, 100), 8000)
    assert inspect_folder(tmp_path).kind == "image"
    assert [i.key for i in inspect_folder(tmp_path, "audio").items] == ["a.wav", "b.wav"]


def test_order_does_not_depend_on_the_system(tmp_path):
    for name in ("b/x.png", "a.png", "B.png", "a/z.png", "ä.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_files(tmp_path) == ["B.png", "a.png", "a/z.png", "b/x.png", "ä.png"]


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="kind: expected image or audio"):
        inspect_folder(tmp_path, "smell")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="val_fraction"):
        inspect_folder(tmp_path, val_fraction=1)
