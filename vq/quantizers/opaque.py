"""Codebook search and lookup as single operators, so that a compiled graph can hold any codebook."""

from __future__ import annotations

import functools
import threading

import torch
from torch import Tensor, nn

from vq.codebooks import Codebook, Residual, build

_LOCK = threading.Lock()


class _Verb(nn.Module):
    """A codebook as a function of its tensors."""

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.codebook = codebook

    def forward(self, x: Tensor, stages: int) -> Tensor:
        """Encode for ``stages`` = -1, else decode; 0 takes all stages."""
        return encode_now(self.codebook, x) if stages < 0 else decode_now(self.codebook, x, stages)


@functools.cache
def _verb(spec: str) -> _Verb:
    return _Verb(build(spec))


def _call(x: Tensor, state: list[Tensor], spec: str, stages: int) -> Tensor:
    with (
        _LOCK,
        torch.no_grad(),
    ):  # functional_call puts the tensors into the module for the time of the call
        verb = _verb(spec)
        names = [name for name, _ in _tensors(verb)]
        found: Tensor = torch.func.functional_call(
            verb, dict(zip(names, state, strict=True)), (x, stages)
        )
        return found.clone()


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@torch.library.custom_op("vq::codebook_encode", mutates_args=())
def _encode(x: Tensor, state: list[Tensor], spec: str, shape: list[int]) -> Tensor:
    return _call(x, state, spec, -1)


@_encode.register_fake
def _(x: Tensor, state: list[Tensor], spec: str, shape: list[int]) -> Tensor:
    return x.new_empty((len(x), *shape), dtype=torch.int64)


@torch.library.custom_op("vq::codebook_decode", mutates_args=())
def _decode(codes: Tensor, state: list[Tensor], spec: str, stages: int, dim: int) -> Tensor:
    return _call(codes, state, spec, stages)


@_decode.register_fake
def _(codes: Tensor, state: list[Tensor], spec: str, stages: int, dim: int) -> Tensor:
    return codes.new_empty((len(codes), dim), dtype=torch.float32)


def encode_now(codebook: Codebook, x: Tensor) -> Tensor:
    """Codes ``(n, *codes_shape)`` of ``(n, dim)`` as contiguous int64."""
    return codebook.encode(x).long().contiguous()


def decode_now(codebook: Codebook, codes: Tensor, stages: int = 0) -> Tensor:
    """Values of codes by the first stages; 0 takes all."""
    if stages and isinstance(codebook, Residual):
        return codebook.decode(codes, stages=stages).contiguous()
    return codebook.decode(codes).contiguous()


def encode(codebook: Codebook, x: Tensor) -> Tensor:
    """``encode_now``, and one operator in a compiled graph."""
    if not torch.compiler.is_compiling():
        return encode_now(codebook, x)
    state = [tensor for _, tensor in _tensors(codebook)]
    found: Tensor = _encode(x, state, str(codebook.spec), list(codebook.codes_shape))
    return found


def decode(codebook: Codebook, codes: Tensor, stages: int = 0) -> Tensor:
    """``decode_now``, and one operator in a compiled graph; no gradient."""
    if not torch.compiler.is_compiling():
        return decode_now(codebook, codes, stages)
    state = [tensor for _, tensor in _tensors(codebook)]
    found: Tensor = _decode(codes, state, str(codebook.spec), stages, codebook.dim)
    return found
