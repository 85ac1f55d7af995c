"""The description of codes: rates worked out by hand, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from vq.errors import VqError
from vq.tokenizers.code_spec import CodeSpec


def speech(**changes) -> CodeSpec:
    values = {
        "kind": "audio",
        "entries": (1024,) * 8,
        "strides": (1,) * 8,
        "hop": (320,),
        "channels": 1,
        "sample_rate": 24000,
        "normalisation": "loudness",
        "model_hash": "abc",
    }
    return CodeSpec(**{**values, **changes})


def photo(**changes) -> CodeSpec:
    values = {
        "kind": "image",
        "entries": (4375,),
        "strides": (1,),
        "hop": (8, 8),
        "channels": 3,
        "sample_rate": None,
        "normalisation": "none",
        "model_hash": "abc",
    }
    return CodeSpec(**{**values, **changes})


def test_rates_of_known_codecs():
    assert speech().bitrate == pytest.approx(6.0)  # 75 positions/s x 8 x 10 bits
    assert speech(entries=(1024,) * 2, strides=(1, 1)).bitrate == pytest.approx(1.5)
    # multi-scale: 4096 entries at 12, 23 and 47 Hz are 0.98 kbit/s
    snac = speech(entries=(4096,) * 3, strides=(4, 2, 1), hop=(512,))
    assert snac.bitrate == pytest.approx(12 * (1 + 2 + 4) * (24000 / 2048) / 1000)
    assert photo().bitrate == pytest.approx(math.log2(4375) / 64)


def test_whole_bits():
    spec = speech(entries=(2, 3, 256, 257, 2**62), strides=(1,) * 5)
    assert spec.code_bits == (1, 2, 8, 9, 62)


def test_positions_round_up():
    assert speech().positions((1,)) == (1,)
    assert speech().positions((640,)) == (2,)
    assert speech().positions((641,)) == (3,)
    assert photo().positions((16, 17)) == (2, 3)
    for size in ((0,), (3, 3)):
        with pytest.raises(ValueError, match="size: expected 1 numbers"):
            speech().positions(size)


def test_stored_codes_count_a_repeated_code_once():
    spec = speech(entries=(4, 4, 4), strides=(4, 2, 1))
    assert spec.stored_codes((9,)) == (3, 5, 9)
    assert photo().stored_codes((4, 5)) == (20,)


def test_dict_round_trip_through_json():
    for spec in (speech(), photo()):
        assert CodeSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert speech().to_dict()["version"] == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"version": 2}, "upgrade vq-toolkit"),
        ({"colour": 1}, r"unknown keys \['colour'\]"),
        ({"kind": "smell"}, "kind: expected one of image, audio"),
        ({"entries": "1024"}, "entries: expected a sequence"),
        ({"version": 0}, "version: expected 1"),
    ],
)
def test_from_dict_refuses(changes, message):
    with pytest.raises(VqError, match=message):
        CodeSpec.from_dict({**speech().to_dict(), **changes})


def test_from_dict_names_missing_keys():
    values = speech().to_dict()
    del values["hop"]
    with pytest.raises(VqError, match=r"missing keys \['hop'\]"):
        CodeSpec.from_dict(values)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"entries": ()}, "entries: expected"),
        ({"entries": (1,), "strides": (1,)}, "entries: expected numbers of 2"),
        ({"entries": (2**62 + 1,), "strides": (1,)}, "entries"),
        ({"strides": (1,)}, "strides: expected 8"),
        ({"strides": (0,) * 8}, "strides"),
        ({"hop": (8, 8)}, "hop: expected 1 positive numbers for audio"),
        ({"channels": 3}, "channels: expected one of"),
        ({"sample_rate": None}, "sample_rate: expected Hz"),
        ({"normalisation": "peak"}, "normalisation"),
        ({"model_hash": ""}, "model_hash"),
    ],
)
def test_values_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        speech(**changes)


def test_images_have_no_rate_and_no_loudness():
    with pytest.raises(ValueError, match="sample_rate"):
        photo(sample_rate=16000)
    with pytest.raises(ValueError, match="normalisation"):
        photo(normalisation="loudness")


@pytest.mark.parametrize("entries", [[1.5], [True], 4])
def test_entries_are_whole_numbers(entries):
    with pytest.raises(TypeError, match="entries: expected"):
        speech(entries=entries)


def test_difference_names_fields():
    assert speech().difference(speech()) == ""
    assert "model_hash 'abc' against 'x'" in speech().difference(speech(model_hash="x"))
