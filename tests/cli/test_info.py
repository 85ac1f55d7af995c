import json

from vq.cli.main import main
from vq.kernels.dispatch import native, triton_installed


def test_says_what_runs_and_why(capsys, monkeypatch):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert "backend" in shown and "operations" in shown and "torch" in shown
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert main(["info", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kernels"]["backend"] == "reference (forced by VQ_BACKEND=reference)"
    assert "native" not in data["kernels"]["operations"]


def test_names_the_kernel_of_each_format(capsys, monkeypatch):
    monkeypatch.delenv("VQ_BACKEND", raising=False)
    assert main(["info", "--json"]) == 0
    formats = json.loads(capsys.readouterr().out)["formats"]
    assert formats["residual(stages=2, of=trellis(bits=2, memory=12, code=hash))"].startswith(
        "layout 3: codebook.decode"
    )
    if native() is not None:
        isa = native().isa()
        assert formats["e8p()"].startswith(f"layout 4: {isa} int15: E8P")
        assert "hash code" in formats["trellis(bits=2, memory=12, code=hash)"]
        assert "tables of 16" in formats["uniform(bits=2)"]
        assert "even levels" in formats["uniform(bits=8)"]
        assert "small table" in formats["kmeans(dim=4, entries=256)"]


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
