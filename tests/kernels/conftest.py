"""The compiled kernels, one instruction set at a time, and Triton's interpreter."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from vq.kernels.dispatch import native, triton_installed

sys.path.append(str(Path(__file__).parent))  # for helpers that spawned processes import too

ISAS = ("portable", "avx2", "avx512")


@pytest.fixture(params=ISAS)
def isa(request) -> Iterator[str]:
    """Runs the test once with each instruction set that this CPU has."""
    module = native()
    if module is None:
        pytest.skip("no compiled kernels")
    before = module.isa()
    try:
        module.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    module.set_isa(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads, whatever there were before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Calls a function of an importable module in a process where Triton's kernels are interpreted on the CPU.

    Triton decides while it is imported, and other tests in this process may have imported it already.
    """
    if not triton_installed():
        pytest.skip("needs the package triton (pip install 'vq-toolkit[gpu]')")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("TRITON_INTERPRET", "1"), ("VQ_BACKEND", "triton")):
            patch.setenv(name, value)
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(int).result()
    with pool:
        yield lambda function, *args, **options: pool.submit(function, *args, **options).result()
