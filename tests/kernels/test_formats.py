import dataclasses

import numpy as np
import pytest
import torch

from vq.kernels import decode, formats, layouts
from vq.kernels.formats import HASH_CODE, ROWS, TILES, PackedHeader

SHAPES = [(1, 5), (63, 100), (100, 577), (192, 36), (64, 32), (65, 33)]


def trellis_header(out, width, bits=2, memory=12, *, symbols=2, code=HASH_CODE):
    return PackedHeader(
        TILES,
        out,
        width,
        code_bits=bits * symbols,
        dim=256,
        memory=memory,
        symbols=symbols,
        code=code,
        codes_per_vector=256 // symbols,
        hash_constant=36547 if code == HASH_CODE else 0,
        step=0.025 if code == HASH_CODE else 0.0,
    )


def random_weight(header, seed=0):
    generator = torch.Generator().manual_seed(seed)
    payload = torch.randint(0, 256, (header.payload_bytes,), generator=generator, dtype=torch.uint8)
    return formats.assemble(header, payload)


def test_header_bytes_are_those_of_the_document():
    raw = trellis_header(5, 9).to_bytes()
    assert len(raw) == 64
    assert raw[:4] == b"VQPK"
    assert [int.from_bytes(raw[at : at + 2], "little") for at in (4, 6)] == [1, 2]
    assert [int.from_bytes(raw[at : at + 4], "little") for at in (8, 12, 28)] == [5, 9, 36547]
    small = [int.from_bytes(raw[at : at + 2], "little") for at in range(16, 28, 2)]
    assert small == [4, 256, 12, 2, 1, 128]
    assert int.from_bytes(raw[32:40], "little") == 1 * 3 * 8 * 8
    assert np.frombuffer(raw[44:48], "<f4")[0] == np.float32(0.025)
    assert raw[48:] == bytes(16)


@pytest.mark.parametrize("out,width", SHAPES)
def test_header_round_trip(out, width):
    for header in (trellis_header(out, width), PackedHeader(ROWS, out, width, 3, 4)):
        assert PackedHeader.from_bytes(header.to_bytes()) == header
        assert formats.read_packed(random_weight(header)).same_format(header)


def test_damaged_weights_are_refused_with_the_cause():
    weight = random_weight(trellis_header(63, 100))
    flipped = weight.clone()
    flipped[700] ^= 4
    with pytest.raises(ValueError, match="corrupted"):
        formats.read_packed(flipped)
    assert formats.read_packed(weight).out_features == 63
    with pytest.raises(ValueError, match="cut short"):
        formats.read_packed(weight[:-1])
    with pytest.raises(ValueError, match="cut short"):
        formats.read_packed(weight[:40])
    for at, value, message in (
        (0, 0, "magic"),
        (4, 9, "upgrade"),
        (4, 0, "pack the weight again"),
        (6, 7, "unknown layout"),
        (12, 200, "promises"),
        (20, 17, "memory"),
    ):
        other = weight.clone()
        other[at] = value
        with pytest.raises(ValueError, match=message):
            formats.read_packed(other)
    with pytest.raises(ValueError, match="uint8 of one dimension"):
        formats.read_header(weight.float())


def test_impossible_fields_are_refused():
    good = trellis_header(64, 64)
    for change in (
        {"memory": 3},
        {"hash_constant": 0},
        {"symbols": 3},
        {"code": 5},
        {"out_features": 0},
        {"code_bits": 40},
        {"dim": 8},
    ):
        with pytest.raises(ValueError, match="packed"):
            dataclasses.replace(good, **change)


@pytest.mark.parametrize("bits", range(1, 17))
def test_rows_round_trip_and_bit_order(bits):
    codes = torch.randint(0, 2**bits, (37,), generator=torch.Generator().manual_seed(bits))
    payload = layouts.pack_rows(codes, bits)
    assert payload.numel() == (37 * bits + 7) // 8
    stream = sum(int(c) << (i * bits) for i, c in enumerate(codes))
    assert bytes(payload.tolist()) == stream.to_bytes(payload.numel(), "little")
    assert torch.equal(layouts.unpack_rows(payload, bits, 37), codes)
    assert torch.equal(layouts.unpack_rows(payload, bits, 9, first=11), codes[11:20])


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 8\)"):
        layouts.pack_rows(torch.tensor([8]), 3)
    with pytest.raises(ValueError, match="3 bits a step"):
        layouts.codes_to_streams(torch.full((1, 64), 8), 3)
    with pytest.raises(ValueError, match="at least"):
        layouts.unpack_rows(torch.zeros(2, dtype=torch.uint8), 3, 6)
    with pytest.raises(ValueError, match="for a weight of"):
        layouts.pack_payload(torch.zeros(3, 128), trellis_header(64, 64))


@pytest.mark.parametrize("step_bits", [1, 2, 4, 5, 6, 8, 16])
def test_streams_are_most_significant_bit_first(step_bits):
    codes = torch.randint(0, 2**step_bits, (3, 128), generator=torch.Generator().manual_seed(1))
    streams = layouts.codes_to_streams(codes, step_bits)
    assert torch.equal(layouts.streams_to_codes(streams, step_bits).long(), codes)
    text = "".join(f"{int(c):0{step_bits}b}" for c in codes[2])
    words = [int(text[i : i + 64], 2) for i in range(0, len(text), 64)]
    assert [int(w) % 2**64 for w in streams[2]] == words


@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 25])
def test_tiles_round_trip_and_interleaving(blocks):
    streams = torch.arange(2 * blocks * 8).reshape(2, blocks, 8)
    payload = layouts.pack_tiles(streams)
    assert torch.equal(layouts.unpack_tiles(payload, 2, blocks, 8), streams)
    words = payload.numpy().view("<i8")
    group = min(8, blocks)
    assert [int(w) for w in words[:group]] == [tile * 8 for tile in range(group)]  # word 0 first
    assert int(words[group]) == 1  # then word 1 of tile 0


def naive_decode(codes, header, table):
    """Weights of one tile from the text of the document, bit by bit."""
    text = "".join(f"{int(c):0{header.code_bits}b}" for c in codes)
    weights = []
    for step in range(header.codes_per_vector):
        at = step * header.code_bits
        state = int((text + text)[at : at + header.memory], 2)
        if header.code == HASH_CODE:
            product = ((state << (16 - header.memory)) * header.hash_constant) % 2**32
            weights += [int(table[product >> 16 & 63]), int(table[product >> 8 & 63])]
        else:
            weights += [float(v) for v in table[state]]
    return torch.tensor(weights).float().reshape(64, 4) * (header.step or 1.0)


@pytest.mark.parametrize(
    "bits,memory,symbols,code",
    [
        (2, 12, 2, 1),
        (1, 6, 2, 1),
        (3, 16, 2, 1),
        (4, 9, 2, 1),
        (2, 7, 2, 0),
        (2, 5, 1, 0),
        (1, 8, 4, 0),
    ],
)
def test_decoded_tiles_follow_the_document(bits, memory, symbols, code):
    header = trellis_header(70, 37, bits, memory, symbols=symbols, code=code)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(
        0, 2**header.code_bits, (2 * 10, header.codes_per_vector), generator=generator
    )
    table = (
        torch.randint(-127, 128, (64,), generator=generator).to(torch.int8)
        if code == HASH_CODE
        else torch.randn(2**memory, symbols, generator=generator)
    )
    weight = formats.assemble(header, layouts.pack_payload(codes, header))
    dense = decode.decode_rows(weight, header, table, 0, 70)
    assert dense.shape == (70, 37)
    whole = torch.zeros(128, 40)
    for band in range(2):
        for block in range(10):
            tile = naive_decode(codes[band * 10 + block], header, table)
            whole[band * 64 : band * 64 + 64, block * 4 : block * 4 + 4] = tile
    torch.testing.assert_close(dense, whole[:70, :37], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        decode.decode_rows(weight, header, table, 60, 10), whole[60:70, :37], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("n", [1, 5, 8, 577])
def test_signs_round_trip(n):
    signs = torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(n)) * 2 - 1
    packed = layouts.pack_signs(signs)
    assert packed.numel() == (n + 7) // 8
    assert torch.equal(layouts.unpack_signs(packed, n), signs.float())
    assert torch.equal(layouts.pack_signs(signs < 0), packed)
    assert (int(packed[0]) & 1) == int(signs[0] < 0)


def test_bad_signs_are_refused():
    with pytest.raises(ValueError, match=r"\+1 and -1"):
        layouts.pack_signs(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="for 9 channels"):
        layouts.unpack_signs(torch.zeros(1, dtype=torch.uint8), 9)
