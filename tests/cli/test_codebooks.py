import json

import pytest

from vq.cli.main import main
from vq.codebooks.catalogue import CATALOGUE


def test_list_as_a_table_and_as_json(capsys, tmp_path):
    assert main(["codebooks", "--json", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr().out
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert [row["codebook"] for row in rows] == list(CATALOGUE)
    assert all(row["codebook"] in shown for row in rows)
    assert all(row["mse"] is None or row["mse"] > 4 ** -row["rate"] for row in rows)


def test_json_alone_is_parseable(capsys):
    assert main(["codebooks", "scalar(bits=2)", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["mse"] == pytest.approx(0.1175, rel=1e-3)
    assert (row["rate"], row["entries"], row["dim"]) == (2, 4, 1)


def test_bench_gaussian(capsys, tmp_path):
    target = tmp_path / "g.json"
    command = ["bench", "gaussian", "scalar(bits=2)", "kmeans(dim=2, entries=16)"]
    assert main([*command, "--samples", "200000", "--json", str(target)]) == 0
    data = json.loads(target.read_text())
    assert {"machine", "versions", "seed", "rows"} <= set(data)
    scalar, kmeans = data["rows"]
    assert scalar["mse"] == pytest.approx(0.1175, rel=0.02)
    assert kmeans["mse"] == pytest.approx(0.1090, rel=0.03)
    assert scalar["gap_db"] == pytest.approx(2.74, abs=0.1)
    assert "kmeans(dim=2, entries=16)" in capsys.readouterr().out
    before = target.read_text()
    main([*command, "--samples", "200000", "--json", str(target)])
    assert json.loads(target.read_text())["rows"] == json.loads(before)["rows"]


def test_bad_input(capsys, tmp_path):
    assert main(["bench", "gaussian", "scalar(bits=0)"]) == 2
    assert "from 1 to 8" in capsys.readouterr().err
    assert main(["codebooks", "--json", str(tmp_path / "no" / "c.json")]) == 2
    assert "does not exist; create it" in capsys.readouterr().err
    assert main(["bench", "gaussian", "scalar()", "--threads", "0"]) == 2
    assert "--threads: expected at least 1" in capsys.readouterr().err
