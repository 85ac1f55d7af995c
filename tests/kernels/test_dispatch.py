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
    with pytest.raises(ValueError, match="expected one of cpu, reference, triton"):
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


needs_triton = pytest.mark.skipif(
    not dispatch.triton_installed(), reason="needs the package triton"
)


@needs_triton
def test_triton_on_the_cpu_only_in_its_interpreter(monkeypatch):
    from vq.kernels.search import nearest

    monkeypatch.setenv("VQ_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="VQ_BACKEND=triton, but these tensors are on the CPU"):
        nearest(torch.zeros(3, 2), torch.ones(4, 2))
    assert dispatch.backend("cuda") == "triton"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch.backend() == "triton"


@needs_triton
def test_which_backend_serves_a_gpu(monkeypatch):
    import vq.kernels.search
    import vq.kernels.trellis  # noqa: F401

    for wish, expected in (("", "triton"), ("reference", "reference"), ("cpu", "reference")):
        monkeypatch.setenv("VQ_BACKEND", wish)
        assert dispatch.backend("cuda") == expected
    assert dispatch.OPS["nearest"].triton and not dispatch.OPS["trellis_decode"].triton
    dump = torch._C._dispatch_dump("vq::nearest")
    assert "CUDA:" in dump and "CPU:" in dump
    assert "CUDA:" not in torch._C._dispatch_dump("vq::trellis_decode")


@needs_triton
def test_what_triton_does_not_serve_stays_with_the_cpu(interpreted):
    from vq.kernels.trellis import trellis_decode

    codes = torch.tensor([[0, 1, 2, 3]], dtype=torch.uint8)
    table = torch.arange(8.0)[:, None]
    values = interpreted(trellis_decode, codes, table, 2, 3)
    assert torch.equal(values, trellis_decode(codes, table, 2, 3))


def test_without_triton_nothing_changes():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from vq.kernels import dispatch; from vq.kernels.search import nearest\n"
        "print(nearest(torch.zeros(3, 2), torch.ones(4, 2)).tolist(), dispatch.backend('cuda'))\n"
        "print('CUDA:' in torch._C._dispatch_dump('vq::nearest'))\n"
    )
    assert run(code).stdout == "[0, 0, 0] reference\nFalse\n"
    forced = run(code, VQ_BACKEND="triton", TRITON_INTERPRET="1")
    assert "triton is not installed" in forced.stderr and forced.returncode == 1


def test_a_broken_triton_warns_and_the_reference_serves(tmp_path):
    (tmp_path / "triton.py").write_text("raise ImportError('no libtriton')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from vq.kernels import dispatch; print(dispatch.backend('cuda'), dispatch.backend('cuda'))\n"
    )
    done = run(code)
    assert done.stdout == "reference reference\n", done.stderr
    assert done.stderr.count("cannot be imported (no libtriton)") == 1


def test_importing_vq_loads_no_triton():
    code = (
        "import sys, vq, vq.codebooks, vq.kernels.search, vq.kernels.trellis\n"
        "from vq.kernels.search import nearest; import torch\n"
        "nearest(torch.zeros(3, 2), torch.ones(4, 2))\n"
        "print([m for m in sys.modules if 'triton' in m and not m.startswith('torch')])\n"
    )
    done = run(code)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_an_operation_is_declared_once():
    with pytest.raises(ValueError, match="declared twice"):
        dispatch.declare("nearest(Tensor x) -> Tensor", fake=id, reference=id)


def test_instruction_sets():
    native = dispatch.native()
    if native is None:
        pytest.skip("no compiled kernels")
    with pytest.raises(ValueError, match="expected portable, neon, avx2 or avx512"):
        native.set_isa("mmx")
    code = "from vq.kernels import dispatch; print(dispatch.native().isa())"
    assert run(code, VQ_ISA="portable").stdout == "portable\n"
    assert run(code, VQ_ISA="nothing").stdout == native.best_isa() + "\n"


def test_a_wish_in_the_environment_is_seen_at_once(monkeypatch):
    monkeypatch.delenv("VQ_BACKEND", raising=False)
    assert not dispatch.forced()
    monkeypatch.setenv("VQ_BACKEND", "reference")
    assert dispatch.forced()
    monkeypatch.setattr(dispatch, "_ENVIRON", None)
    assert dispatch.forced()
    monkeypatch.setenv("VQ_BACKEND", "")
    assert not dispatch.forced()
