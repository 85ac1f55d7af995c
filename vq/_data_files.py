"""Where the tables and recipes live: installed under ``vq/_data``, or in a checkout's root folders."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def data_path(part: str, name: str = "") -> Path:
    """Path of a shipped file or folder.

    Args:
        part: ``codebooks``, ``compressors`` or ``tokenizers``.
        name: file name inside it; empty for the folder.

    Raises:
        FileNotFoundError: if neither the install nor the checkout has it.
    """
    for root in (_HERE / "_data" / part, _HERE.parent / part):
        if (root / name).exists() and root.is_dir():
            return root / name
    raise FileNotFoundError(
        f"vq's data file {part}/{name} is missing; expected it in {_HERE / '_data' / part}. "
        "Reinstall vq-toolkit."
    )
