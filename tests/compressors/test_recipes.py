import pytest

from vq.compressors.options import CompressOptions
from vq.compressors.recipes import read_recipe, recipe_names
from vq.errors import VqError


def test_every_shipped_recipe_is_valid():
    names = recipe_names()
    assert {"2bit", "3bit", "2bit-scalar-ldlq", "2bit-scalar-rtn"} <= set(names)
    for name in names:
        assert isinstance(read_recipe(name), CompressOptions)


def test_changes_replace_what_the_recipe_says():
    assert read_recipe("2bit-scalar-ldlq").codebook == "scalar(bits=2)"
    changed = read_recipe("2bit-scalar-ldlq", codebook="scalar(bits=3)", windows=7)
    assert (changed.codebook, changed.windows, changed.rounding) == ("scalar(bits=3)", 7, "ldlq")


def test_own_recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("codebook: scalar(bits=4)\nlayers:\n  '*.v_proj': keep\n")
    options = read_recipe(path)
    assert options.codebook == "scalar(bits=4)" and options.layers == {"*.v_proj": "keep"}
    path.write_text("")
    assert read_recipe(path) == CompressOptions()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotations: input", "mine.yaml: unknown key 'rotations'; did you mean rotation"),
        ("- a\n- b", "expected lines of key: value, got list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_recipes_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(VqError, match=message):
        read_recipe(path)


def test_missing_recipes(tmp_path):
    with pytest.raises(VqError, match="unknown recipe '2bits'; did you mean 2bit"):
        read_recipe("2bits")
    with pytest.raises(VqError, match="No such file"):
        read_recipe(tmp_path / "x.yaml")
