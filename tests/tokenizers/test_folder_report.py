"""Tables and dictionaries about folders."""

from __future__ import annotations

import json
from pathlib import Path

from vq.tokenizers.folder import Folder, MediaFile
from vq.tokenizers.folder_report import aligned, folder_dict, folder_table


def clip(n: int, seconds: float, rate: int = 16000, **changes) -> MediaFile:
    values = {
        "key": f"{n}.wav",
        "path": Path(f"{n}.wav"),
        "size": (round(seconds * rate),),
        "channels": 1,
        "sample_rate": rate,
        "bytes": 1000,
        "digest": f"{n}",
        "split": "train",
    }
    return MediaFile(**{**values, **changes})


def photo(n: int, height: int, width: int, **changes) -> MediaFile:
    return clip(n, 1, size=(height, width), sample_rate=None, **changes)


def test_audio():
    items = (
        clip(0, 1.0),
        clip(1, 3.0, notes=("silent",)),
        clip(2, 2.0, 8000, channels=2, split="val", digest="0"),
    )
    broken = tuple((f"x{n}.wav", "has no samples") for n in range(7))
    folder = Folder(Path("sounds"), "audio", items, broken, 2)
    values = json.loads(json.dumps(folder_dict(folder)))
    assert values["total_seconds"] == 6 and values["train"] == 2 and values["val"] == 1
    assert values["seconds"] == {"min": 1, "median": 2, "max": 3}
    assert values["sample_rates"] == {"8000": 1, "16000": 2} and values["copies"] == 1
    assert values["unreadable"][0] == {"key": "x0.wav", "reason": "has no samples"}
    assert len(values["unreadable"]) == 7 and values["bytes"] == 3000
    table = folder_table(folder)
    for text in (
        "2 train, 1 val",
        "0 min 6.0 s in all",
        "1.00 to 3.00 (median 2.00) s",
        "8000 Hz (1), 16000 Hz (2)",
        "1 (2), 2 (1)",
        "1 silent",
        "1 files have the content of another",
        "2, not looked at",
        "unreadable 7",
        "x0.wav: has no samples",
        "and 2 more",
    ):
        assert text in table, table
    assert "x5.wav" not in table


def test_images():
    items = (photo(0, 10, 20, channels=3), photo(1, 30, 20, channels=3))
    folder = Folder(Path("p"), "image", items, (), 0)
    values = json.loads(json.dumps(folder_dict(folder)))
    assert values["pixels"] == 10 * 20 + 30 * 20 and values["width"]["median"] == 20
    assert "seconds" not in values
    table = folder_table(folder)
    assert "10 to 30 (median 20) x 20" in table and "unreadable" not in table
    assert "channels        3\n" in table + "\n"


def test_long_durations():
    items = tuple(clip(n, 3000) for n in range(3))
    assert "2 h 30 min in all" in folder_table(Folder(Path("p"), "audio", items, (), 0))


def test_columns_are_aligned():
    assert aligned([("a", "1"), ("long", "2")]) == "a     1\nlong  2"
