"""Hessians of linear layers: sums over calibration windows, whose bytes do not depend on who summed what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.ranks import Ranks
from vq.compressors.structure.experts import routed_tokens
from vq.errors import VqError

LEAVES = 8  # parts of the windows that are summed on their own, then added in order


@dataclass(eq=False)
class Hessian:
    """Weighted mean of ``x xᵀ`` over the inputs of layers that share them.

    Attributes:
        matrix: ``(in, in)``, the sum.
        count: vectors that were added.
        skipped: vectors left out because they were not finite.
        mass: sum of their weights.
        broken: input channels that were not finite in some vector, or whose sum is not; at most 8 of them.
    """

    matrix: Tensor
    count: int = 0
    skipped: int = 0
    mass: float = 0.0
    broken: list[int] = field(default_factory=list)

    def add(self, x: Tensor, weight: Tensor | None = None) -> None:
        """Add inputs ``(*batch, in)``, with a weight ``(rows,)`` for each of them; None weighs all alike."""
        flat = x.reshape(-1, x.shape[-1]).to(self.matrix.dtype)
        finite = torch.isfinite(flat)
        if not bool(finite.all()):
            good = finite.all(1)
            bad = (~finite).any(0).nonzero()[:, 0].tolist()
            self.broken = sorted({*self.broken, *bad})[:8]
            self.skipped += int((~good).sum())
            flat, weight = flat[good], None if weight is None else weight[good]
        if weight is None:
            self.matrix.addmm_(flat.t(), flat)
            self.mass += flat.shape[0]
        else:
            self.matrix.addmm_(flat.t(), flat * weight.to(flat)[:, None])
            self.mass += float(weight.double().sum())
        self.count += flat.shape[0]

    def mean(self) -> Tensor | None:
        """``(in, in)``, or None if nothing was added; channels whose sum overflowed count as never used."""
        if not self.count or self.mass <= 0:
            return None
        mean = self.matrix / self.mass
        bad = ~torch.isfinite(mean.diagonal())
        if not bool(torch.isfinite(mean).all()):
            bad |= ~torch.isfinite(mean[:, ~bad]).all(1)
            mean[bad] = 0
            mean[:, bad] = 0
            self.broken = sorted({*self.broken, *bad.nonzero()[:, 0].tolist()})[:8]
        return mean

    def dead_channels(self) -> list[int]:
        """Input channels that were always zero."""
        if not self.count:
            return []
        found: list[int] = (self.matrix.diagonal() == 0).nonzero()[:, 0].tolist()
        return found

    def dead(self) -> int:
        """How many input channels were always zero."""
        return len(self.dead_channels())

    def fold(self, other: Hessian) -> None:
        """Add another sum to this one."""
        self.matrix += other.matrix
        self.count += other.count
        self.skipped += other.skipped
        self.mass += other.mass
        self.broken = sorted({*self.broken, *other.broken})[:8]


@dataclass(eq=False)
class _Watch:
    """Input tensors each layer was called with, held so that identity means sameness."""

    inputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def groups(self, names: Iterable[str]) -> list[list[str]]:
        """Layers that were given the very same tensors, in the order of their first call; uncalled ones come last."""
        found: dict[tuple[Any, ...], list[str]] = {}
        called = [name for name in self.inputs if name in set(names)]
        for name in called:
            found.setdefault(tuple(id(x) for x in self.inputs[name]), []).append(name)
        never = [[name] for name in names if name not in self.inputs]
        return list(found.values()) + never


def group_by_input(
    block: nn.Module, linears: dict[str, nn.Linear], run: Callable[[], Any]
) -> list[list[str]]:
    """Names of linear layers grouped by the input they share, found by watching one forward pass."""
    watch = _Watch()

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, args: watch.inputs.setdefault(name, []).append(args[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in linears.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return watch.groups(linears)


def collect_hessians(
    groups: list[list[str]],
    linears: dict[str, nn.Linear],
    runs: Sequence[Callable[[], Any]],
    dtype: torch.dtype = torch.float32,
    weights: Sequence[Tensor | None] | None = None,
) -> list[Hessian]:
    """Hessian of each group over some forward passes.

    Args:
        groups: names of layers that share their input.
        linears: the layers by name.
        runs: each runs the block once.
        dtype: of the sums, float32 or float64.
        weights: of the tokens of each run, ``(tokens,)``; None weighs all alike.
    """
    hessians, handles = [], []
    current: list[Tensor | None] = [None]

    def add(to: Hessian, x: Tensor) -> None:
        to.add(x, _row_weights(current[0], x))

    for group in groups:
        layer = linears[group[0]]
        size = layer.in_features
        hessian = Hessian(torch.zeros(size, size, dtype=dtype, device=layer.weight.device))
        hessians.append(hessian)
        handles.append(
            layer.register_forward_pre_hook(lambda _module, args, to=hessian: add(to, args[0]))
        )
    try:
        for number, run in enumerate(runs):
            current[0] = None if weights is None else weights[number]
            run()
    finally:
        for handle in handles:
            handle.remove()
    return hessians


def _row_weights(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """Weights of the rows a layer was given: of the routed tokens in an expert; none where rows are not tokens."""
    if weight is None:
        return None
    tokens = routed_tokens()
    if tokens is not None:
        weight = weight[tokens]
    return weight if weight.numel() == x.numel() // x.shape[-1] else None


def leaves(windows: int) -> list[range]:
    """The windows in parts that are summed on their own: a function of their number alone."""
    count = min(LEAVES, windows)
    return [range(i * windows // count, (i + 1) * windows // count) for i in range(count)]


def my_windows(windows: int, ranks: Ranks) -> list[int]:
    """Windows that this process works on: every ``size``-th part."""
    return [w for part in leaves(windows)[ranks.rank :: ranks.size] for w in part]


def sum_hessians(
    collect: Callable[[list[int]], list[Hessian]],
    windows: int,
    owners: Sequence[int],
    ranks: Ranks,
) -> list[Hessian | None]:
    """Hessians over all windows of all processes, the same to the last bit for any number of processes.

    Each part of the windows is summed on its own; the owner of a Hessian adds the parts in their order.

    Args:
        collect: sums over some of this process's windows, given by number.
        windows: of all processes together.
        owners: process that gets each Hessian.
        ranks: the processes.

    Returns:
        The Hessians that this process owns, None for the others.
    """
    totals: list[Hessian | None] = [None] * len(owners)
    parts = leaves(windows)
    for start in range(0, len(parts), ranks.size):
        mine = start + ranks.rank
        partial = collect(list(parts[mine]) if mine < len(parts) else [])
        present = min(ranks.size, len(parts) - start)
        for number, owner in enumerate(owners):
            for rank in range(present):
                part = _hand_over(partial[number], rank, owner, ranks)
                if part is None:
                    continue
                known = totals[number]
                if known is None:
                    totals[number] = part
                else:
                    known.fold(part)
    return totals


def _hand_over(mine: Hessian, rank: int, owner: int, ranks: Ranks) -> Hessian | None:
    """The part of ``rank`` where this process is the owner; else None, after it was sent."""
    if rank == owner:
        return mine if ranks.rank == owner else None
    if ranks.rank == rank:
        broken = [*mine.broken, *[-1] * (8 - len(mine.broken))]
        figures = torch.tensor([mine.count, mine.skipped, mine.mass, *broken], dtype=torch.float64)
        ranks.send(figures, owner)
        ranks.send(mine.matrix, owner)
        return None
    if ranks.rank != owner:
        return None
    figures = ranks.receive(torch.empty(11, dtype=torch.float64), rank)
    count, skipped, mass, *broken = figures.tolist()
    matrix = ranks.receive(torch.empty_like(mine.matrix), rank)
    found = [int(i) for i in broken if i >= 0]
    return Hessian(matrix, int(count), int(skipped), mass, found)


def attention_weights(
    block: nn.Module, run: Callable[[], Any], least: float = 0.01
) -> Tensor | None:
    """Weights of a window's tokens from how much attention they receive in a block.

    The attention that a token receives from all queries of all heads is mapped to ``[least, 1]`` over the window;
    features are scaled by that, so the Hessian's weight is its square.

    Args:
        block: whose attention gives probabilities (``eager``).
        run: runs it on the window.
        least: scale of the token that receives least.

    Returns:
        ``(tokens,)`` float32, or None for a block without self-attention.

    Raises:
        VqError: if an attention module gives no probabilities.

    Reference:
        Y. Sung et al., "RSQ: Learning from Important Tokens Leads to Better Quantized LLMs", 2025
        (arXiv 2503.01820), attention concentration.
    """
    seen: list[Tensor] = []
    silent: list[str] = []

    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        if not isinstance(output, tuple) or len(output) < 2:
            return
        if isinstance(output[1], Tensor) and output[1].ndim == 4:
            seen.append(output[1])
        elif output[1] is None and "attention" in type(module).__name__.lower():
            silent.append(type(module).__name__)

    handles = [module.register_forward_hook(hook) for module in block.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    square = [a for a in seen if a.shape[-1] == a.shape[-2]]
    if not square:
        if silent:
            raise VqError(
                f"token_weights attention: {silent[0]} gives no attention probabilities; use token_weights none"
            )
        return None
    received = square[0].float().sum(dim=(0, 1, 2))
    spread = (received.max() - received.min()).clamp_min(1e-12)
    scale = least + (1 - least) * (received - received.min()) / spread
    return scale.square()
