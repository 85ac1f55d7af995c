"""Codes as bytes: sizes by hand, exact inverses for every storage, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.storage import byte_count, choose_storage, from_bytes, to_bytes


def spec_of(entries, strides=None, axes=1) -> CodeSpec:
    return CodeSpec(
        kind="audio" if axes == 1 else "image",
        entries=tuple(entries),
        strides=tuple(strides or [1] * len(entries)),
        hop=(4,) * axes,
        channels=1,
        sample_rate=8000 if axes == 1 else None,
        normalisation="none",
        model_hash="m",
    )


def random_codes(spec: CodeSpec, spatial, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for entries, stride in zip(spec.entries, spec.strides, strict=True):
        short = (*spatial[:-1], -(-spatial[-1] // stride))
        row = torch.randint(entries, short, generator=generator)
        row.view(-1)[0], row.view(-1)[-1] = 0, entries - 1
        rows.append(row.repeat_interleave(stride, -1)[..., : spatial[-1]])
    return torch.stack(rows)


def data_of(codes, spec, storage) -> np.ndarray:
    return np.frombuffer(to_bytes(codes, spec, storage), np.uint8)


CASES = [
    ((2,), None, (5,)),
    ((256,), None, (4, 3)),
    ((1024,) * 8, None, (7,)),
    ((1000, 3, 3, 65536), None, (9,)),
    ((4096,) * 3, (4, 2, 1), (9,)),
    ((5, 7), (2, 3), (2, 5)),
    ((2**32, 2**40), None, (3,)),
    ((2**62,), None, (1,)),
]


@pytest.mark.parametrize("storage", ["auto", "packed", "int64"])
@pytest.mark.parametrize("entries, strides, spatial", CASES)
def test_exact_inverse(entries, strides, spatial, storage):
    spec = spec_of(entries, strides, len(spatial))
    name = choose_storage(spec, storage)
    codes = random_codes(spec, spatial)
    data = data_of(codes, spec, name)
    assert data.size == byte_count(spatial, spec, name)
    back = from_bytes(data, spatial, spec, name)
    assert back.dtype == torch.int64 and torch.equal(back, codes)


@pytest.mark.parametrize(
    "entries, want",
    [((256,), "uint8"), ((2, 257), "uint16"), ((65537,), "uint32"), ((2**32 + 1,), "int64")],
)
def test_smallest_type(entries, want):
    assert choose_storage(spec_of(entries)) == want


def test_packed_takes_the_bits_of_each_code():
    ten = spec_of((1024,) * 8)
    assert byte_count((100,), ten, "packed") == 8 * 100 * 10 // 8
    assert byte_count((100,), ten, "uint16") == 8 * 100 * 2
    assert byte_count((3,), spec_of((1000,)), "packed") == 4  # 30 bits
    mixed = spec_of((8, 8, 2))  # two codes of 3 bits, then one of 1 bit: two runs
    assert byte_count((5,), mixed, "packed") == 4 + 1
    snac = spec_of((4096,) * 3, (4, 2, 1))
    assert byte_count((8,), snac, "packed") == (2 + 4 + 8) * 12 // 8


def test_packed_layout_by_hand():
    spec = spec_of((8,))
    assert to_bytes(torch.tensor([[5, 2, 7]]), spec, "packed") == bytes([0b11010101, 0b1])
    assert to_bytes(torch.tensor([[5, 2, 7]]), spec, "uint8") == bytes([5, 2, 7])
    assert to_bytes(torch.tensor([[258]]), spec_of((300,)), "uint16") == bytes([2, 1])


@pytest.mark.parametrize(
    "codes, message",
    [
        (torch.tensor([[8]]), r"codes\[0\]: expected values in \[0, 8\), got 8 to 8"),
        (torch.tensor([[-1, 3]]), "got -1 to 3"),
        (torch.tensor([[1.0]]), "expected integers"),
        (torch.tensor([[True]]), "expected integers"),
        (torch.zeros(2, 3, dtype=torch.int64), r"expected shape \(1, \*spatial\)"),
        (torch.zeros(1, 0, dtype=torch.int64), "expected shape"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), "with 2 axes"),
    ],
)
def test_codes_that_do_not_fit(codes, message):
    with pytest.raises(ValueError, match=message):
        to_bytes(codes, spec_of((8,)), "uint8")


def test_codes_that_do_not_repeat_as_promised():
    spec = spec_of((8, 8), (2, 1))
    with pytest.raises(ValueError, match="expected each code to repeat"):
        to_bytes(torch.tensor([[1, 2], [0, 0]]), spec, "uint8")


def test_damaged_bytes():
    spec = spec_of((5,))
    with pytest.raises(ValueError, match="expected 3 bytes"):
        from_bytes(np.zeros(2, np.uint8), (3,), spec, "uint8")
    with pytest.raises(ValueError, match=r"expected values in \[0, 5\)"):
        from_bytes(np.array([7], np.uint8), (1,), spec, "uint8")


@pytest.mark.parametrize("wanted", ["uint8", "zip"])
def test_storage_that_cannot_hold_the_codes(wanted):
    with pytest.raises(ValueError, match="storage: expected auto, packed or one of uint16"):
        choose_storage(spec_of((257,)), wanted)
