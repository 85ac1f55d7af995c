from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")

import vq
from vq.errors import VqError
from vq.tokenizers.callbacks import Keeper, checkpoints, duration, line
from vq.tokenizers.runfolder import RunFolder
from vq.tokenizers.train import TrainOptions, train


def last_state(run: Path) -> dict:
    return torch.load(checkpoints(run / "checkpoints")[-1], weights_only=True)


def assert_same(a, b, where=""):
    """Equal bit for bit, whatever is nested in what."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for number, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}[{number}]")
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def whole(photos, image_recipe, tmp_path_factory):
    """A run that was never stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return train(image_recipe(), photos, out, TrainOptions(log_every=4))


class StopAt:
    """Makes the clock of a run stand at its limit from a step on."""

    def __init__(self, monkeypatch, step: int) -> None:
        original = Keeper.on_train_batch_end

        def stopping(keeper, trainer, module, *rest):
            if module.step == step:
                keeper.limit = 0.0
            original(keeper, trainer, module, *rest)

        monkeypatch.setattr(Keeper, "on_train_batch_end", stopping)


@pytest.mark.parametrize("step", [2, 4, 7])
def test_stopped_and_resumed_equals_uninterrupted(
    whole, photos, image_recipe, tmp_path, monkeypatch, step
):
    """Stopped in the warm-up, right before the quantizer starts, and after."""
    options = TrainOptions(log_every=4)
    with monkeypatch.context() as patch:
        StopAt(patch, step)
        stopped = train(image_recipe(), photos, tmp_path / "run", options)
    assert stopped.step == step and not stopped.finished
    resumed = train(image_recipe(), photos, tmp_path / "run", options)
    assert resumed.step == 12 and resumed.finished
    assert resumed.model_hash == whole.model_hash
    a, b = last_state(tmp_path / "run"), last_state(whole.folder)
    for part in ("state_dict", "optimizer_states", "vq"):
        assert_same(a[part], b[part], part)


def test_a_killed_run_goes_on_from_its_last_checkpoint(
    whole, photos, image_recipe, tmp_path, monkeypatch
):
    def killed(keeper, trainer, module, *rest):
        if module.step == 8:
            raise RuntimeError("power cut")
        if module.step == 5:
            keeper.save(trainer, 5)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "on_train_batch_end", killed)
        with pytest.raises(RuntimeError, match="power cut"):
            train(image_recipe(), photos, tmp_path / "run", TrainOptions(log_every=4))
    assert RunFolder(tmp_path / "run").last_step == 5
    resumed = train(image_recipe(), photos, tmp_path / "run", TrainOptions(log_every=4))
    assert resumed.model_hash == whole.model_hash
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "8", "12"]


def test_another_seed_is_another_model(whole, photos, image_recipe, tmp_path):
    other = train(image_recipe(), photos, tmp_path / "run", TrainOptions(log_every=4, seed=1))
    assert other.model_hash != whole.model_hash


def test_what_a_run_leaves(whole):
    assert {p.name for p in whole.folder.iterdir()} >= {
        "checkpoints", "metrics.csv", "model", "run.json", "samples",
    }  # fmt: skip
    assert whole.step == 12 and whole.passed
    assert [p.name for p in sorted((whole.folder / "samples").iterdir())] == [
        f"step_{n:09d}.png" for n in (1, 2, 4, 8, 12)
    ]
    with (whole.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4, 8, 12]
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert rows[0]["codebook/utilization"] == "" and float(rows[-1]["codebook/n_over_k"]) == 8
    assert float(rows[-1]["validation/psnr"]) == pytest.approx(
        whole.values["validation/psnr"], rel=1e-5
    )
    tokenizer = vq.Tokenizer.load(whole.model)
    assert tokenizer.model_hash == whole.model_hash


def test_a_finished_run_is_not_trained_again(whole, photos, image_recipe):
    before = last_state(whole.folder)
    (whole.model / "model.safetensors").unlink()
    again = train(image_recipe(), photos, whole.folder, TrainOptions(log_every=4))
    assert again.model_hash == whole.model_hash and again.step == 12
    assert_same(before["state_dict"], last_state(whole.folder)["state_dict"])
    vq.Tokenizer.load(whole.model)


def test_a_run_with_other_settings_is_refused(whole, photos, image_recipe):
    with pytest.raises(VqError, match=r"recipe.steps 12 -> 13; seed 0 -> 1.*--fresh"):
        train(image_recipe(steps=13), photos, whole.folder, TrainOptions(seed=1))


def test_a_folder_with_other_files_is_left_alone(photos, image_recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(VqError, match="holds files but no run"):
            train(image_recipe(), photos, tmp_path, TrainOptions(fresh=fresh))
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_fresh_starts_anew(photos, image_recipe, tmp_path):
    recipe = image_recipe(steps=2, warmup=0.0)
    first = train(recipe, photos, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    other = train(image_recipe(steps=3), photos, tmp_path / "run", TrainOptions(fresh=True))
    assert other.step == 3 and other.model_hash != first.model_hash
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["steps"] == 3


def test_stopped_in_the_warm_up_there_is_no_model(photos, image_recipe, tmp_path, monkeypatch):
    StopAt(monkeypatch, 1)
    report = train(image_recipe(), photos, tmp_path / "run")
    assert report.model is None and report.model_hash is None
    assert not (tmp_path / "run" / "model").exists()


def test_an_autoencoder_without_quantizer(photos, image_recipe, tmp_path):
    recipe = image_recipe(quantizer={"kind": "none"}, steps=3)
    report = train(recipe, photos, tmp_path / "run", TrainOptions(log_every=1))
    tokenizer = vq.Tokenizer.load(report.model)
    assert tokenizer.quantizer is None and tokenizer.mode == "bypass"
    assert not any("codebook" in name for name in report.values)


def test_sounds(sounds, sound_recipe, tmp_path):
    report = train(sound_recipe(), sounds, tmp_path / "run", TrainOptions(log_every=3))
    assert "validation/si_sdr" in report.values
    names = {p.name for p in (tmp_path / "run" / "samples").iterdir()}
    assert {"step_000000006_0_input.wav", "step_000000006_3_output.wav"} <= names
    assert vq.Tokenizer.load(report.model).sample_rate == 8000


def test_overfit_tells_a_model_that_learns_from_one_that_cannot(photos, image_recipe, tmp_path):
    good = image_recipe(steps=80, learning_rate=1e-2, warmup=0.25)
    report = train(good, photos, tmp_path / "good", TrainOptions(overfit=2))
    assert report.overfit is not None and report.overfit < 0.5 and report.passed
    bad = image_recipe(steps=20, learning_rate=1e-8, warmup=0.25)
    report = train(bad, photos, tmp_path / "bad", TrainOptions(overfit=2))
    assert report.overfit is not None and report.overfit > 0.5 and not report.passed


def test_a_run_that_stays_not_finite_says_what_to_do(photos, image_recipe, tmp_path):
    recipe = image_recipe(learning_rate=1e30, clip=0.0, patience=3, steps=30, ramp=0.0)
    with pytest.raises(VqError, match=r"step \d+: .* not finite.*learning_rate=3e\+29"):
        train(recipe, photos, tmp_path / "run")


def test_the_report_shows_what_matters(photos, image_recipe, tmp_path):
    lines: list[str] = []
    train(image_recipe(), photos, tmp_path / "run", TrainOptions(log_every=6, show=lines.append))
    text = "\n".join(lines)
    for part in ("1 x 32 entries", "5.0 bits a position", "bit/pixel", "vectors for each entry"):
        assert part in text
    assert lines[-1].startswith("step 12/12 quantized  loss ")
    assert "PSNR" in lines[-1] and "(N/K 12.0, ceiling 100%)" in lines[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_minutes": 0}, "max_minutes"), ({"overfit": -1}, "overfit"), ({"devices": 0}, "devices")],
)  # fmt: skip
def test_wrong_options(options, message):
    with pytest.raises(VqError, match=message):
        TrainOptions(**options)


def test_durations_and_lines():
    assert [duration(s) for s in (12, 200, 7500)] == ["12 s", "3 min 20 s", "2 h 05 min"]
    values = {"train/loss": 0.5, "validation/si_sdr": 3.0, "train/skipped": 2.0}
    assert line(values) == "loss 0.5000  SI-SDR 3.00 dB  skipped 2"


def test_event_files_hold_what_metrics_csv_holds(photos, image_recipe, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = TrainOptions(log_every=4, tensorboard=True)
    report = train(image_recipe(), photos, tmp_path / "run", options)
    events = EventAccumulator(str(report.folder / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "validation/psnr", "codebook/perplexity"):
        with (report.folder / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get(name)]
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx({int(r["step"]): float(r[name]) for r in rows}, rel=1e-4)
        assert max(found) == 12


def test_event_files_are_only_written_when_asked_for(whole, monkeypatch):
    assert not (whole.folder / "tensorboard").exists()
    monkeypatch.setattr("vq.tokenizers.train_options.find_spec", lambda name: None)
    with pytest.raises(VqError, match=r"pip install 'vq-toolkit\[tensorboard\]'"):
        TrainOptions(tensorboard=True)


def test_a_run_at_one_loudness_gives_each_sound_its_own_back(sounds, sound_recipe, tmp_path):
    from vq.tokenizers.audio import loudness, read_audio
    from vq.tokenizers.codec import TokenizerCodec

    report = train(sound_recipe(normalisation="loudness"), sounds, tmp_path / "run")
    tokenizer = vq.Tokenizer.load(report.model)
    codec = TokenizerCodec(tokenizer)
    assert codec.spec.normalisation == "loudness"
    assert tokenizer.config()["normalisation"] == "loudness"
    x, _ = read_audio(sounds / "s3.wav")
    coded = codec.encode(x)
    assert coded.gain == pytest.approx(10 ** ((loudness(x) + 20) / 20))
    again = codec.encode(x / 10)
    assert torch.equal(again.codes, coded.codes)
    loud, quiet = (codec.restore(c, x.shape[1:]) for c in (coded, again))
    torch.testing.assert_close(quiet, loud / 10, rtol=1e-4, atol=1e-6)


def test_a_backbone_starts_from_the_data_once(photos, image_recipe, tmp_path, monkeypatch):
    """Before the first step, from crops of training files; not again when a run goes on."""
    from vq.tokenizers.backbones import Lapped

    seen = []
    start = Lapped.start

    def watched(backbone, x):
        seen.append(x)
        start(backbone, x)

    monkeypatch.setattr(Lapped, "start", watched)
    body = {"name": "lapped", "patch": 4, "dim": 8, "width": 8, "blocks": 1}
    recipe = image_recipe(backbone=body, steps=6, warmup=0.0)
    whole = train(recipe, photos, tmp_path / "whole")
    assert len(seen) == 1 and seen[0].shape[1:] == (3, 16, 16)
    assert len(seen[0]) * 16 >= 16384 and float(seen[0].abs().max()) <= 1
    with monkeypatch.context() as patch:
        StopAt(patch, 3)
        assert train(recipe, photos, tmp_path / "run").step == 3
    assert train(recipe, photos, tmp_path / "run").model_hash == whole.model_hash
    assert len(seen) == 2 and torch.equal(*seen)
