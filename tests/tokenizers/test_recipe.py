from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
import torch

from vq.errors import VqError
from vq.quantizers import KINDS
from vq.tokenizers.build import build_loss, build_tokenizer, describe, quality_of
from vq.tokenizers.recipe import DEFAULTS, Recipe, merge, read_recipe, recipe_names
from vq.tokenizers.source import inspect

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_build_and_run(name):
    """Forward and backward of a small item, and codes there and back where nothing has to start first."""
    recipe = read_recipe(name)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    tokenizer = build_tokenizer(recipe)
    grain = tokenizer.backbone.grain
    size = tuple(max(g, 4 * g if len(grain) == 1 else 16) for g in grain)
    x = torch.rand(1, recipe.channels, *size) * 2 - 1
    tokenizer.set_mode("bypass")
    values = tokenizer(x).values
    parts = build_loss(recipe)(values, x)
    parts.total.backward()
    assert math.isfinite(float(parts.total.detach())) and values.shape == x.shape
    if recipe.quantized and tokenizer.quantizer.ready:
        codes = tokenizer.encode(x)
        assert tokenizer.decode(codes).shape == x.shape


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_say_what_they_change(name):
    lines = (ROOT / "tokenizers" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ") and lines[0].endswith(".")
    if name not in DEFAULTS.values():
        assert lines[1].startswith("base: ")


def test_git_does_not_ignore_the_recipes():
    names = [f"tokenizers/{name}.yaml" for name in recipe_names()]
    found = subprocess.run(
        ["git", "check-ignore", *names], capture_output=True, text=True, check=False, cwd=ROOT
    )
    if found.returncode == 128:
        pytest.skip("no git checkout")
    assert found.stdout == ""


def test_defaults_exist_and_kinds_filter():
    for kind, name in DEFAULTS.items():
        assert read_recipe(name).kind == kind and name in recipe_names(kind)
    assert set(recipe_names("image")).isdisjoint(recipe_names("audio"))


def test_a_base_is_inherited_key_by_key():
    base, child = read_recipe("image-f4"), read_recipe("image-cosine")
    assert child.quantizer == {
        "kind": "vq",
        "codebook": "kmeans(dim=8, entries=4096)",
        "lookup": "cosine",
    }
    same = {**child.to_dict(), "quantizer": base.to_dict()["quantizer"]}
    assert same == base.to_dict()


def test_changing_the_kind_drops_the_keys_of_the_old_one():
    assert read_recipe("image-fsq").quantizer == {"kind": "fsq", "levels": [7, 5, 5, 5, 5]}
    changed = read_recipe("image-f4", ["quantizer.kind=lfq", "quantizer.bits=9"])
    assert changed.quantizer == {"kind": "lfq", "bits": 9}
    same_kind = read_recipe("image-f4", ["quantizer.kind=vq"])
    assert same_kind.quantizer == read_recipe("image-f4").quantizer


def test_merge_of_maps():
    base = {"a": 1, "m": {"kind": "x", "of": {"kind": "y", "p": 1}, "k": 2}}
    assert merge(base, {"m": {"of": {"p": 3}}}) == {
        "a": 1,
        "m": {"kind": "x", "of": {"kind": "y", "p": 3}, "k": 2},
    }
    assert merge(base, {"m": {"of": {"kind": "z"}}})["m"]["of"] == {"kind": "z"}
    assert merge(base, {"m": {}})["m"] == {}
    assert base["m"]["of"] == {"kind": "y", "p": 1}


def test_changes_from_the_command_line():
    recipe = read_recipe(
        "image-f4",
        [
            "steps=300",
            "learning_rate=1e-4",
            "quantizer.codebook=kmeans(dim=8, entries=64)",
            "loss.ssim=0.5",
            "gan={start: 0.25, width: 8}",
            "flip=false",
            "betas=[0.5, 0.9]",
        ],
    )
    assert recipe.steps == 300 and recipe.learning_rate == 1e-4 and recipe.flip is False
    assert recipe.quantizer["codebook"] == "kmeans(dim=8, entries=64)"
    assert recipe.loss == {"l1": 1.0, "ssim": 0.5} and recipe.gan == {"start": 0.25, "width": 8}
    assert recipe.betas == (0.5, 0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stepz=3", r"unknown key 'stepz'; did you mean steps"),
        ("steps", "expected key=value"),
        ("steps.of=3", "'steps' has no keys of its own"),
        ("steps=0", "steps: expected a whole number of at least 1"),
        ("steps=1.5", "steps: expected a whole number"),
        ("learning_rate=fast", "learning_rate: expected a number"),
        ("learning_rate=0", "more than 0"),
        ("warmup=1.5", "warmup: expected a fraction"),
        ("warmup=1", "leaves no step for the quantizer"),
        ("kind=video", "expected image or audio"),
        ("quantizer=fsq", "quantizer is a map of keys"),
        ("quantizer={codebook: x}", None),
        ("gan.start=2", "gan.start: expected a fraction"),
        ("betas=[1, 2]", "betas: expected two numbers"),
        ("loss={l1: [", "not valid YAML"),
    ],
)
def test_wrong_changes(change, message):
    if message is None:  # kind is inherited
        assert read_recipe("image-f4", [change]).quantizer["kind"] == "vq"
        return
    with pytest.raises(VqError, match=message):
        read_recipe("image-f4", [change])


def test_wrong_recipes(tmp_path):
    with pytest.raises(VqError, match="unknown recipe 'image-f5'; did you mean image-f"):
        read_recipe("image-f5")
    with pytest.raises(VqError, match=r"recipe .*none.yaml"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(VqError, match="circle"):
        read_recipe(tmp_path / "a.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(VqError, match="expected lines of key: value"):
        read_recipe(tmp_path / "list.yaml")


def test_a_recipe_of_ones_own_with_a_shipped_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: image-f4\nsteps: 7\n")
    assert read_recipe(path).steps == 7 and read_recipe(path).size == read_recipe("image-f4").size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["backbone.name=conv3d"], "unknown backbone 'conv3d'; did you mean conv2d"),
        (["backbone.widht=3"], "no argument 'widht'; did you mean width"),
        (["quantizer.kind=vqq"], "unknown quantizer 'vqq'; did you mean vq"),
        (["quantizer.codebok=x"], "no argument 'codebok'"),
        (["backbone.name=seanet"], "seanet is for audio, the recipe is for image"),
        (["backbone.channels=1"], "backbone.channels is 1, channels is 3"),
        (["size=33"], "Try size=32"),
        (["quantizer.dim=5"], "set backbone.dim to 5"),
    ],
)
def test_recipes_that_cannot_be_built(changes, message):
    with pytest.raises(VqError, match=message):
        build_tokenizer(read_recipe("image-f4", changes))


def test_loudness_is_for_sounds():
    assert build_tokenizer(read_recipe("speech-16k")).normalisation == "loudness"
    assert (
        build_tokenizer(read_recipe("speech-16k", ["normalisation=none"])).normalisation == "none"
    )
    for name, value in (("image-f4", "loudness"), ("speech-16k", "peak")):
        with pytest.raises(
            VqError, match=f"expected 'none', or 'loudness' for audio, got '{value}'"
        ):
            read_recipe(name, [f"normalisation={value}"])


def test_wrong_losses():
    with pytest.raises(VqError, match="unknown loss 'l3'"):
        build_loss(read_recipe("image-f4", ["loss.l3=1"]))
    with pytest.raises(VqError, match="has no option 'size'"):
        build_loss(read_recipe("speech-16k", ["loss.stft={weight: 1, size: 3}"]))


def test_loss_options_reach_the_loss():
    changes = ["loss.stft={weight: 2, sizes: [64]}", "loss.l1=0", "loss.mel=0"]
    loss = build_loss(read_recipe("speech-16k", changes))
    assert loss.weights == {"stft": 2} and loss.options["stft"]["sizes"] == [64]


def test_weights_depend_on_the_seed_alone():
    recipe = read_recipe("image-f4", ["quantizer.codebook=kmeans(dim=8, entries=16)"])
    torch.manual_seed(5)
    a = build_tokenizer(recipe, seed=3)
    draw = torch.rand(())
    torch.manual_seed(6)
    assert build_tokenizer(recipe, seed=3).model_hash == a.model_hash
    assert build_tokenizer(recipe, seed=4).model_hash != a.model_hash
    torch.manual_seed(5)
    assert torch.equal(draw, torch.rand(()))


def test_the_table_by_hand(photos, image_recipe):
    """16x16 pixels of factor 4: 16 positions of log2(32) = 5 bits, 5/16 bits a pixel."""
    recipe = image_recipe(steps=100, batch=2, warmup=0.5)
    text = describe(build_tokenizer(recipe), recipe, inspect(photos, recipe).folder)
    assert "conv2d with vq" in text and "1 x 32 entries" in text
    assert "5.0 bits a position" in text and "0.312 bit/pixel" in text.replace("0.313", "0.312")
    assert "50 vectors for each entry" in text  # 16 * 2 * 100 * 0.5 / 32


def test_quality():
    x = torch.zeros(2, 3, 16, 16)
    found = quality_of(read_recipe("image-f4"))(x + 0.2, x)
    assert found["psnr"] == pytest.approx(20.0, abs=1e-4)  # 10 log10(4 / 0.04)
    assert "ssim" not in quality_of(read_recipe("image-f4"))(x[..., :8], x[..., :8])
    t = torch.sin(torch.arange(800.0))[None, None]
    assert quality_of(read_recipe("speech-16k"))(2 * t, t)["si_sdr"] > 60


def test_every_trainable_kind_has_a_recipe():
    used = {read_recipe(name).quantizer["kind"] for name in recipe_names()}
    assert used == {*KINDS, "none"}
