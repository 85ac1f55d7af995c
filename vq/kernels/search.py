"""Exact nearest codeword, without ever forming a points x entries array."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels import dispatch

_PADDING = 16  # floats in the widest register
_CHUNK = 1 << 20  # scores the reference holds at a time


def nearest(x: Tensor, table: Tensor, weight: Tensor | None = None) -> Tensor:
    """Index of the nearest row of a table for every point.

    Minimises ``sum_d weight_d (x_d - c_d)^2`` through ``sum_d weight_d (c_d^2 / 2 - x_d c_d)``, accumulated in
    float32; among equals the lowest index wins.

    Args:
        x: ``(n, dim)`` finite floats.
        table: ``(entries, dim)``.
        weight: ``(n, dim)``, not negative, or None.

    Returns:
        int32 ``(n,)``.

    Raises:
        ValueError: for shapes that do not fit, or an empty table.
    """
    if x.ndim != 2 or table.ndim != 2 or x.shape[1] != table.shape[1] or table.shape[0] == 0:
        raise ValueError(
            "nearest: expected x (n, dim) and table (entries, dim) with entries > 0, "
            f"got {tuple(x.shape)} and {tuple(table.shape)}"
        )
    if weight is not None and weight.shape != x.shape:
        raise ValueError(f"nearest: expected weight {tuple(x.shape)}, got {tuple(weight.shape)}")
    x, table = x.float(), table.float()
    half = 0.5 * table.square()
    if weight is None:
        return _op(x.contiguous(), table.t().contiguous(), half.sum(1))
    weight = weight.float()
    points = torch.cat([weight * x, -weight], 1)
    return _op(points, torch.cat([table, half], 1).t().contiguous(), torch.zeros_like(half[:, 0]))


def _reference(points: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    codes = torch.empty(points.shape[0], dtype=torch.int32, device=points.device)
    step = max(1, _CHUNK // table.shape[1])
    for start in range(0, points.shape[0], step):
        scores = torch.addmm(bias, points[start : start + step], table, alpha=-1)
        codes[start : start + step] = scores.argmin(1)
    return codes


def _cpu(points: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    native = dispatch.native()
    assert native is not None
    entries = table.shape[1]
    stride = -(-entries // _PADDING) * _PADDING
    table = torch.nn.functional.pad(table, (0, stride - entries)).contiguous()
    bias = torch.nn.functional.pad(bias, (0, stride - entries), value=float("inf")).contiguous()
    points = points.contiguous()
    codes = torch.empty(points.shape[0], dtype=torch.int32)
    native.nearest(
        points.data_ptr(),
        table.data_ptr(),
        bias.data_ptr(),
        points.shape[0],
        points.shape[1],
        stride,
        codes.data_ptr(),
        dispatch.threads(),
    )
    return codes


def _fake(points: Tensor, table: Tensor, bias: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], dtype=torch.int32)


_op = dispatch.declare(
    "nearest(Tensor points, Tensor table, Tensor bias) -> Tensor",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
)
