"""Images of every pixel format, and files that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vq.errors import VqError

Image = pytest.importorskip("PIL.Image")

from vq.tokenizers.atomic import UnreadableFile  # noqa: E402 (needs Pillow)
from vq.tokenizers.images import image_info, read_image, write_image  # noqa: E402 (needs Pillow)

RED, WHITE = torch.tensor([1.0, -1.0, -1.0]), torch.ones(3)


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 7, 3), dtype=np.uint8)


def test_rgb_values_and_layout(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 11, 7) and image.dtype == torch.float32
    assert_close(image, torch.from_numpy(picture.transpose(2, 0, 1) / 127.5 - 1).float())
    assert image_info(tmp_path / "a.png").size == (11, 7)


def test_eight_bits_survive_write_and_read(tmp_path):
    every = torch.arange(256).repeat(3, 2, 1).float() / 127.5 - 1
    write_image(tmp_path / "a.png", every)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png"))[0, :, 0], np.arange(256))
    write_image(tmp_path / "b.png", read_image(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_grey_to_colour_and_back(tmp_path, picture):
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert image_info(tmp_path / "grey.png").channels == 1
    colour = read_image(tmp_path / "grey.png")
    assert colour.shape == (3, 11, 7)
    assert torch.equal(colour[0], colour[1]) and torch.equal(colour[0], colour[2])
    assert torch.equal(read_image(tmp_path / "grey.png", channels=1), colour[:1])
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    luma = (picture @ [0.299, 0.587, 0.114]) / 127.5 - 1
    assert_close(read_image(tmp_path / "rgb.png", 1)[0], torch.from_numpy(luma).float())


def test_black_and_white(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "bits.png")
    assert torch.equal(read_image(tmp_path / "bits.png", 1)[0], 2 * torch.eye(4) - 1)


@pytest.mark.parametrize("alpha, want", [(0, WHITE), (255, RED), (51, 0.2 * RED + 0.8 * WHITE)])
def test_transparency_lies_on_white(tmp_path, alpha, want):
    Image.new("RGBA", (3, 2), (255, 0, 0, alpha)).save(tmp_path / "a.png")
    assert_close(read_image(tmp_path / "a.png")[:, 1, 2], want)


def test_grey_with_alpha_and_transparent_palette(tmp_path):
    Image.new("LA", (2, 2), (0, 0)).save(tmp_path / "la.png")
    assert torch.equal(read_image(tmp_path / "la.png"), torch.ones(3, 2, 2))
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 255, 0, 255, 0, 0])
    palette.save(tmp_path / "opaque.png")
    palette.save(tmp_path / "clear.png", transparency=1)
    assert torch.equal(read_image(tmp_path / "opaque.png")[:, 0, 0], RED)
    assert torch.equal(read_image(tmp_path / "clear.png")[:, 0, 0], WHITE)


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert_close(read_image(tmp_path / "a.tif")[:, 3, 3], RED)
    assert image_info(tmp_path / "a.tif").channels == 3


def test_sixteen_bits_are_kept(tmp_path):
    values = np.array([[0, 1, 300], [32768, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    want = torch.from_numpy(values / 65535 * 2 - 1).float()
    assert_close(read_image(tmp_path / "a.png", 1)[0], want, rtol=0, atol=1e-7)
    assert len(read_image(tmp_path / "a.png").unique()) == 6


def test_float_images_need_a_range(tmp_path):
    Image.fromarray(np.float32([[0.25, 1.0]])).save(tmp_path / "ok.tif")
    assert_close(read_image(tmp_path / "ok.tif", 1)[0], torch.tensor([[-0.5, 1.0]]))
    Image.fromarray(np.float32([[0.25, 7.0]])).save(tmp_path / "hdr.tif")
    with pytest.raises(
        UnreadableFile, match=r"hdr.tif: has grey values of 0.25 to 7, expected 0 to 1"
    ):
        read_image(tmp_path / "hdr.tif")


def test_exif_rotation(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=100)
    image = read_image(tmp_path / "a.jpg", 1)
    assert image.shape == (1, 32, 16) and image_info(tmp_path / "a.jpg").size == (32, 16)
    assert image[0, :14].min() > 0.9 and image[0, 18:].max() < -0.9


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(read_image(tmp_path / "a.gif")[:, 0, 0], RED)


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), RED[:, None, None])


def broken_files(folder) -> dict[str, str]:
    """Files that cannot be read, and what must be said about them."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG")
    data = buffer.getvalue()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.fromarray(noise).save(folder / "cut.png")
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("hello")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    return {
        "cut.jpg": "broken image",
        "cut.png": "broken image",
        "text.png": "no image that Pillow knows",
        "empty.png": "is empty",
        "folder.png": "is a folder",
        "absent.png": "No such file",
    }


def test_unreadable_files_say_which_and_why(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(UnreadableFile, match=f"{name}: .*{reason}") as caught:
            read_image(tmp_path / name)
        assert caught.value.path.name == name and isinstance(caught.value, VqError)


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.new("RGB", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableFile, match=r"bomb.png: is too large"):
        read_image(tmp_path / "bomb.png")


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="channels: expected 1 or 3, got 4"):
        read_image(tmp_path / "a.png", 4)
    with pytest.raises(ValueError, match="written as .png"):
        write_image(tmp_path / "a.jpg", torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="expected shape"):
        write_image(tmp_path / "a.png", torch.zeros(4, 4))
    with pytest.raises(ValueError, match="finite"):
        write_image(tmp_path / "a.png", torch.full((1, 2, 2), float("nan")))


def test_values_outside_the_range_are_clipped(tmp_path):
    write_image(tmp_path / "a.png", torch.tensor([[[-9.0, 9.0]]]))
    assert read_image(tmp_path / "a.png", 1).flatten().tolist() == [-1.0, 1.0]
