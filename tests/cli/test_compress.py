import argparse

import pytest

from vq.cli.compress import add_arguments, read_options
from vq.compressors.recipes import read_recipe
from vq.errors import VqError


def read(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_options(parser.parse_args(["m", "-o", "o", *words]))


def test_settings_are_keys_of_a_recipe():
    options = read(
        "--set", "polish=2", "outliers.share=0.01", "outliers.by=magnitude", "rotation=none"
    )
    assert options.outliers == {"share": 0.01, "by": "magnitude"}
    assert (options.polish, options.rotation) == (2, "none")


def test_a_setting_within_a_mapping_leaves_its_other_keys():
    recipe = read_recipe("2bit-tuned")
    options = read("--recipe", "2bit-tuned", "--set", "tuning.ridge=0.05")
    assert options.tuning == {**recipe.tuning, "ridge": 0.05}
    assert read("--recipe", "2bit-tuned", "--set", "tuning={compensate: true}").tuning == {
        "compensate": True
    }
    both = read("--set", "tuning.ridge=0.05", "tuning={compensate: true}")
    assert both.tuning == {"compensate": True, "ridge": 0.05}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "polish"], "--set polish: expected KEY=VALUE"),
        (["--seed", "1", "--set", "seed=2"], "seed is set by another option too"),
        (["--set", "polisch=2"], "unknown key 'polisch'; .*polish"),
        (["--recipe", "2bit-tuned", "--set", "tuning.rigde=1"], "unknown key 'rigde'; .*ridge"),
        (["--set", "tuning=3", "tuning.ridge=1"], "--set tuning: given as a whole and by its keys"),
        (["--set", "polish=[1"], "the value is not YAML"),
    ],
)
def test_wrong_settings_are_named(words, message):
    with pytest.raises(VqError, match=message):
        read(*words)
