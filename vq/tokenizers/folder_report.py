"""What is in a folder, as lines for people and as a dictionary for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from vq.tokenizers.folder import Folder

_SHOWN = 5


def folder_dict(folder: Folder) -> dict[str, Any]:
    """Counts, sizes or durations, and every unreadable file with its reason: plain values for JSON."""
    notes = Counter(note for item in folder.items for note in item.notes)
    digests = {item.digest for item in folder.items}
    common: dict[str, Any] = {
        "root": str(folder.root),
        "kind": folder.kind,
        "files": len(folder.items),
        "train": len(folder.train),
        "val": len(folder.val),
        "bytes": sum(item.bytes for item in folder.items),
        "copies": len(folder.items) - len(digests),
        "channels": _counts([item.channels for item in folder.items]),
        "notes": dict(sorted(notes.items())),
        "unreadable": [{"key": key, "reason": reason} for key, reason in folder.unreadable],
        "ignored": folder.ignored,
    }
    if folder.kind == "image":
        common["height"] = _range([item.size[0] for item in folder.items])
        common["width"] = _range([item.size[1] for item in folder.items])
        common["pixels"] = sum(item.size[0] * item.size[1] for item in folder.items)
    else:
        common["seconds"] = _range([item.seconds for item in folder.items])
        common["total_seconds"] = sum(item.seconds for item in folder.items)
        common["sample_rates"] = _counts([item.sample_rate or 0 for item in folder.items])
    return common


def folder_table(folder: Folder) -> str:
    """The same in a few lines."""
    values = folder_dict(folder)
    rows = [
        ("folder", values["root"]),
        ("files", f"{values['files']} {folder.kind} ({values['bytes'] / 1e6:.1f} MB)"),
        ("split", f"{values['train']} train, {values['val']} val"),
    ]
    if folder.kind == "image":
        rows.append(("height x width", f"{_span(values['height'])} x {_span(values['width'])}"))
        rows.append(("pixels", f"{values['pixels'] / 1e6:.1f} million"))
    else:
        rows.append(("duration", f"{_time(values['total_seconds'])} in all"))
        rows.append(("clip", f"{_span(values['seconds'], '.2f')} s"))
        rows.append(("sample rate", _listed(values["sample_rates"], " Hz")))
    rows.append(("channels", _listed(values["channels"])))
    if values["notes"]:
        rows.append(("of them", ", ".join(f"{n} {note}" for note, n in values["notes"].items())))
    if values["copies"]:
        rows.append(("copies", f"{values['copies']} files have the content of another"))
    if values["ignored"]:
        rows.append(("other files", f"{values['ignored']}, not looked at"))
    for number, (key, reason) in enumerate(folder.unreadable[:_SHOWN]):
        rows.append((f"unreadable {len(folder.unreadable)}" * (number == 0), f"{key}: {reason}"))
    if len(folder.unreadable) > _SHOWN:
        rows.append(("", f"and {len(folder.unreadable) - _SHOWN} more"))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _counts(values: Sequence[int]) -> dict[str, int]:
    """How often each value occurs, keyed by text as JSON wants it."""
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _range(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def _span(values: dict[str, float], form: str = ".0f") -> str:
    low, middle, high = (format(values[name], form) for name in ("min", "median", "max"))
    return low if low == high else f"{low} to {high} (median {middle})"


def _listed(counts: dict[str, int], unit: str = "") -> str:
    if len(counts) == 1:
        return f"{next(iter(counts))}{unit}"
    return ", ".join(f"{name}{unit} ({count})" for name, count in counts.items())


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest:.1f} s"
