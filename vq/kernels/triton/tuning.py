"""Which launch shape is fastest for a layer on this GPU? A handful are tried; the best is kept for this process."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from triton.runtime.errors import OutOfResources

from vq.kernels.triton.common import FEW, TUNED, Shape, candidates, header_of
from vq.kernels.triton.linear import module_of, packed_linear


def tune(
    x: Tensor,
    weight: Tensor,
    scales: Tensor,
    signs_in: Tensor | None,
    signs_out: Tensor | None,
    table: Tensor,
    mode: str,
    seconds: Callable[[Callable[[], object]], float],
) -> dict[Shape, float]:
    """Try all launch shapes of the fused kernel on a layer, and take the fastest for layers of this format and size.

    Waits for the GPU, so not while a CUDA graph is captured.

    Args:
        x: at most 16 rows ``(rows, in)``.
        weight: as this and the following for ``packed_linear``.
        scales: of the outputs.
        signs_in: of the inputs, or None.
        signs_out: of the outputs, or None.
        table: of the codebook.
        mode: of the activations.
        seconds: time of a call on the device; its first call compiles.

    Returns:
        Seconds of a call with each shape.

    Raises:
        ValueError: for more than 16 rows, which do not use that kernel.
    """
    if x.ndim != 2 or not 0 < len(x) <= FEW:
        raise ValueError(f"x: expected 1 to {FEW} rows (rows, in), got shape {tuple(x.shape)}")
    header = header_of(weight)
    module = module_of(header)
    key, times = module.key_of(header), {}
    for shape in candidates(module.vector_of(header)):
        TUNED[key] = shape
        try:
            times[shape] = seconds(
                lambda: packed_linear(x, weight, scales, signs_in, signs_out, table, mode)
            )
        except OutOfResources:  # more shared memory than this GPU has
            continue
    TUNED[key] = min(times, key=lambda shape: times[shape])
    return times
