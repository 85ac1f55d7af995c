import subprocess
import sys

import pytest
import torch

from vq.compressors.files.workfolder import WorkFolder, differences
from vq.errors import VqError

PRINT = {"model": {"a": "1"}, "options": {"seed": 0, "layers": {}}}


@pytest.fixture
def work(tmp_path):
    return WorkFolder(tmp_path / "out")


def test_it_stands_beside_the_output(work, tmp_path):
    assert work.path == tmp_path / "out.partial"


def test_blocks_come_back(work):
    tensors = {"a.weight": torch.arange(9, dtype=torch.uint8), "a.scales": torch.ones(3).half()}
    assert not work.has_block(2)
    work.save_block(2, tensors, {"a": {"proxy_error": 0.25}})
    assert work.has_block(2) and not work.has_block(1)
    loaded, reports = work.load_block(2)
    assert loaded.keys() == tensors.keys() and reports == {"a": {"proxy_error": 0.25}}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_a_damaged_block_counts_as_not_done(work):
    work.save_block(0, {"a": torch.zeros(100)}, {})
    data = work.block_file(0).read_bytes()
    work.block_file(0).write_bytes(data[:-1])
    assert not work.has_block(0)


def test_the_same_run_goes_on(work):
    work.begin(PRINT, {"threads": 1}, restart=False)
    work.save_block(0, {}, {})
    assert work.begin(PRINT, {"threads": 1}, restart=False) == []
    assert work.begin(PRINT, {"threads": 2}, restart=False) == ["threads was 1, now 2"]
    assert work.has_block(0)


def test_another_run_is_refused_and_says_why(work):
    work.begin(PRINT, {}, restart=False)
    work.save_block(0, {}, {})
    other = {"model": {"a": "1"}, "options": {"seed": 1, "layers": {}}}
    with pytest.raises(VqError, match=r"options\.seed was 0, now 1\. .*--restart"):
        work.begin(other, {}, restart=False)
    assert work.has_block(0)
    work.begin(other, {}, restart=True)
    assert not work.has_block(0)
    work.begin(other, {}, restart=False)


def test_damaged_manifest(work):
    work.begin(PRINT, {}, restart=False)
    (work.path / "manifest.json").write_text("{")
    with pytest.raises(VqError, match=r"manifest\.json: damaged.*--restart"):
        work.begin(PRINT, {}, restart=False)


def test_differences_name_keys_on_either_side():
    found = differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 3, "d": 4}})
    assert found == ["a was 1, now None", "b.c was 2, now 3", "b.d was None, now 4"]


def test_one_process_at_a_time(work):
    pytest.importorskip("fcntl")
    code = (
        "import sys; from pathlib import Path; from vq.compressors.files.workfolder import WorkFolder\n"
        "with WorkFolder(Path(sys.argv[1])).locked(): pass"
    )
    command = [sys.executable, "-c", code, str(work.path.with_name("out"))]
    with work.locked():
        second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode != 0 and "another process is compressing" in second.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_folder_without_work_is_removed_and_one_with_work_stays(work):
    with pytest.raises(KeyError), work.locked():
        raise KeyError
    assert not work.path.exists()
    with work.locked():
        work.begin(PRINT, {}, restart=False)
    assert (work.path / "manifest.json").is_file()
