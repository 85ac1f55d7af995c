"""Beam search for sums of codewords, one of each stage."""

from __future__ import annotations

import torch
from torch import Tensor

from vq.kernels import dispatch

_PADDING = 16  # floats in the widest register
_CHUNK = 1 << 20  # scores the reference holds at a time
MAX_BEAM = 256


def beam_search(x: Tensor, tables: Tensor, weight: Tensor | None = None, beam: int = 8) -> Tensor:
    """Codes of a sum of codewords near every point.

    After each stage the ``beam`` partial sums with the smallest error of their own, ``sum_d weight_d r_d^2`` of the
    residual r, go on; a beam of 1 is the greedy search. The next costs come from
    ``‖r - c‖² = ‖r‖² + ‖c‖² - 2 r·c``, in float32; among equals the earlier parent and the lower index win.

    Args:
        x: ``(n, dim)`` finite floats.
        tables: ``(stages, entries, dim)``.
        weight: ``(n, dim)``, not negative, or None.
        beam: partial sums kept, 1 to 256.

    Returns:
        int32 ``(n, stages)``.

    Raises:
        ValueError: for shapes that do not fit, empty tables, or a beam out of range.
    """
    if x.ndim != 2 or tables.ndim != 3 or x.shape[1] != tables.shape[2] or not tables.numel():
        raise ValueError(
            "beam_search: expected x (n, dim) and tables (stages, entries, dim), none of them 0, "
            f"got {tuple(x.shape)} and {tuple(tables.shape)}"
        )
    if weight is not None and weight.shape != x.shape:
        raise ValueError(
            f"beam_search: expected weight {tuple(x.shape)}, got {tuple(weight.shape)}"
        )
    if not 1 <= beam <= MAX_BEAM:
        raise ValueError(f"beam_search: beam must be from 1 to {MAX_BEAM}, got {beam}")
    weight = None if weight is None else weight.float().contiguous()
    return _op(x.detach().float().contiguous(), tables.detach().float().contiguous(), weight, beam)


def _reference(x: Tensor, tables: Tensor, weight: Tensor | None, beam: int) -> Tensor:
    codes = torch.empty(x.shape[0], tables.shape[0], dtype=torch.int32, device=x.device)
    step = max(1, _CHUNK // (tables.shape[1] * beam))
    for start in range(0, x.shape[0], step):
        here = slice(start, start + step)
        codes[here] = _search(x[here], tables, None if weight is None else weight[here], beam)
    return codes


def _search(x: Tensor, tables: Tensor, weight: Tensor | None, beam: int) -> Tensor:
    """Beam search of one chunk: residuals ``(n, alive, dim)``, paths ``(n, alive, stage)``."""
    metric = torch.ones_like(x) if weight is None else weight
    residual = x[:, None]
    paths = torch.zeros(len(x), 1, 0, dtype=torch.long, device=x.device)
    for stage, table in enumerate(tables):
        bias = 0.5 * metric @ table.square().t()
        base = 0.5 * (metric[:, None] * residual.square()).sum(-1, keepdim=True)
        cost = base + bias[:, None] - (metric[:, None] * residual) @ table.t()
        wide = beam if stage + 1 < len(tables) else 1
        flat = cost.flatten(1)
        best = (
            flat.sort(dim=1, stable=True).indices[:, :wide] if wide > 1 else flat.argmin(1)[:, None]
        )
        parent = best // len(table)
        chosen = best % len(table)
        residual = residual.gather(1, parent[..., None].expand(-1, -1, x.shape[1])) - table[chosen]
        old = paths.gather(1, parent[..., None].expand(-1, -1, stage))
        paths = torch.cat([old, chosen[..., None]], dim=2)
    return paths[:, 0].int()


def _cpu(x: Tensor, tables: Tensor, weight: Tensor | None, beam: int) -> Tensor:
    native = dispatch.native()
    assert native is not None
    stages, entries, dim = tables.shape
    x, tables = x.contiguous(), tables.contiguous()
    more = -entries % _PADDING
    columns = torch.nn.functional.pad(tables.transpose(1, 2), (0, more)).contiguous()
    norms = 0.5 * tables.square().sum(2)
    bias = torch.nn.functional.pad(
        norms if weight is None else torch.zeros_like(norms), (0, more), value=float("inf")
    ).contiguous()
    half = None if weight is None else 0.5 * columns.square()
    weight = None if weight is None else weight.contiguous()
    codes = torch.empty(x.shape[0], stages, dtype=torch.int32)
    native.beam_search(
        x.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        tables.data_ptr(),
        columns.data_ptr(),
        bias.data_ptr(),
        0 if half is None else half.data_ptr(),
        x.shape[0],
        dim,
        stages,
        entries,
        entries + more,
        beam,
        codes.data_ptr(),
        dispatch.threads(),
    )
    return codes


def _fake(x: Tensor, tables: Tensor, weight: Tensor | None, beam: int) -> Tensor:
    return x.new_empty(x.shape[0], tables.shape[0], dtype=torch.int32)


_op = dispatch.declare(
    "beam_search(Tensor x, Tensor tables, Tensor? weight, int beam) -> Tensor",
    fake=_fake,
    reference=_reference,
    cpu=_cpu,
)
