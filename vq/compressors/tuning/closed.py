"""Making up for earlier errors in closed form.

A layer is about to be rounded. Its inputs ``x`` are not the original's ``x*`` any more. Before rounding, ``W`` becomes
the minimum of ``E |W' x - y|² + ridge |W' - W|²``, where ``y`` is what the output should be: ``W x*``, or, for a layer
whose output is added to the block's, what makes the block's output the original's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.calibration.hessian import Hessian


@dataclass(frozen=True, eq=False)
class Drift:
    """Sums over tokens, as means.

    Attributes:
        hessian: mean of ``x xᵀ``.
        inputs: mean of ``(x* - x) xᵀ``, ``(in, in)``.
        output: mean of ``(y* - y) xᵀ`` with ``y`` the block's output, ``(width, in)``; only where the layer ends it.
    """

    hessian: Hessian
    inputs: Tensor | None
    output: Tensor | None


def grab(layer: nn.Module, run: Callable[[], Any], stop: bool) -> tuple[Tensor, Any]:
    """Input of a layer in one forward pass, and the pass' result (None if it is stopped there)."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].detach())
        if stop:
            raise _Enough

    handle = layer.register_forward_pre_hook(hook)
    try:
        result = run()
    except _Enough:
        result = None
    finally:
        handle.remove()
    if len(seen) != 1:
        raise NotOnce
    return seen[0], result


def input_of(layer: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Input of a layer in a forward pass, which ends there."""
    return grab(layer, run, stop=True)[0]


class Inputs:
    """Keeps what some layers are given, run by run; nothing of one that is not called once in each run: an expert.

    Args:
        block: that is run.
        layers: some of its layers by name.
    """

    def __init__(self, block: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self._kept: dict[str, list[Tensor]] = {name: [] for name in layers}
        self._runs = 0
        self._handles = [
            layer.register_forward_pre_hook(partial(self._note, name))
            for name, layer in layers.items()
        ]
        self._handles.append(block.register_forward_hook(self._end))

    def _note(self, name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
        if name in self._kept:
            self._kept[name].append(args[0].detach())

    def _end(self, *_: Any) -> None:
        self._runs += 1
        self._kept = {n: seen for n, seen in self._kept.items() if len(seen) == self._runs}

    def close(self) -> None:
        """Watch no more."""
        for handle in self._handles:
            handle.remove()

    def take(self, name: str) -> list[Tensor] | None:
        """Inputs of a layer, a tensor a run, which are given away; None where nothing was kept."""
        return self._kept.pop(name, None)


class NotOnce(Exception):
    """A layer is not called once a window, or not with the same tokens as in the original: an expert."""


class _Enough(Exception):
    """Ends a forward pass at the layer that was asked for."""


def measure_drift(
    layer: nn.Linear,
    original: Sequence[Callable[[], Tensor]],
    runs: Sequence[Callable[[], Tensor]],
    wanted: Sequence[Tensor] | None,
    weights: Sequence[Tensor] | None,
) -> Drift:
    """Hessian and drift of a layer over calibration windows.

    Args:
        layer: in the block that is being compressed.
        original: each gives what the same layer of the original block is fed in a window; not used with ``wanted``.
        runs: each runs the block being compressed on a window.
        wanted: the original block's outputs, for a layer that ends the block; else None.
        weights: ``(tokens,)`` a window; how much each token counts.

    Raises:
        NotOnce: for an expert of a mixture.
    """
    width = layer.in_features
    matrix, moved = torch.zeros(width, width), None if wanted else torch.zeros(width, width)
    output, total, count = None, 0.0, 0
    for i, run in enumerate(runs):
        seen, result = grab(layer, run, stop=wanted is None)
        x = seen.flatten(0, -2).float()
        factor = torch.ones(len(x)) if weights is None else weights[i].flatten()
        scaled = x * factor[:, None]
        matrix.addmm_(scaled.t(), x)
        total, count = total + float(factor.sum()), count + len(x)
        if wanted is None:
            other = original[i]()
            if other.shape != seen.shape:
                raise NotOnce
            assert moved is not None
            moved.addmm_((other.flatten(0, -2).float() - x).t(), scaled)
        else:
            error = (wanted[i] - result).flatten(0, -2).float()
            output = torch.zeros(error.shape[1], width) if output is None else output
            output.addmm_(error.t(), scaled)
    hessian = Hessian(matrix, count, mass=total)
    scale = 1 / total
    return Drift(
        hessian,
        None if moved is None else moved * scale,
        None if output is None else output * scale,
    )


@torch.no_grad()
def compensate(linears: Mapping[str, nn.Linear], drift: Drift, ridge: float) -> None:
    """Move the weights of layers that share their input to the minimum.

    Args:
        linears: the layers.
        drift: of their input.
        ridge: part of the Hessian's mean diagonal that keeps weights where they are.
    """
    metric = drift.hessian.mean()
    assert metric is not None
    mean = metric.diagonal().mean().clamp_min(1e-20)
    factor, info = torch.linalg.cholesky_ex(metric + ridge * mean * torch.eye(len(metric)))
    if int(info) != 0:
        return
    for linear in linears.values():
        weight = linear.weight.detach()
        slope = drift.output
        if slope is None:
            assert drift.inputs is not None
            slope = weight.float() @ drift.inputs
        change = torch.cholesky_solve(slope.t().contiguous(), factor).t()
        if bool(torch.isfinite(change).all()):
            linear.weight = nn.Parameter(weight + change.to(weight.dtype), requires_grad=False)
