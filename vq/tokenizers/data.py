"""Training items: random pieces of files, each determined by a seed and its number alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Load = Callable[[Path], Tensor]
"""Reads a file to ``(channels, *size)``: uint8 from 0 to 255, or float from -1 to 1."""

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """A 63-bit seed of several whole numbers: each is folded in by a round of SplitMix64.

    Neighbouring inputs give unrelated seeds.

    Reference:
        G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators" (2014), figure 17.
    """
    state = 0
    for number in numbers:
        state = (state + (number & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        state = z ^ (z >> 31)
    return state >> 1


class Pieces(Dataset[Tensor]):
    """Random pieces of one size out of files of any size; item ``n`` exists for every n from 0.

    An epoch visits each file as often as it has ``shares``, in an order drawn anew; where in the file a piece lies, and
    whether it is mirrored, is drawn for each item. All of it depends on ``seed`` and ``n`` only: not on what was read
    before, on the cache, or on the number of processes.

    Args:
        paths: the files.
        load: see ``Load``.
        size: of a piece, without channels. Smaller files are mirrored (two axes) or followed by silence (one).
        seed: of order, places and mirroring.
        shares: visits of each file in an epoch; one by default.
        flip: mirror half of the pieces along the last axis.
        cache_bytes: decoded files are kept in memory until this is full.

    Raises:
        ValueError: for no files, or shares that do not match them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Load,
        size: Sequence[int],
        *,
        seed: int = 0,
        shares: Sequence[int] | None = None,
        flip: bool = False,
        cache_bytes: int = 1 << 30,
    ) -> None:
        shares = [1] * len(paths) if shares is None else list(shares)
        if not paths or len(shares) != len(paths) or min(shares) < 1:
            raise ValueError(
                f"expected at least one file and as many shares of at least 1, got {len(paths)} files, {shares[:5]}"
            )
        self.paths = list(paths)
        self.load = load
        self.size = tuple(size)
        self.seed = seed
        self.flip = flip
        self.cache_bytes = cache_bytes
        self._visits = torch.repeat_interleave(torch.tensor(shares))
        self._order: tuple[int, Tensor] = (-1, self._visits)
        self._cache: dict[int, Tensor] = {}

    @property
    def epoch_items(self) -> int:
        """Items of one epoch."""
        return len(self._visits)

    def file_of(self, n: int) -> int:
        """Number of the file that item n is a piece of."""
        epoch, place = divmod(n, len(self._visits))
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(mix(self.seed, 0, epoch))
            order = torch.randperm(len(self._visits), generator=generator)
            self._order = (epoch, self._visits[order])
        return int(self._order[1][place])

    def __getitem__(self, n: int) -> Tensor:
        """Item n, ``(channels, *size)`` float32 from -1 to 1."""
        whole = self._read(self.file_of(n))
        generator = torch.Generator().manual_seed(mix(self.seed, 1, n))
        for axis, length in enumerate(self.size, start=1):
            draw = torch.randint(1 << 62, (), generator=generator)
            spare = whole.shape[axis] - length
            if spare > 0:
                whole = whole.narrow(axis, int(draw % (spare + 1)), length)
        piece = fill(whole, self.size)
        if self.flip and bool(torch.rand((), generator=generator) < 0.5):
            piece = piece.flip(-1)
        return to_float(piece)

    def _read(self, file: int) -> Tensor:
        found = self._cache.get(file)
        if found is None:
            found = self.load(self.paths[file])
            used = sum(t.nbytes for t in self._cache.values())
            if used + found.nbytes <= self.cache_bytes:
                self._cache[file] = found
        return found


class Fixed(Dataset[Tensor]):
    """A few items again and again, to see whether a model can learn them by heart."""

    def __init__(self, items: Tensor) -> None:
        self.items = items

    def __getitem__(self, n: int) -> Tensor:
        return self.items[n % len(self.items)]


class Steps(Sampler[list[int]]):
    """Item numbers of every batch from a step on, without end; each process takes its own part.

    Args:
        batch: items of a process.
        start: gives the first step when iteration begins.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, batch: int, start: Callable[[], int], rank: int = 0, world: int = 1) -> None:
        self.batch = batch
        self.start = start
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start()
        while True:
            first = (step * self.world + self.rank) * self.batch
            yield list(range(first, first + self.batch))
            step += 1


def fill(x: Tensor, size: Sequence[int]) -> Tensor:
    """``(channels, *smaller)`` made as large as ``size``: mirrored for two axes and more, zeros after it for one."""
    for axis, length in enumerate(size, start=1):
        have = x.shape[axis]
        if have >= length:
            continue
        if len(size) == 1:
            tail = x.new_zeros((*x.shape[:axis], length - have, *x.shape[axis + 1 :]))
            x = torch.cat([x, tail], axis)
            continue
        period = max(2 * have - 2, 1)
        index = torch.arange(length) % period
        x = x.index_select(axis, torch.where(index < have, index, period - index))
    return x


def to_float(x: Tensor) -> Tensor:
    """Float32 from -1 to 1 of bytes; other types are only converted."""
    if x.dtype == torch.uint8:
        return x.float().div_(127.5).sub_(1)
    return x.float()
