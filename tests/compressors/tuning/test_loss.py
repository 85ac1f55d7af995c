import pytest
import torch

from vq.compressors.tuning.loss import Teacher, distance


def by_formula(logits, teacher, labels, mix):
    """The loss written down plainly, for autograd."""
    p = logits.softmax(-1)
    ids, t = teacher.ids.long(), teacher.probabilities.to(logits.dtype)
    inside = p.gather(1, ids)
    rest, t_rest = 1 - inside.sum(1), 1 - t.sum(1)
    kl = (t * (t / inside).log()).sum(1) + t_rest * (t_rest / rest).log()
    known = labels >= 0
    nll = torch.nn.functional.cross_entropy(logits[known], labels[known])
    return (1 - mix) * kl.mean() + mix * nll, kl.mean()


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_loss_and_gradient_are_those_of_the_formula(mix):
    generator = torch.Generator().manual_seed(0)
    teacher = Teacher.of(2 * torch.randn(9, 30, generator=generator), 5)
    logits = 2 * torch.randn(9, 30, generator=generator)
    labels = torch.randint(30, (9,), generator=generator)
    labels[4] = -1
    plain = logits.double().requires_grad_()
    wanted, wanted_kl = by_formula(plain, teacher, labels, mix)
    (slope,) = torch.autograd.grad(3 * wanted, plain)
    tuned = logits.clone().requires_grad_()
    loss, kl = distance(tuned, teacher, labels, mix)
    (found,) = torch.autograd.grad(3 * loss, tuned)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    assert float(kl) == pytest.approx(float(wanted_kl), rel=1e-4)
    assert torch.allclose(found.double(), slope, atol=1e-6)


def test_the_divergence_bounds_the_whole_one_from_below_and_meets_it():
    generator = torch.Generator().manual_seed(1)
    wanted, logits = torch.randn(2, 6, 40, generator=generator)
    p, q = wanted.log_softmax(-1), logits.log_softmax(-1)
    whole = float((p.exp() * (p - q)).sum(-1).mean())
    labels = torch.zeros(6, dtype=torch.int64)
    found = [
        float(distance(logits.clone(), Teacher.of(wanted, k), labels, 0.0)[1]) for k in (4, 20, 39)
    ]
    assert found == sorted(found) and found[0] < whole
    assert found[-1] == pytest.approx(whole, rel=0.01)


def test_no_distance_to_itself():
    logits = torch.randn(5, 20, generator=torch.Generator().manual_seed(2))
    loss, _ = distance(
        logits.clone(), Teacher.of(logits, 8), torch.zeros(5, dtype=torch.int64), 0.0
    )
    assert abs(float(loss)) < 1e-3
