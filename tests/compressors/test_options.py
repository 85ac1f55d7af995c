import pytest

from vq.compressors.options import CompressOptions
from vq.errors import VqError


def test_options_survive_a_dictionary():
    options = CompressOptions(codebook="scalar(bits=3)", layers={"*.v_proj": "keep"}, seed=4)
    assert CompressOptions.from_dict(options.to_dict()) == options


def test_the_last_pattern_that_matches_counts():
    options = CompressOptions(
        codebook="scalar(bits=2)",
        layers={"*.v_proj": "scalar(bits=4)", "model.layers.0.*": "keep", "nothing": "keep"},
    )
    assert options.codebook_of("model.layers.1.self_attn.q_proj") == "scalar(bits=2)"
    assert options.codebook_of("model.layers.1.self_attn.v_proj") == "scalar(bits=4)"
    assert options.codebook_of("model.layers.0.self_attn.v_proj") == "keep"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codebok": "scalar(bits=2)"}, "unknown key 'codebok'; did you mean codebook"),
        ({"codebook": "scalar(bits=2"}, "codebook spec"),
        ({"codebook": "keep"}, "for single layers"),
        ({"layers": {"*": "scalar("}}, "codebook spec"),
        ({"rounding": "best"}, "expected one of ldlq, nearest"),
        ({"rotation": "output"}, "expected one of input, both, none"),
        ({"damping": -1}, "damping"),
        ({"damping": "x"}, "could not convert"),
        ({"windows": -1}, "windows: expected a whole number of at least 0, got -1"),
        ({"windows": 0}, "ldlq needs calibration"),
        ({"windows": True}, "windows"),
        ({"context": 1}, "context: expected a whole number of at least 2"),
        ({"precision": "half"}, "float32 or float64"),
        ({"seed": 1.5}, "seed a whole number"),
        ({"layers": 3}, "not iterable"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(VqError, match=message):
        CompressOptions.from_dict(values)


def test_numbers_as_yaml_writes_them():
    assert CompressOptions.from_dict({"damping": "1e-3", "scale": 1}).damping == 1e-3
