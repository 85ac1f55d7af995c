import pytest
import torch

from vq.quantizers.estimators import estimator, rotation_trick, straight_through


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation_matrix(z, q):
    """The scaled rotation that takes z to q, from the plane they span: nothing of the formula under test."""
    u, v = z / z.norm(), q / q.norm()
    w = v - (u @ v) * u
    w = w / w.norm()
    cos, sin = u @ v, (1 - (u @ v) ** 2).sqrt()
    plane = torch.stack([u, w], 1)
    turn = torch.stack([torch.stack([cos - 1, -sin]), torch.stack([sin, cos - 1])])
    return q.norm() / z.norm() * (torch.eye(len(z), dtype=z.dtype) + plane @ turn @ plane.t())


def test_straight_through():
    x, values = draw(5, 3).requires_grad_(), draw(5, 3, seed=1).requires_grad_()
    found = straight_through(x, values)
    assert torch.equal(found, values)
    grad = draw(5, 3, seed=2)
    found.backward(grad)
    assert torch.equal(x.grad, grad) and values.grad is None


def test_rotation_is_the_rotation():
    x, values = draw(20, 6).requires_grad_(), draw(20, 6, seed=1)
    found = rotation_trick(x, values)
    assert torch.equal(found, values)
    grad = draw(20, 6, seed=2)
    found.backward(grad)
    for n in range(20):
        matrix = rotation_matrix(x[n].detach(), values[n])
        torch.testing.assert_close(matrix @ x[n].detach(), values[n])
        torch.testing.assert_close(x.grad[n], matrix.t() @ grad[n], rtol=1e-4, atol=1e-5)
        rigid = matrix.t() @ matrix / (values[n].norm() / x[n].detach().norm()) ** 2
        torch.testing.assert_close(rigid, torch.eye(6, dtype=torch.float64))


def test_rotation_without_a_direction_passes_the_gradient():
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]], requires_grad=True)
    values = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, -4.0]])
    rotation_trick(x, values).backward(torch.ones(3, 2))
    assert torch.equal(x.grad, torch.ones(3, 2))


def test_rotation_of_a_vector_onto_itself_changes_nothing():
    x = draw(4, 5).requires_grad_()
    rotation_trick(x, x.detach()).backward(draw(4, 5, seed=1))
    torch.testing.assert_close(x.grad, draw(4, 5, seed=1), rtol=1e-5, atol=1e-6)


def test_unknown_names():
    with pytest.raises(ValueError, match="rotation"):
        estimator("rotate")
