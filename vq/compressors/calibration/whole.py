"""Models that must be run as a whole, because their blocks are no chain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from vq.compressors.calibration.calibrate import WholeModel, as_arguments
from vq.compressors.options import CompressOptions
from vq.compressors.structure.skeleton import Skeleton
from vq.errors import VqError


def run_whole(
    skeleton: Skeleton, inputs: Sequence[Mapping[str, Any]], options: CompressOptions
) -> WholeModel:
    """Load the whole model, and run it from its start for each block.

    Args:
        skeleton: filled here.
        inputs: arguments of the model for each window.
        options: of the run.

    Raises:
        VqError: for ``calibrate_on: original``, which would need a second copy of the model.
    """
    if options.calibrate_on == "original":
        raise VqError(
            f"{skeleton.source.name}: its blocks are no chain; calibrate_on must be quantized for it"
        )
    skeleton.fill(skeleton.model, "")
    calls: list[Callable[[], Any]] = [
        partial(skeleton.model, **window) for window in as_arguments(skeleton.model, inputs)
    ]
    return WholeModel(calls)
