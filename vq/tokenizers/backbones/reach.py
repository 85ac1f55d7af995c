"""Which inputs a span of outputs depends on, worked out from the layers."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

Span = tuple[int, int]
"""First and last index, both included; either may lie outside of the signal."""

POINTWISE = (nn.Identity, nn.ELU, nn.GELU, nn.SiLU)


@runtime_checkable
class Reaching(Protocol):
    """A layer that says itself what it depends on."""

    def reach(self, span: Span) -> Span:
        """Inputs that the outputs of ``span`` depend on."""
        ...


def reach(module: nn.Module, span: Span) -> Span:
    """Inputs, per axis, that the outputs of ``span`` depend on.

    A convolution with kernel k, stride s, dilation d and left padding p maps outputs a..b to inputs
    ``a s - p .. b s - p + d (k - 1)``. All axes of a layer are taken to be alike.

    Raises:
        TypeError: for a layer that is unknown here and has no method ``reach``.
    """
    if isinstance(module, nn.Sequential):
        for layer in reversed(module):
            span = reach(layer, span)
        return span
    if isinstance(module, Reaching):
        return module.reach(span)
    if isinstance(module, POINTWISE):
        return span
    return _library_reach(module, *span)


def _library_reach(module: nn.Module, first: int, last: int) -> Span:
    """The same for torch's own layers."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        assert not isinstance(module.padding, str), "padding must be given in numbers"
        s, p = module.stride[0], module.padding[0]
        return first * s - p, last * s - p + module.dilation[0] * (module.kernel_size[0] - 1)
    if isinstance(module, nn.PixelUnshuffle):
        r = module.downscale_factor
        return first * r, last * r + r - 1
    if isinstance(module, nn.PixelShuffle):
        return first // module.upscale_factor, last // module.upscale_factor
    raise TypeError(f"{type(module).__name__} must say its receptive field by a method reach(span)")


def union(a: Span, b: Span) -> Span:
    """The smallest span that holds both."""
    return min(a[0], b[0]), max(a[1], b[1])
