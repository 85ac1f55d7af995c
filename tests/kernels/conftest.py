"""The compiled kernels, one instruction set at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vq.kernels.dispatch import native

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
