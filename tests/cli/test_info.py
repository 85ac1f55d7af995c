import json

from vq.cli.main import main
from vq.kernels.dispatch import triton_installed


def test_says_what_runs_and_why(capsys, monkeypatch):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "backend" in shown and "operations" in shown and "torch" in shown
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert main(["info", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kernels"]["backend"] == "reference (forced by VQ_BACKEND=reference)"
    assert "native" not in data["kernels"]["operations"]


def test_names_what_serves_a_gpu(capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for wish in ("", "triton"):  # the second does not serve the CPU: told, not raised
        monkeypatch.setenv("VQ_BACKEND", wish)
        assert main(["info", "--json"]) == 0
        kernels = json.loads(capsys.readouterr().out)["kernels"]
        if triton_installed():
            assert kernels["gpu"].startswith("triton (triton ")
            assert "triton on a GPU" in kernels["operations"]
        else:
            assert "triton is not installed" in kernels["gpu"]
    assert kernels["backend"].startswith("none (VQ_BACKEND=triton, but")
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert main(["info", "--json"]) == 0
    kernels = json.loads(capsys.readouterr().out)["kernels"]
    assert kernels["gpu"].startswith("reference (")
