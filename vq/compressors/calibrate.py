"""Running blocks over calibration windows: their inputs, and the Hessians of their linear layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.skeleton import Skeleton, first
from vq.errors import VqError

Tick = Callable[[int, int], None]


class _Done(Exception):
    """Ends a forward pass when the last block was reached."""


@dataclass(eq=False)
class Activations:
    """What the blocks see.

    Attributes:
        hidden: one ``(1, context, width)`` tensor a window: input of the next block.
        calls: per block and window the other arguments (masks, positions); equal ones are shared.
    """

    hidden: list[Tensor]
    calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]

    def run(self, block: nn.Module, index: int, window: int) -> Tensor:
        """Output of a block for a window."""
        args, kwargs = self.calls[index][window]
        with torch.no_grad():
            return first(block(self.hidden[window], *args, **kwargs))

    def advance(self, block: nn.Module, index: int, name: str) -> None:
        """Replace the inputs of a block by its outputs.

        Raises:
            VqError: if an output is not finite.
        """
        for window in range(len(self.hidden)):
            output = self.run(block, index, window)
            if not bool(torch.isfinite(output).all()):
                raise VqError(
                    f"block {name}: its output for calibration window {window} is not finite; "
                    "calculate in float32 (dtype) and check the model"
                )
            self.hidden[window] = output


class _Recorder(nn.Module):
    """Stands for a block: notes its arguments and hands the hidden states on."""

    def __init__(self, block: nn.Module, seen: list[Any], last: bool, as_tuple: bool) -> None:
        super().__init__()
        self.seen, self.last, self.as_tuple = seen, last, as_tuple
        self._block = [block]  # unregistered

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_block"][0], name)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen.append((hidden_states, args, kwargs))
        if self.last:
            raise _Done
        return (hidden_states,) if self.as_tuple else hidden_states


def capture(skeleton: Skeleton, tokens: Tensor) -> Activations:
    """Inputs of the first block, and the arguments of every block, for windows ``(windows, context)``.

    Only what lies outside the blocks is loaded, and given back after.
    """
    model, blocks = skeleton.model, skeleton.blocks
    head = model.get_output_embeddings()
    skeleton.fill(model, "", skip=[blocks] if head is None else [blocks, head])
    originals = list(blocks)
    try:
        hidden, calls = [], [[] for _ in originals]  # type: ignore[var-annotated]
        for row in tokens:
            seen = _record(model, blocks, originals, row[None].to(skeleton.device))
            hidden.append(seen[0][0].detach())
            for i, (_, args, kwargs) in enumerate(seen):
                known = calls[i][0] if calls[i] else calls[i - 1][-1] if i else None
                calls[i].append(_shared((args, kwargs), known))
    finally:
        for i, block in enumerate(originals):
            blocks[i] = block
        skeleton.empty(model)
    return Activations(hidden, calls)


def _record(
    model: nn.Module, blocks: nn.ModuleList, originals: list[nn.Module], row: Tensor
) -> list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]:
    """Arguments of every block for one window; tries blocks that return a tensor, then a tuple."""
    for as_tuple in (False, True):
        seen: list[Any] = []
        for i, block in enumerate(originals):
            blocks[i] = _Recorder(block, seen, i == len(originals) - 1, as_tuple)
        try:
            with torch.no_grad():
                model(input_ids=row, use_cache=False)
        except _Done:
            pass
        except (RuntimeError, IndexError, TypeError, AttributeError):
            if as_tuple:
                raise
        if len(seen) == len(originals) and all(s[0].shape == seen[0][0].shape for s in seen):
            return seen
    raise VqError(
        "this architecture does not call its decoder blocks one after another; it is not supported"
    )


def _shared(call: Any, known: Any) -> Any:
    """``known`` where it equals ``call``, so that masks and positions are kept once."""
    return known if known is not None and _equal(call, known) else call


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a, b)))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


@dataclass(eq=False)
class Hessian:
    """Mean of ``x xᵀ`` over the inputs of layers that share them.

    Attributes:
        matrix: ``(in, in)``.
        count: vectors that were added.
        skipped: vectors left out because they were not finite.
    """

    matrix: Tensor
    count: int = 0
    skipped: int = 0

    def add(self, x: Tensor) -> None:
        """Add inputs ``(*batch, in)``."""
        flat = x.reshape(-1, x.shape[-1]).to(self.matrix.dtype)
        finite = torch.isfinite(flat).all(1)
        if not bool(finite.all()):
            self.skipped += int((~finite).sum())
            flat = flat[finite]
        self.matrix.addmm_(flat.t(), flat)
        self.count += flat.shape[0]

    def mean(self) -> Tensor | None:
        """``(in, in)``, or None if nothing was added."""
        return self.matrix / self.count if self.count else None

    def dead(self) -> int:
        """Input channels that were always zero."""
        return int((self.matrix.diagonal() == 0).sum()) if self.count else 0


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
    runs: Iterable[Callable[[], Any]],
    dtype: torch.dtype = torch.float32,
) -> list[Hessian]:
    """Hessian of each group over some forward passes.

    Args:
        groups: names of layers that share their input.
        linears: the layers by name.
        runs: each runs the block once.
        dtype: of the sums, float32 or float64.
    """
    hessians, handles = [], []
    for group in groups:
        layer = linears[group[0]]
        size = layer.in_features
        hessian = Hessian(torch.zeros(size, size, dtype=dtype, device=layer.weight.device))
        hessians.append(hessian)
        handles.append(
            layer.register_forward_pre_hook(lambda _module, args, to=hessian: to.add(args[0]))
        )
    try:
        for run in runs:
            run()
    finally:
        for handle in handles:
            handle.remove()
    return hessians
