"""The processes that compress one model together, over torch.distributed; one process needs none of it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from vq.errors import VqError

TIMEOUT = 1800  # seconds that a process waits for another


class LostRank(VqError):
    """Another process ended or does not answer."""


class Ranks:
    """This process among those of a job.

    Args:
        rank: its number.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a tensor."""
        with _watched():
            torch.distributed.send(tensor.contiguous(), to)

    def receive(self, buffer: Tensor, source: int) -> Tensor:
        """Receive a tensor of the buffer's shape into it."""
        with _watched():
            torch.distributed.recv(buffer, source)
        return buffer

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            with _watched():
                torch.distributed.barrier()

    def agree(self, value: Any) -> Any:
        """Process 0's value (anything JSON can hold) in every process."""
        if self.size == 1:
            return value
        text = json.dumps(value).encode() if self.first else b""
        return json.loads(self.share(text, 0))

    def share(self, data: bytes, source: int) -> bytes:
        """The bytes of one process in every process."""
        if self.size == 1:
            return data
        with _watched():
            length = torch.tensor([len(data)], dtype=torch.int64)
            torch.distributed.broadcast(length, source)
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if self.rank == source:
                buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            torch.distributed.broadcast(buffer, source)
        return buffer.numpy().tobytes()

    def share_tensors(
        self, tensors: Mapping[str, Tensor], notes: Mapping[str, Any], source: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors of one process, and notes that JSON can hold, in every process."""
        if self.size == 1:
            return dict(tensors), dict(notes)
        from safetensors.torch import load, save

        mine = self.rank == source
        text = self.share(json.dumps(notes).encode() if mine else b"", source)
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        packed = self.share(save(held) if mine else b"", source)
        return load(packed), json.loads(text)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Turn a failed exchange into a message that says what to do."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, VqError):
            raise
        reason = str(error).strip().split("\n")[0][:200]
        raise LostRank(
            f"another process of the job ended or does not answer ({reason}); finished blocks are kept, "
            "start the same command again to go on"
        ) from error


@contextlib.contextmanager
def join(timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Join the processes that torchrun started; without torchrun, this process is alone.

    Args:
        timeout: seconds that a process waits for another before the job ends.

    Raises:
        VqError: if the others cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or not torch.distributed.is_available():
        yield Ranks()
        return
    if torch.distributed.is_initialized():
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return
    # Its functions take the group of that moment as a default argument: imported later, they keep the group and its
    # threads alive to the end of the interpreter, where a thread that frees a tensor aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    with _watched():
        torch.distributed.init_process_group(_backend(), timeout=timedelta(seconds=timeout))
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


def spread(costs: Sequence[float], size: int) -> list[int]:
    """Owner of each of some pieces of work: the largest first, each to the process with least to do so far."""
    load = [0.0] * size
    owners = [0] * len(costs)
    for number in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner = min(range(size), key=lambda rank: (load[rank], rank))
        owners[number] = owner
        load[owner] += costs[number]
    return owners


def _backend() -> str:
    """Gloo for tensors in main memory, NCCL for those on a GPU."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
