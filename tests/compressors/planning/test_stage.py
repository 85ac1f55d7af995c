import json

import pytest
import yaml

from vq.cli.main import main
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.recipes import read_recipe
from vq.errors import VqError

pytestmark = pytest.mark.hf
SMALL = ["--windows", "4", "--probes", "2", "--context", "16", "--every", "1"]
CHOICES = ["--codebooks", *(f"trellis(bits={bits}, memory=8, code=hash)" for bits in (1, 2, 3))]
OPTIONS = CompressOptions(windows=4, context=16, budget="90kB")


@pytest.fixture
def planned(llama, text, tmp_path, capsys):
    def call(*arguments):
        target = tmp_path / "plan.yaml"
        code = main(
            ["plan", str(llama), "--calibration", str(text), "-o", str(target), *SMALL, *arguments]
        )
        return code, target, capsys.readouterr()

    return call


def test_a_planned_recipe_compresses(planned, llama, text, tmp_path):
    data = tmp_path / "plan.json"
    code, target, output = planned("--budget", "14", "--json", str(data), *CHOICES)
    assert code == 0 and "uniform" in output.out and "down_proj" in output.out
    found = json.loads(data.read_text())
    assert found["forecast"]["bits_per_weight"] <= 14
    assert found["forecast"]["kl"] <= found["uniform"]["kl"]
    options = read_recipe(target, windows=4, context=16)
    assert options.budget == ""
    report = compress(llama, tmp_path / "out", options=options, calibration=text).report
    assert report["totals"]["quantized_bytes"] == found["forecast"]["bytes"]
    for layer in found["layers"]:
        assert report["layers"][layer["layer"]]["codebook"] == layer["codebook"]


def test_a_budget_that_no_plan_meets(planned):
    code, target, output = planned("--budget", "0.1", *CHOICES)
    assert code == 2 and not target.exists()
    assert "smallest possible" in output.err


def test_wrong_numbers(planned):
    assert planned("--budget", "a lot")[0] == 2
    code, _, output = planned("--budget", "2", "--every", "0")
    assert code == 2 and "--every: expected at least 1" in output.err


def test_a_recipe_with_scales_of_groups_is_refused(planned, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("codebook: scalar(bits=4)\ngroup: 32\n")
    code, target, output = planned("--budget", "4", "--recipe", str(recipe), *CHOICES)
    assert code == 2 and not target.exists()
    assert "does not count scales of groups of columns, got group 32" in output.err


class Stop(Exception):
    pass


def test_a_recipe_with_a_budget_plans_itself_once(llama, text, tmp_path, contents, monkeypatch):
    def run(name, **more):
        return compress(llama, tmp_path / name, options=OPTIONS, calibration=text, **more)

    def stop(event):
        if event.stage == "block":
            raise Stop

    whole = run("whole")
    assert 40_000 < whole.report["totals"]["quantized_bytes"] <= 90_000
    with pytest.raises(Stop):
        run("part", progress=stop)
    monkeypatch.setattr("vq.compressors.planning.stage.find_sensitivities", None)  # not again
    assert contents(run("part").output) == contents(whole.output)


def test_shipped_recipes_with_plans_and_tuning_read(tmp_path):
    assert read_recipe("mixed").budget == "2.25"
    assert read_recipe("2bit-tuned").tuning["compensate"]
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"budget": 2.5}))
    assert read_recipe(path).budget == "2.5"
    with pytest.raises(VqError, match="calibration text"):
        CompressOptions(windows=0, rounding="nearest", budget="2")
