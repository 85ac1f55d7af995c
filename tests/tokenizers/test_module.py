from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("lightning")

import lightning

from vq.errors import VqError
from vq.tokenizers.adversary import build_adversary
from vq.tokenizers.build import build_loss, build_tokenizer
from vq.tokenizers.module import TokenizerModule

SHAPE = (4, 3, 16, 16)


def batches(n: int) -> torch.Tensor:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(n))
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1) * 2 - 1


def make(recipe, seed: int = 0) -> TokenizerModule:
    tokenizer = build_tokenizer(recipe, seed)
    adversary = build_adversary(recipe, seed)
    return TokenizerModule(tokenizer, recipe, build_loss(recipe), batches, adversary, seed)


class Watch(lightning.Callback):
    """Runs a function at each batch's end and stops at the recipe's steps."""

    def __init__(self, look) -> None:
        self.look = look

    def on_train_batch_end(self, trainer, pl_module, *rest):
        self.look(pl_module)
        if pl_module.step >= pl_module.recipe.steps:
            trainer.should_stop = True


def fit(module: TokenizerModule, look=lambda module: None, data=None) -> TokenizerModule:
    items = data if data is not None else [batches(n) for n in range(module.recipe.steps)]
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[Watch(look)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(items, batch_size=None)
    trainer.fit(module, loader)
    return module


def test_phases_by_fractions(image_recipe):
    seen = []
    module = fit(make(image_recipe(warmup=0.25)), lambda m: seen.append((m.step, m.phase)))
    assert seen == [(n, "warmup" if n <= 3 else "quantized") for n in range(1, 13)]
    assert module.tokenizer.mode == "quantized"


def test_step_counts_batches_where_lightning_counts_optimizers(image_recipe):
    seen = []
    recipe = image_recipe(steps=8, gan={"start": 0.5, "width": 4, "layers": 2})
    module = fit(make(recipe), lambda m: seen.append((m.step, m.phase)))
    assert [step for step, _ in seen] == list(range(1, 9))
    assert [phase for _, phase in seen][4:] == ["adversarial"] * 4
    assert module.global_step == 8 + 4  # the trap: both optimizers count


def test_the_discriminator_moves_only_once_it_counts(image_recipe):
    weights = []
    recipe = image_recipe(steps=6, gan={"start": 0.5, "width": 4, "layers": 2})
    module = make(recipe)
    first = module.adversary.discriminator.score.weight.detach().clone()

    def look(m):
        weights.append(m.adversary.discriminator.score.weight.detach().clone())

    fit(module, look)
    assert all(torch.equal(w, first) for w in weights[:3])
    assert not any(torch.equal(w, first) for w in weights[3:])
    assert {"critic", "generator", "features"} <= module.take_means().keys()


@pytest.mark.parametrize(
    ("gan", "message"),
    [({"weigth": 1}, "did you mean weight"), ({"weight": -1}, "gan.weight"), ({"layers": 0}, "gan")],
)  # fmt: skip
def test_wrong_gan(image_recipe, gan, message):
    with pytest.raises(VqError, match=message):
        build_adversary(image_recipe(gan=gan))


def test_the_quantizer_starts_on_warmed_up_features(image_recipe):
    recipe = image_recipe(steps=8, warmup=0.5)
    module = make(recipe)
    table = module.tokenizer.quantizer.table.clone()
    seen = []
    fit(module, lambda m: seen.append(m.tokenizer.quantizer.table.clone()))
    assert all(torch.equal(t, table) for t in seen[:4])
    assert not torch.equal(seen[4], table)


def test_start_pools_several_batches(image_recipe):
    asked = []
    module = make(image_recipe(start_vectors=150))

    def pool(n):
        asked.append(n)
        return batches(n)

    module.pool = pool
    module.start_quantizer()
    assert asked == [0, 1, 2]  # 64 vectors each


def test_without_warm_up_the_first_step_is_quantized(image_recipe):
    seen = []
    fit(make(image_recipe(steps=2, warmup=0.0)), lambda m: seen.append(m.phase))
    assert seen == ["quantized", "quantized"]


def test_learning_rate_by_hand(image_recipe):
    module = make(image_recipe(steps=100, ramp=0.1, final=0.1, learning_rate=1.0))
    assert module.learning_rate(0) == pytest.approx(0.1)
    assert module.learning_rate(9) == pytest.approx(1.0)
    assert module.learning_rate(55) == pytest.approx(0.1 + 0.9 * 0.5)
    assert module.learning_rate(100) == pytest.approx(0.1)
    module.backoff = 0.5
    assert module.learning_rate(9) == pytest.approx(0.5)


def test_losses_are_named_and_add_up(image_recipe):
    module = fit(make(image_recipe(steps=3, warmup=0.0)))
    means = module.take_means()
    weight = module.tokenizer.quantizer.commitment
    assert means["loss"] == pytest.approx(means["l1"] + weight * means["commitment"], rel=1e-5)
    assert module.take_means() == {}


@pytest.mark.parametrize("gan", [{}, {"start": 0.0, "width": 4, "layers": 2}])
def test_a_step_that_is_not_finite_changes_nothing(image_recipe, gan):
    recipe = image_recipe(steps=6, warmup=0.0, gan=gan)
    data = [batches(n) for n in range(6)]
    data[3] = torch.full(SHAPE, torch.nan)
    states, counts = [], []

    def look(m):
        states.append({k: v.clone() for k, v in m.state_dict().items()})
        counts.append((m.skipped, m.backoff))

    module = fit(make(recipe), look, data)
    assert [s for s, _ in counts] == [0, 0, 0, 1, 1, 1]
    for name, value in states[2].items():
        assert torch.equal(value, states[3][name]), name
    assert counts[3][1] == 0.5 and counts[2][1] == 1.0 and 0.5 < counts[5][1] < 0.6
    assert any(not torch.equal(states[4][n], v) for n, v in states[3].items())
    assert all(bool(torch.isfinite(v.float()).all()) for v in module.state_dict().values())


def test_gradients_that_are_not_finite_change_no_weight(image_recipe):
    """Features and loss are finite; one gradient is not."""
    module = make(image_recipe(steps=4, warmup=0.0))
    weight = module.tokenizer.backbone.last_weight
    states = []

    def poison(gradient):
        return torch.full_like(gradient, math.inf) if module.step == 3 else gradient

    weight.register_hook(poison)
    fit(module, lambda m: states.append([p.detach().clone() for p in m.parameters()]))
    assert module.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(states[1], states[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(states[2], states[3], strict=True))


def test_too_many_in_a_row_end_the_run_with_advice(image_recipe):
    recipe = image_recipe(steps=10, patience=3)
    data = [batches(n) for n in range(10)]
    for n in (1, 2, 4, 5, 6):
        data[n] = torch.full(SHAPE, torch.inf)
    module = make(recipe)
    with pytest.raises(VqError, match="step 7: the data is not finite, 3 steps in a row"):
        fit(module, data=data)
    assert module.skipped == 5


def test_draws_of_a_step_depend_on_seed_and_step_alone(image_recipe):
    def draws(seed, disturb):
        found = []

        def look(m):
            found.append(float(torch.rand(())))
            if disturb:
                torch.rand(100)

        fit(make(image_recipe(steps=3), seed), look)
        return found

    assert draws(0, False) == draws(0, True) != draws(1, False)


def test_quantizer_parameters_do_not_decay(image_recipe):
    quantizer = {"kind": "vq", "codebook": "kmeans(dim=8, entries=32)", "learn": "gradient"}
    module = make(image_recipe(quantizer=quantizer, weight_decay=0.1))
    groups = module.configure_optimizers().param_groups
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert groups[1]["params"][0] is module.tokenizer.quantizer.table
