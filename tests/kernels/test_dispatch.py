import os
import subprocess
import sys

import pytest
import torch

from vq.kernels import dispatch


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_backend_can_be_forced(monkeypatch):
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert dispatch.backend() == "reference"
    monkeypatch.setenv("VQ_BACKEND", "fast")
    with pytest.raises(ValueError, match="expected one of cpu, reference"):
        dispatch.backend()


def test_a_forced_reference_gives_the_same_codes(monkeypatch):
    from vq.kernels.search import nearest

    generator = torch.Generator().manual_seed(0)
    x, table = torch.randn(50, 4, generator=generator), torch.randn(9, 4, generator=generator)
    native = nearest(x, table)
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert torch.equal(nearest(x, table), native)


def test_missing_kernels_warn_once_and_still_work():
    code = (
        "import sys; sys.modules['vq.kernels._native'] = None\n"
        "import torch; from vq.codebooks import build; from vq.kernels.search import nearest\n"
        "print(nearest(torch.zeros(3, 2), torch.ones(4, 2)).tolist())\n"
        "print(nearest(torch.zeros(3, 2), torch.ones(4, 2)).tolist())\n"
    )
    done = run(code)
    assert done.stdout == "[0, 0, 0]\n[0, 0, 0]\n", done.stderr
    assert done.stderr.count("compiled CPU kernels are not available") == 1
    forced = run(code, VQ_BACKEND="cpu")
    assert "VQ_BACKEND=cpu" in forced.stderr and forced.returncode == 1
    assert "not available" not in run(code, VQ_BACKEND="reference").stderr


def test_an_operation_is_declared_once():
    with pytest.raises(ValueError, match="declared twice"):
        dispatch.declare("nearest(Tensor x) -> Tensor", fake=id, reference=id)


def test_instruction_sets():
    native = dispatch.native()
    if native is None:
        pytest.skip("no compiled kernels")
    with pytest.raises(ValueError, match="expected portable, avx2 or avx512"):
        native.set_isa("mmx")
    code = "from vq.kernels import dispatch; print(dispatch.native().isa())"
    assert run(code, VQ_ISA="portable").stdout == "portable\n"
    assert run(code, VQ_ISA="nothing").stdout == native.best_isa() + "\n"
