"""The Triton kernels compile to GPU machine code with what the package triton brings; nothing is run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vq.kernels.dispatch import triton_installed

SCRIPT = Path(__file__).with_name("compile_triton.py")
pytestmark = pytest.mark.skipif(not triton_installed(), reason="needs the package triton")


def kernels(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON", "VQ_"))}
    environment |= {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "No module named 'triton.backends" in done.stderr:
        pytest.skip("this triton has no compiler for NVIDIA GPUs")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found, capability):
    for kernel in found:
        assert kernel["stack"] <= 64, f"spills: {kernel}"
        assert kernel["shared"] <= 48 << 10, f"more shared memory than every GPU has: {kernel}"
        half = kernel["name"].endswith("half") and int(capability) >= 80  # Triton's least
        assert kernel["tensor_cores"] == half, f"float16 is for tensor cores, float32 not: {kernel}"
        steps = kernel["name"].startswith("trellis_encode")  # each needs those before it
        assert kernel["barriers"] or not steps, f"no barrier: {kernel}"


def test_a_few_kernels(tmp_path):
    found = kernels(tmp_path, "few", "90")
    assert len(found) == 13
    check(found, "90")


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["75", "80", "90", "120"])
def test_every_kernel(tmp_path, capability):
    found = kernels(tmp_path, "all", capability)
    assert len(found) == 77
    check(found, capability)
