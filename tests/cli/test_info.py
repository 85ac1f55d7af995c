import json

from vq.cli.main import main


def test_says_what_runs_and_why(capsys, monkeypatch):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "backend" in shown and "operations" in shown and "torch" in shown
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert main(["info", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kernels"]["backend"] == "reference (forced by VQ_BACKEND=reference)"
    assert "native" not in data["kernels"]["operations"]
