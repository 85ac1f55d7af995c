"""Logs of runs: our table of metrics, event files, checkpoints."""

from __future__ import annotations

import json
import struct

import pytest
import torch

from vq.analysis.files.events import read_events
from vq.analysis.files.open import open_subject
from vq.analysis.measures.training import churn, drift, training_section
from vq.analysis.pipeline import analyze
from vq.analysis.subject import History, Table
from vq.errors import VqError


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def message(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def event(step: int, name: str, value: float, tensor: bool = False) -> bytes:
    """A record by hand, after the definition of the messages."""
    number = varint(2 << 3 | 5) + struct.pack("<f", value)
    if tensor:
        number = message(8, varint(1 << 3) + varint(1) + message(5, struct.pack("<f", value)))
    summary = message(1, message(1, name.encode()) + number)
    data = b"\x09" + struct.pack("<d", 1.5e9) + varint(2 << 3) + varint(step) + message(5, summary)
    return struct.pack("<Q", len(data)) + b"....."[:4] + data + b"...."


def test_events_by_hand(tmp_path):
    path = tmp_path / "events.out.tfevents.1.host"
    rows = [
        event(300, "codebook/utilization", 0.5),
        event(70_000, "train/loss", -2.25, tensor=True),
    ]
    path.write_bytes(b"".join(rows) + event(5, "cut", 1.0)[:-9])
    assert read_events(path) == {
        "codebook/utilization": [(300, 0.5)],
        "train/loss": [(70_000, -2.25)],
    }


@pytest.mark.parametrize("new_style", [False, True])
def test_events_of_torch(tmp_path, new_style):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    writer = tensorboard.SummaryWriter(str(tmp_path))
    for step in (10, 20):
        writer.add_scalar("codebook/utilization", step / 100, step, new_style=new_style)
        writer.add_text("words", "not a number", step)
    writer.close()
    subject = open_subject(tmp_path)
    assert subject.kind == "run" and subject.history is not None
    (pairs,) = subject.history.scalars.values()
    assert [s for s, _ in pairs] == [10, 20] and pairs[1][1] == pytest.approx(0.2)


def run_folder(tmp_path, use: list[float]):
    """A run as training leaves it: metrics and two checkpoints."""
    lines = ["step,codebook/utilization,codebook/effective_rank,train/loss"]
    lines += [f"{100 * (i + 1)},{u},3.5,{2 - 0.01 * i}" for i, u in enumerate(use)]
    lines.append("5000,,,1.0")
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    quantizer = {"kind": "vq", "codebook": "kmeans(dim=3, entries=50)"}
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"quantizer": quantizer}}))
    (tmp_path / "checkpoints").mkdir()
    table = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for step, scale in ((100, 1.0), (200, 1.1)):
        state = {"tokenizer.quantizer.table": table * scale, "tokenizer.backbone.w": torch.zeros(2)}
        torch.save({"state_dict": state}, tmp_path / f"checkpoints/step_{step:09d}.ckpt")
    return tmp_path


def test_a_run_that_collapsed_and_one_that_did_not(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    bad = analyze(
        open_subject(run_folder(tmp_path / "a", [0.9, 0.8, 0.4, 0.2, 0.1, 0.05, 0.03, 0.02]))
    )
    good = analyze(
        open_subject(run_folder(tmp_path / "b", [0.3, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 0.98]))
    )
    assert bad.verdict == "bad" and "2% of the entries were in use" in bad.findings[0].text
    assert good.verdict == "good"
    (section,) = good.of("training")
    assert section.number("steps") == 5000 and section.number("utilization") == 0.98
    assert section.number("training_rank") == 3.5
    assert section.number("drift") == pytest.approx(0.1, rel=1e-4)
    assert {"movement", "codebook/utilization", "train/loss"} <= {s.key for s in section.series}
    (geometry,) = good.of("geometry")
    assert geometry.number("entries") == 50


def test_a_table_of_metrics_alone(tmp_path):
    path = run_folder(tmp_path, [0.5, 0.5]) / "metrics.csv"
    assert open_subject(path).kind == "run"


def test_checkpoints_that_hold_code_are_not_run(tmp_path):
    folder = run_folder(tmp_path, [0.5, 0.5])
    import pickle

    (folder / "checkpoints/step_000000300.ckpt").write_bytes(pickle.dumps({"state_dict": print}))
    (section,) = analyze(open_subject(folder)).of("training")
    assert any("cannot be read safely" in note for note in section.notes)
    assert section.number("drift") is not None


def test_logs_without_a_number(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,x\n1,\n")
    with pytest.raises(VqError, match="no numbers"):
        open_subject(tmp_path)


def test_drift_and_churn():
    table = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    same = (Table("", table),)
    assert drift(same, same) == 0 and churn(table, table) == 0
    assert drift(same, (Table("", 2 * table),)) == pytest.approx(1)
    assert churn(table, table + 0.001) < 0.02
    assert churn(table, torch.randn(200, 4, generator=torch.Generator().manual_seed(1))) > 0.9


def test_trend():
    scalars = {"codebook/utilization": tuple((i, 0.9 - 0.05 * i) for i in range(12))}
    found = training_section(History(scalars))
    assert found.number("utilization_trend") == pytest.approx(-0.3, abs=0.02)
    assert found.number("utilization_lowest") == pytest.approx(0.35)


def test_the_worst_of_several_codes_is_named():
    """A mean over codes hides the one that has collapsed."""
    each = {"codebook/utilization": 0.88, "codebook/utilization_0": 1.0}
    each |= {"codebook/utilization_1": 0.05, "codebook/perplexity_1": 2.0}
    section = training_section(History({k: ((100, v), (200, v)) for k, v in each.items()}))
    found = section.get("utilization")
    assert found.value == 0.05 and "codebook/utilization_1" in found.note
    assert section.number("training_perplexity") == 2
    assert section.series[0].key == "codebook/utilization_1"
