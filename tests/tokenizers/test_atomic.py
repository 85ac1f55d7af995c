"""Files appear complete or not at all."""

from __future__ import annotations

import pytest

from vq._files import atomic_file
from vq.tokenizers.atomic import UnreadableFile, check_exists


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with atomic_file(path) as file:
        file.write(b"data")
        assert not path.exists()
    assert path.read_bytes() == b"data" and names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"new, half")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_check_exists(tmp_path):
    (tmp_path / "a").write_text("x")
    check_exists(tmp_path / "a")
    (tmp_path / "b").touch()
    for name, reason in {"b": "is empty", "c": "No such file", ".": "is a folder"}.items():
        with pytest.raises(UnreadableFile, match=reason) as caught:
            check_exists(tmp_path / name)
        assert caught.value.path == tmp_path / name and reason in caught.value.reason
