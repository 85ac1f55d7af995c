"""``vq analyze``: output, JSON, conditions, exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vq.analysis.catalogue import CATALOGUE
from vq.analysis.model import Analysis
from vq.cli.main import main


@pytest.fixture
def files(tmp_path):
    generator = np.random.default_rng(0)
    table = generator.normal(size=(64, 4)).astype("f4")
    x = generator.normal(size=(5000, 4)).astype("f4")
    codes = ((x[:, None] - table) ** 2).sum(2).argmin(1)
    for name, array in {"table": table, "x": x, "codes": codes, "labels": codes // 8}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path


def test_a_codebook_with_codes_vectors_and_labels(files, capsys):
    more = [
        f"--{name}={files / file}.npy"
        for name, file in (("codes", "codes"), ("vectors", "x"), ("labels", "labels"))
    ]
    assert (
        main(["analyze", str(files / "table.npy"), *more, "--json", str(files / "out.json")]) == 0
    )
    printed = capsys.readouterr().out
    assert (
        printed.startswith("table.npy (codebook): looks healthy")
        and len(printed.splitlines()) <= 25
    )
    analysis = Analysis.from_dict(json.loads((files / "out.json").read_text()))
    assert {s.key for s in analysis.sections} == {"usage", "sequence", "geometry", "rate", "labels"}
    assert {m.key for _, m in analysis.measurements()} <= set(CATALOGUE)
    assert all(m.definition for _, m in analysis.measurements())
    for _, m in analysis.measurements():
        reason = m.value is None or m.interval.startswith("none: ")
        assert (m.low is None) == (m.high is None)
        assert reason if m.low is None else m.low <= m.value <= m.high, m.key
    assert analysis.of("labels")[0].number("purity") == 1
    assert analysis.of("usage")[0].number("entries") == 64


def test_json_alone_on_standard_output(files, capsys):
    assert main(["analyze", str(files / "codes.npy"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "good"


def test_the_same_input_gives_the_same_output(files, capsys):
    outputs = []
    for _ in range(2):
        main(["analyze", str(files / "table.npy"), "--vectors", str(files / "x.npy"), "--json"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("conditions", "code"),
    [
        (["dead>0.5"], 0),
        (["dead>0.5", "perplexity<1000"], 1),
        (["verdict==bad"], 0),
        (["deed>1"], 2),
        (["snr<1"], 2),
    ],
)
def test_exit_codes(files, capsys, conditions, code):
    arguments = [f"--fail-if={condition}" for condition in conditions]
    assert main(["analyze", str(files / "codes.npy"), "--quiet", *arguments]) == code
    printed = capsys.readouterr()
    assert printed.out == "" and bool(printed.err) == bool(code)


def test_a_spec_is_a_path_too(capsys):
    assert main(["analyze", "kmeans(dim=4, entries=16)"]) == 0
    assert "N(0, 1)" in capsys.readouterr().out
    assert main(["analyze", "kmeans(dim=5, entries=17)"]) == 2
    assert "no table is shipped" in capsys.readouterr().err


def test_two_paths_have_intervals_too(files):
    arguments = [str(files / "table.npy"), str(files / "table.npy"), "--vectors"]
    assert main(["analyze", *arguments, str(files / "x.npy"), "--json", str(files / "b.json")]) == 0
    analysis = Analysis.from_dict(json.loads((files / "b.json").read_text()))
    compared = [m for s in analysis.of("compare") for m in s.measurements]
    assert {m.key for m in compared} >= {"matched_cosine", "matched_distance", "cka", "snr_change"}
    for m in compared:
        assert m.interval.startswith("none: ") if m.low is None else m.low <= m.value <= m.high


def test_two_paths(files, capsys):
    assert main(["analyze", str(files / "table.npy"), str(files / "table.npy")]) == 0
    assert "nearly the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.npy"], "no such file"),
        (["table.npy", "--codes=table.npy"], "there are no codes"),
        (["table.npy", "--vectors=codes.npy"], "expected a float array"),
        (["table.npy", "--labels=labels.npy"], "codes to go with it"),
        (["codes.npy", "--labels=short.npy"], "expected one for each of 5000 positions"),
        (["table.npy", "--vectors=wide.npy"], "expected length 4"),
    ],
)
def test_mistakes(files, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(files)
    np.save("short.npy", np.arange(7))
    np.save("wide.npy", np.zeros((9, 5), "f4"))
    assert main(["analyze", *arguments]) == 2
    assert words in capsys.readouterr().err
