"""Running blocks over calibration windows: what they are given, stack by stack, and what they make of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vq.compressors.calibration.hessian import (
    Hessian,
    collect_hessians,
    group_by_input,
)
from vq.compressors.calibration.settled import Settled
from vq.compressors.structure.skeleton import Skeleton, first
from vq.compressors.structure.stand import Stand
from vq.errors import VqError

__all__ = [
    "Activations",
    "Hessian",
    "NotAChain",
    "WholeModel",
    "capture",
    "collect_hessians",
    "group_by_input",
]

Tick = Callable[[int, int], None]
Inputs = Tensor | Sequence[Mapping[str, Any]]


class _Done(Exception):
    """Ends a forward pass when the last block was reached."""


class NotAChain(VqError):
    """The blocks of a stack do not simply hand their hidden states on."""


@dataclass(eq=False)
class Activations:
    """What the blocks of a stack see.

    Attributes:
        hidden: one ``(1, context, width)`` tensor a window: input of the next block.
        calls: per block and window the other arguments (masks, positions); equal ones are shared.
        start: number of the stack's first block in the model.
        outputs: things besides hidden states that a block gives; None where it gives a bare tensor.
        settled: parts of the block at work that need not run again.
    """

    hidden: list[Tensor]
    calls: list[list[tuple[tuple[Any, ...], dict[str, Any]]]]
    start: int = 0
    outputs: int | None = None
    settled: Settled = field(default_factory=Settled, repr=False)

    def run(self, block: nn.Module, index: int, window: int) -> Tensor:
        """Output of a block for a window."""
        args, kwargs = self.calls[index - self.start][window]
        self.settled.turn(window)
        with torch.no_grad():
            return first(block(self.hidden[window], *args, **kwargs))

    def settle(self, part: nn.Module) -> None:
        """Run a part of the block at work once more for each window, then no more until ``forget``."""
        self.settled.add(part, 2 * self.hidden[0].numel() if self.hidden else 0)

    def forget(self) -> None:
        """Run all of the block again."""
        self.settled.clear()

    def runs(self, block: nn.Module, index: int) -> list[Callable[[], Any]]:
        """One call a window, each of which runs the block on it."""
        return [partial(self.run, block, index, window) for window in range(len(self.hidden))]

    def after(self, block: nn.Module, index: int, name: str) -> list[Tensor]:
        """Outputs of a block for all windows.

        Raises:
            VqError: if an output is not finite.
        """
        found = []
        for window in range(len(self.hidden)):
            output = self.run(block, index, window)
            _check_finite(output, name, window)
            found.append(output)
        return found

    def advance(self, block: nn.Module, index: int, name: str) -> None:
        """Replace the inputs of a block by its outputs.

        Raises:
            VqError: if an output is not finite.
        """
        for window in range(len(self.hidden)):
            output = self.run(block, index, window)
            _check_finite(output, name, window)
            self.hidden[window] = output


def _check_finite(output: Tensor, name: str, window: int) -> None:
    if not bool(torch.isfinite(output).all()):
        raise VqError(
            f"block {name}: its output for calibration window {window} is not finite; "
            "calculate in float32 (dtype) and check the model"
        )


@dataclass(eq=False)
class WholeModel:
    """Runs the whole model up to a block; for models whose blocks are no chain, and modules of any kind.

    Attributes:
        calls: each runs the model on some calibration data.
        stop: whether a run may end after the block at work.
    """

    calls: list[Callable[[], Any]]
    stop: bool = True

    def runs(self, block: nn.Module, index: int) -> list[Callable[[], Any]]:
        """One call a window, each of which runs the model as far as it is needed."""
        return [partial(self._run, block, call) for call in self.calls]

    def _run(self, block: nn.Module, call: Callable[[], Any]) -> None:
        def end(*_: Any) -> None:
            raise _Done

        handle = block.register_forward_hook(end) if self.stop else None
        try:
            with torch.no_grad():
                call()
        except _Done:
            pass
        finally:
            if handle is not None:
                handle.remove()


@dataclass(eq=False)
class _Pass:
    """One pass of a window through the stand-ins of a stack.

    Attributes:
        outputs: see Activations.
        last: number of the last block of the stack.
        factor: by which each block multiplies hidden states; 1, or -1 in the pass that looks for what depends on them.
        extras: what the first block gives besides hidden states.
        seen: hidden states that reached the first block, and other arguments of each block.
        same: whether each block was reached by what the one before it handed on.
    """

    outputs: int | None
    last: int
    factor: float = 1.0
    extras: tuple[Any, ...] = ()
    seen: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    same: bool = True

    def note(self, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note what a block was called with; hidden states are held once for all of them."""
        if self.seen:
            start = self.seen[0][0]
            wanted = start if self.factor ** len(self.seen) == 1.0 else start * self.factor
            self.same &= hidden.shape == start.shape and bool(torch.equal(hidden, wanted))
            hidden = start
        self.seen.append((hidden, args, kwargs))


class _Recorder(Stand):
    """Notes a block's arguments; the first of a stack runs for real where it gives more than hidden states."""

    def __init__(self, block: nn.Module, number: int, state: _Pass) -> None:
        super().__init__(block)
        self.number, self.state = number, state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden, args, kwargs = _hidden(args, kwargs)
        state = self.state
        state.note(hidden, args, kwargs)
        if state.outputs and self.number == 0:
            state.extras = self._block[0](hidden, *args, **kwargs)[1:]
        if self.number == state.last:
            raise _Done
        passed = hidden * state.factor if state.factor != 1.0 else hidden
        return passed if state.outputs is None else (passed, *state.extras)


class _Probe(Stand):
    """Runs the first block of a stack to see what it gives."""

    def __init__(self, block: nn.Module, found: list[Any]) -> None:
        super().__init__(block)
        self.found = found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden, args, kwargs = _hidden(args, kwargs)
        output = self._block[0](hidden, *args, **kwargs)
        self.found.append((hidden, output))
        raise _Done


class _Player(Stand):
    """Stands for a block of a stack that ran before: the last one gives what the stack gave."""

    def __init__(self, block: nn.Module, result: Tensor | None, outputs: int | None) -> None:
        super().__init__(block)
        self.result, self.outputs = result, outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden = _hidden(args, kwargs)[0] if self.result is None else self.result
        return hidden if self.outputs is None else (hidden, *[None] * self.outputs)


class _Later(Stand):
    """Stands for a block of a stack that has not run yet."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotAChain("a stack of blocks is needed by one that stands before it in the model")


def _hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """Hidden states and the other arguments of a call."""
    if args and isinstance(args[0], Tensor):
        return args[0], args[1:], kwargs
    if not args and isinstance(kwargs.get("hidden_states"), Tensor):
        rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        return kwargs["hidden_states"], (), rest
    raise NotAChain("a block is not called with hidden states as its first argument")


def capture(
    skeleton: Skeleton,
    inputs: Inputs,
    stack: str | None = None,
    before: Mapping[str, Activations] | None = None,
) -> Activations:
    """Inputs of the first block of a stack, and the other arguments of all its blocks.

    Only what lies outside the blocks is loaded, and given back after; the first block is loaded for a look at what it
    gives.

    Args:
        skeleton: the model.
        inputs: token windows ``(windows, context)``, or the arguments of the model for each window.
        stack: name of the stack; None for the first.
        before: what left the stacks that ran before.

    Raises:
        NotAChain: if the blocks do not hand their hidden states on one to the next.
    """
    name = stack or skeleton.stacks[0]
    windows = as_arguments(skeleton.model, inputs)
    stage = _Stage(skeleton, name, dict(before or {}))
    head = skeleton.model.get_output_embeddings()
    lists: list[nn.Module] = [skeleton.stack(other) for other in skeleton.stacks]
    skeleton.fill(skeleton.model, "", skip=lists if head is None else [*lists, head])
    try:
        outputs = stage.probe(windows[0])
        seen = [stage.record(window, number, outputs, 1.0) for number, window in enumerate(windows)]
        if len(seen[0]) > 1:
            _check_chain(seen[0], stage.record(windows[0], 0, outputs, -1.0))
    finally:
        stage.restore()
        skeleton.empty(skeleton.model)
    calls: list[list[Any]] = [[] for _ in seen[0]]
    for window in seen:
        for i, (_, args, kwargs) in enumerate(window):
            known = calls[i][0] if calls[i] else calls[i - 1][-1] if i else None
            calls[i].append(_shared((args, kwargs), known))
    hidden = [window[0][0].detach() for window in seen]
    return Activations(hidden, calls, stage.start, outputs)


class _Stage:
    """The model with stand-ins in place of all blocks, for recording one stack."""

    def __init__(self, skeleton: Skeleton, stack: str, before: dict[str, Activations]) -> None:
        self.skeleton, self.stack, self.before = skeleton, stack, before
        self.originals = {name: list(skeleton.stack(name)) for name in skeleton.stacks}
        counts = [len(self.originals[name]) for name in skeleton.stacks]
        self.start = sum(counts[: skeleton.stacks.index(stack)])

    def restore(self) -> None:
        """Put the blocks back."""
        for name, blocks in self.originals.items():
            self._put(name, blocks)

    def _put(self, name: str, modules: Sequence[nn.Module]) -> None:
        listed = self.skeleton.stack(name)
        for i, module in enumerate(modules):
            listed[i] = module

    def _others(self, window: int) -> None:
        """Stand-ins for the other stacks."""
        for name, blocks in self.originals.items():
            if name in self.before:
                done = self.before[name]
                last = len(blocks) - 1
                given = done.hidden[window] if window < len(done.hidden) else None
                results = [given if i == last else None for i in range(len(blocks))]
                self._put(
                    name,
                    [_Player(b, r, done.outputs) for b, r in zip(blocks, results, strict=True)],
                )
            elif name != self.stack:
                self._put(name, [_Later(block) for block in blocks])

    def probe(self, window: Mapping[str, Any]) -> int | None:
        """How many things a block gives besides hidden states; None for a bare tensor."""
        block = self.originals[self.stack][0]
        self.skeleton.fill(block, f"{self.stack}.0")
        found: list[Any] = []
        self._others(0)
        self._put(self.stack, [_Probe(b, found) for b in self.originals[self.stack]])
        self._call(window)
        if not found:
            raise NotAChain(f"the blocks of {self.stack} are never called")
        hidden, output = found[0]
        tensor = output[0] if isinstance(output, tuple) and output else output
        if not isinstance(tensor, Tensor) or tensor.shape != hidden.shape:
            raise NotAChain(
                f"a block of {self.stack} does not give hidden states of its input's shape"
            )
        return len(output) - 1 if isinstance(output, tuple) else None

    def record(
        self, window: Mapping[str, Any], number: int, outputs: int | None, factor: float
    ) -> list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]]:
        """Arguments of every block of the stack for one window."""
        blocks = self.originals[self.stack]
        state = _Pass(outputs, len(blocks) - 1, factor)
        self._others(number)
        self._put(self.stack, [_Recorder(b, i, state) for i, b in enumerate(blocks)])
        self._call(window)
        if len(state.seen) != len(blocks):
            raise NotAChain(
                f"{len(state.seen)} of the {len(blocks)} blocks of {self.stack} are called in a pass"
            )
        if not state.same:
            raise NotAChain(f"something happens between the blocks of {self.stack}")
        return state.seen

    def _call(self, window: Mapping[str, Any]) -> None:
        try:
            with torch.no_grad():
                self.skeleton.model(**window)
        except _Done:
            pass
        except (RuntimeError, IndexError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
            raise NotAChain(f"the model does not run without its blocks ({reason})") from error


def _check_chain(usual: list[Any], negated: list[Any]) -> None:
    """Raise if an argument other than hidden states depends on what blocks before gave."""
    for (_, args, kwargs), (_, other_args, other_kwargs) in zip(usual, negated, strict=True):
        if not _equal((args, kwargs), (other_args, other_kwargs)):
            raise NotAChain("arguments of a block depend on the output of the one before it")


def as_arguments(model: Any, inputs: Inputs) -> list[dict[str, Any]]:
    """Arguments of the model for each window; caches are switched off."""
    known = inspect.signature(model.forward).parameters
    more = {"use_cache": False} if "use_cache" in known else {}
    if isinstance(inputs, Tensor):
        return [{"input_ids": row[None], **more} for row in inputs]
    return [{**more, **dict(window)} for window in inputs]


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
