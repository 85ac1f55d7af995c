"""The script that fetches data, with package sources that lie on this disk."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "get_data.py"
WHEEL = "scikit_image-0.26.0-py3-none-any.whl"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="examples are not installed")


def get_data(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PIP_NO_INDEX": "1", **environment},
    )


def names_of_photos() -> list[str]:
    spec = importlib.util.spec_from_file_location("get_data", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.PHOTOS)


@pytest.fixture
def wheels(tmp_path) -> Path:
    """A folder with a wheel of the right name that holds small pictures."""
    image = pytest.importorskip("PIL.Image")
    data = io.BytesIO()
    image.new("RGB", (4, 4)).save(data, format="PNG")
    folder = tmp_path / "wheels"
    folder.mkdir()
    about = "scikit_image-0.26.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        for name in names_of_photos():
            wheel.writestr(f"skimage/data/{name}", data.getvalue())
        wheel.writestr(f"{about}/METADATA", "Name: scikit-image\nVersion: 0.26.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return folder


def test_photos_from_any_folder(tmp_path, wheels):
    pytest.importorskip("pip")
    done = get_data("photos", "new/photos", cwd=tmp_path, PIP_FIND_LINKS=str(wheels))
    assert done.returncode == 0, done.stderr
    target = tmp_path / "new" / "photos"
    assert {path.name for path in target.iterdir()} >= {*names_of_photos(), "LICENCES.txt"}
    licences = (target / "LICENCES.txt").read_text(encoding="utf-8")
    assert "chelsea.png: CC0" in licences and licences in done.stdout


def test_packages_that_cannot_be_reached(tmp_path):
    pytest.importorskip("pip")
    done = get_data("photos", tmp_path / "a", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "could not download scikit-image==0.26.0" in done.stderr
    assert "Is the package index reachable" in done.stderr
    done = get_data("speech", tmp_path / "a", "--keep-g722", cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1 and "apt-get is not on this machine" in done.stderr


def fake_apt(folder: Path, name: str, files: dict[str, bytes]) -> str:
    """PATH with an apt-get that gives out a package of these files."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb here")
    root, package = folder / "root", folder / "package.deb"
    control = (
        f"Package: {name}\nVersion: 1\nArchitecture: all\n"
        "Maintainer: x <x@example.org>\nDescription: x\n"
    )
    copyright_file = f"usr/share/doc/{name}/copyright"
    for path, data in {
        **files,
        copyright_file: b"the licence",
        "DEBIAN/control": control.encode(),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    subprocess.run(["dpkg-deb", "-b", root, package], check=True, capture_output=True)
    tool = folder / "bin" / "apt-get"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "download {name}" ] && cp {package} {name}_1_all.deb\n'
    )
    tool.chmod(0o755)
    return f"{tool.parent}:{os.environ['PATH']}"


@pytest.mark.skipif(sys.platform == "win32", reason="Debian packages")
def test_landscapes(tmp_path):
    land = "usr/share/games/endless-sky/images/land"
    files = {f"{land}/a.jpg": b"1", f"{land}/b.jpg": b"2", f"{land}/../ship.jpg": b"3"}
    path = fake_apt(tmp_path, "endless-sky-data", files)
    done = get_data("landscapes", "out", cwd=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.jpg", "b.jpg", "LICENCES.txt"}
    assert (tmp_path / "out" / "b.jpg").read_bytes() == b"2"
    assert (tmp_path / "out" / "LICENCES.txt").read_text() == "the licence"
    assert "2 photographs" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Debian packages")
def test_speech(tmp_path):
    pytest.importorskip("av")
    soundfile = pytest.importorskip("soundfile")
    voice = "usr/share/asterisk/sounds/en_US_f_Allison"
    files = {
        f"{voice}/a.g722": bytes(range(100)),
        f"{voice}/digits/b.g722": bytes(200),
        f"{voice}/silence/1.g722": bytes(10),
    }
    apt = fake_apt(tmp_path, "asterisk-core-sounds-en-g722", files)
    done = get_data("speech", "wav", cwd=tmp_path, PATH=apt)
    assert done.returncode == 0, done.stderr
    found = sorted(p.relative_to(tmp_path / "wav").as_posix() for p in tmp_path.glob("wav/**/*.*"))
    assert found == ["LICENCES.txt", "a.wav", "digits/b.wav"]
    samples, rate = soundfile.read(tmp_path / "wav" / "a.wav", dtype="int16")
    assert rate == 16000 and samples.shape == (200,) and len(np.unique(samples)) > 50
    assert "the licence" in (tmp_path / "wav" / "LICENCES.txt").read_text()
    assert get_data("speech", "raw", "--keep-g722", cwd=tmp_path, PATH=apt).returncode == 0
    assert (tmp_path / "raw" / "a.g722").read_bytes() == bytes(range(100))
