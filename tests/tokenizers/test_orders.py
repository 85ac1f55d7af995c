"""Orders of codes: small ones by hand, exact inverses for all."""

from __future__ import annotations

import itertools

import pytest
import torch

from vq.tokenizers.code_spec import CodeSpec
from vq.tokenizers.orders import ORDERS, TokenOrder


def spec_of(entries, strides=None, axes=1) -> CodeSpec:
    strides = tuple(strides or [1] * len(entries))
    if axes == 2:
        return CodeSpec("image", tuple(entries), strides, (8, 8), 3, None, "none", "m")
    return CodeSpec("audio", tuple(entries), strides, (320,), 1, 16000, "none", "m")


def random_codes(spec: CodeSpec, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(e, shape, generator=generator)[..., ::s].repeat_interleave(s, -1)
        for e, s in zip(spec.entries, spec.strides, strict=True)
    ]
    return torch.stack([row[..., : shape[-1]] for row in rows])


CODES = torch.tensor([[1, 2, 3], [4, 5, 6]])  # stages of 10 and 20 entries
BY_HAND = {
    "flatten": [1, 2, 3, 14, 15, 16],
    "interleave": [1, 14, 2, 15, 3, 16],
    "delay": [2, 0, 3, 15, 4, 16, 0, 17],  # ids shifted by the padding token, which is 0
}


@pytest.mark.parametrize("name", ORDERS)
def test_by_hand(name):
    order = TokenOrder(spec_of((10, 20)), name, ("pad",) if name == "delay" else ())
    assert order.to_sequence(CODES).tolist() == BY_HAND[name]
    assert torch.equal(order.from_sequence(torch.tensor(BY_HAND[name])), CODES)


def test_begin_end_and_own_special_tokens():
    order = TokenOrder(spec_of((10, 20)), "interleave", ("mask", "end", "begin"))
    tokens = order.to_sequence(CODES).tolist()
    assert tokens == [2, *(t + 3 for t in BY_HAND["interleave"]), 1]
    assert order.vocabulary == 33 and order.offsets == (3, 13) and order.special_id("mask") == 0
    assert torch.equal(order.from_sequence(torch.tensor(tokens)), CODES)
    with pytest.raises(ValueError, match="no token 'pad'"):
        order.special_id("pad")


def test_a_code_that_repeats_is_written_once():
    spec = spec_of((10, 20), (2, 1))
    codes = torch.tensor([[1, 1, 2], [4, 5, 6]])
    order = TokenOrder(spec, "interleave")
    assert order.to_sequence(codes).tolist() == [1, 14, 15, 2, 16]
    assert torch.equal(order.from_sequence(torch.tensor([1, 14, 15, 2, 16])), codes)
    assert TokenOrder(spec, "flatten").to_sequence(codes).tolist() == [1, 2, 14, 15, 16]


@pytest.mark.parametrize("special", [(), ("begin",), ("pad", "begin", "end")])
@pytest.mark.parametrize("name", ORDERS)
def test_exact_inverse(name, special):
    special = special if "pad" in special or name != "delay" else ("pad", *special)
    cases = itertools.product([(5,), (7, 3, 9, 4)], [1, 2, 9])
    for entries, positions in cases:
        order = TokenOrder(spec_of(entries), name, special)
        codes = random_codes(order.spec, positions)
        tokens = order.to_sequence(codes)
        assert len(tokens) == order.length(positions)
        assert int(tokens.max()) < order.vocabulary
        assert torch.equal(order.from_sequence(tokens), codes)


@pytest.mark.parametrize("name", ["flatten", "interleave"])
@pytest.mark.parametrize("strides", [(4, 2, 1), (1, 3), (2, 2)])
def test_exact_inverse_with_strides(name, strides):
    spec = spec_of((6,) * len(strides), strides)
    order = TokenOrder(spec, name)
    for positions in range(1, 14):
        codes = random_codes(spec, positions)
        tokens = order.to_sequence(codes)
        assert torch.equal(order.from_sequence(tokens, (positions,)), codes)
        if min(strides) == 1:
            assert torch.equal(order.from_sequence(tokens), codes)
    if min(strides) > 1:
        with pytest.raises(ValueError, match="does not tell it with these strides"):
            order.from_sequence(order.to_sequence(random_codes(spec, 4)))


@pytest.mark.parametrize("name", ORDERS)
def test_images(name):
    spec = spec_of((6, 7), axes=2)
    order = TokenOrder(spec, name, ("pad",))
    codes = random_codes(spec, 3, 5)
    tokens = order.to_sequence(codes)
    assert torch.equal(order.from_sequence(tokens, (3, 5)), codes)
    assert torch.equal(order.from_sequence(tokens), codes.reshape(2, 15))


def test_delay_lets_a_stage_see_the_one_before():
    """In step s of a delayed sequence, stage q holds position s - q."""
    spec = spec_of((50,) * 4)
    codes = random_codes(spec, 10)
    order = TokenOrder(spec, "delay", ("pad",))
    grid = order.to_sequence(codes).reshape(-1, 4)
    for step, stage in itertools.product(range(13), range(4)):
        inside = 0 <= step - stage < 10
        want = order.offsets[stage] + int(codes[stage, step - stage]) if inside else 0
        assert int(grid[step, stage]) == want


@pytest.mark.parametrize(
    "place, token, message",
    [
        (1, 5, r"tokens\[1\]: expected 2 to 11 \(stage 0\), got 5"),
        (2, 3, r"tokens\[2\]: expected 12 to 31 \(stage 1\), got 3"),
        (0, 1, r"tokens\[0\]: expected begin \(0\), got 1"),
        (-1, 0, r"tokens\[-1\]: expected end \(1\), got 0"),
    ],
)
def test_tokens_that_cannot_be(place, token, message):
    order = TokenOrder(spec_of((10, 20)), "interleave", ("begin", "end"))
    tokens = order.to_sequence(CODES)
    tokens[place] = 99 if place == 1 else token
    with pytest.raises(ValueError, match=message.replace("got 5", "got 99")):
        order.from_sequence(tokens)


def test_padding_has_its_place():
    order = TokenOrder(spec_of((10, 20)), "delay", ("pad",))
    tokens = order.to_sequence(CODES)
    tokens[1] = 12
    with pytest.raises(ValueError, match=r"tokens\[1\]: expected 0 to 0"):
        order.from_sequence(tokens)


def test_wrong_arguments():
    spec = spec_of((10, 20))
    with pytest.raises(ValueError, match="order: expected one of"):
        TokenOrder(spec, "random")
    with pytest.raises(ValueError, match="different names"):
        TokenOrder(spec, special=("a", "a"))
    with pytest.raises(ValueError, match="needs the token 'pad'"):
        TokenOrder(spec, "delay")
    with pytest.raises(ValueError, match="got strides"):
        TokenOrder(spec_of((4, 4), (2, 1)), "delay", ("pad",))
    with pytest.raises(ValueError, match="do not fit 64 bits"):
        TokenOrder(spec_of((2**61, 2**61)))
    order = TokenOrder(spec)
    with pytest.raises(ValueError, match="no number of positions gives a sequence of 5"):
        order.from_sequence(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"expected 6 for shape \(3,\), got 4"):
        order.from_sequence(torch.zeros(4, dtype=torch.int64), (3,))
    with pytest.raises(ValueError, match="expected integers"):
        order.from_sequence(torch.zeros(4))
    with pytest.raises(ValueError, match=r"codes\[0\]: expected values in"):
        order.to_sequence(CODES + 9)
    with pytest.raises(ValueError, match="expected each code to repeat"):
        TokenOrder(spec_of((10, 20), (2, 1))).to_sequence(CODES)
    wide = spec_of((4, 4), (2, 1), axes=2)
    with pytest.raises(ValueError, match="strides need one spatial axis"):
        TokenOrder(wide).to_sequence(torch.zeros(2, 2, 2, dtype=torch.int64))
