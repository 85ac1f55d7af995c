import dataclasses
import json

import pytest
import torch

import vq
from vq.compressors.calibration.calibrate import Activations
from vq.compressors.options import CompressOptions
from vq.compressors.pipeline import compress
from vq.compressors.tuning.closed import Inputs
from vq.errors import VqError

pytestmark = pytest.mark.hf
TUNING = {
    "compensate": True,
    "block_epochs": 4,
    "tokens": 24 * 64,
    "context": 16,
    "batch": 4,
    "rate": 0.01,
    "gain_rate": 0.01,
    "checks": 4,
    "checkpoints": 6,
}
OPTIONS = CompressOptions(codebook="scalar(bits=2)", windows=16, context=16, tuning=TUNING)


@pytest.fixture
def run(llama, text, tmp_path):
    def call(name="out", options=OPTIONS, **arguments):
        return compress(llama, tmp_path / name, options=options, calibration=text, **arguments)

    return call


class Stop(Exception):
    pass


def stop_at(stage, done):
    def progress(event):
        if event.stage == stage and event.done == done:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def whole(llama, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "out"
    return compress(llama, folder, options=OPTIONS, calibration=text)


@pytest.mark.parametrize(
    ("stage", "done"), [("block", 1), ("block", 3), ("teach", 5), ("tune", 9), ("tune", 24)]
)
def test_an_interrupted_run_ends_with_the_same_bytes(run, whole, contents, stage, done):
    with pytest.raises(Stop):
        run(progress=stop_at(stage, done))
    assert contents(run().output) == contents(whole.output)


def test_the_report_tells_of_the_tuning(whole):
    report = json.loads((whole.output / "compression.json").read_text())
    history = report["tuning"]["held_out"]
    assert [h["step"] for h in history] == [0, 6, 12, 18, 24]
    assert min(h["loss"] for h in history) < history[0]["loss"]
    layer = next(iter(report["layers"].values()))
    assert layer["tuned_after"] <= layer["tuned_before"]


def test_the_folder_loads_with_what_was_tuned(whole, llama):
    tuned, plain = vq.load(whole.output), vq.load(llama)
    moved = {n for n, p in tuned.named_parameters() if not torch.equal(p, plain.get_parameter(n))}
    assert "model.embed_tokens.weight" in moved and "model.norm.weight" in moved


def test_tuning_needs_text():
    with pytest.raises(VqError, match="calibration text"):
        CompressOptions(windows=0, rounding="nearest", tuning={"tokens": 5})
    with pytest.raises(VqError, match="unknown key 'rat'.*rate"):
        CompressOptions(tuning={"rat": 5})


@pytest.mark.parametrize("epochs", [0, 2])
def test_what_is_kept_of_earlier_runs_saves_time_and_changes_nothing(
    run, contents, monkeypatch, epochs
):
    """Inputs of the original's layers, and results of parts whose layers are all rounded."""
    options = dataclasses.replace(OPTIONS, tuning={"compensate": True, "block_epochs": epochs})
    quick = contents(run("quick", options).output)
    settled, kept = [], []
    monkeypatch.setattr(Activations, "settle", lambda self, part: settled.append(part))
    monkeypatch.setattr(Inputs, "take", lambda self, name: kept.append(name))
    assert contents(run("slow", options).output) == quick
    assert len({*map(id, settled)}) == (0 if epochs else 3), "attention, of each block"
    assert [name.split(".")[-1] for name in kept] == ["q_proj", "o_proj", "gate_proj"] * 3


def test_a_run_that_kept_something_ends_as_an_interrupted_one(run, contents):
    options = dataclasses.replace(OPTIONS, tuning={"compensate": True})
    whole = contents(run("whole", options).output)
    with pytest.raises(Stop):
        run(options=options, progress=stop_at("block", 2))
    assert contents(run(options=options).output) == whole
