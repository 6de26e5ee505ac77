import numpy as np
import pytest
import torch

from dicm_kit.nets.dice import Dice


def plain(s, mean, variance, alpha):
    p = 1 / (1 + np.exp(-(s - mean) / np.sqrt(variance + 1e-8)))
    return p * s + (1 - p) * alpha * s


def dice(dim=3):
    torch.manual_seed(0)
    made = Dice(dim)
    torch.nn.init.normal_(made.alpha_D)
    return made, torch.randn(50, dim) * torch.tensor([0.1, 1.0, 5.0]) + torch.tensor([3.0, 0.0, -2.0])


def test_equals_the_papers_equation():
    made, s = dice()
    x, alpha = s.double().numpy(), made.alpha_D.detach().double().numpy()
    expected = plain(x, x.mean(0), x.var(0), alpha)
    np.testing.assert_allclose(made(s).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    made.eval()  # one step has been seen: the running statistics are its own
    np.testing.assert_allclose(made(s[:7]).detach().numpy(), expected[:7], rtol=1e-4, atol=1e-5)


def test_by_hand():
    made = Dice(1)  # alpha 0.25
    s = torch.tensor([[1.0], [3.0]])  # mean 2, deviation 1: p = sigmoid(-1), sigmoid(1) = .268941, .731059
    torch.testing.assert_close(made(s), torch.tensor([[0.451706], [2.394882]]), rtol=1e-5, atol=1e-6)
    assert (made.mean_D.item(), made.variance_D.item(), made.steps.item()) == (2.0, 1.0, 1.0)


def test_running_statistics_are_the_mean_over_steps_then_move_slowly():
    made = Dice(1)
    for value in (1.0, 2.0, 6.0):
        made(torch.tensor([[value - 1], [value + 1]]))
    assert made.mean_D.item() == pytest.approx(3.0)
    made.steps.fill_(1000)
    made(torch.tensor([[102.0], [104.0]]))
    assert made.mean_D.item() == pytest.approx(3.0 + (103 - 3) / 100)


def test_later_no_row_sees_another_and_nothing_changes():
    made, s = dice()
    made(s)
    made.eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    together = made(s)
    alone = torch.cat([made(row.unsqueeze(0)) for row in s])
    torch.testing.assert_close(together, alone)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    other = Dice(3)
    other.load_state_dict(before)
    assert torch.equal(other.eval()(s), together)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_few_rows_give_no_nan(rows):
    made, s = dice()
    s = s[:rows].requires_grad_()
    made(s).sum().backward()
    assert torch.isfinite(s.grad).all()
    assert torch.isfinite(made.alpha_D.grad).all()
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())
    assert made.steps.item() == (1 if rows else 0)


def test_equal_rows_give_no_nan():
    made = Dice(2)
    s = torch.full((4, 2), 7.0, requires_grad=True)
    made(s).sum().backward()
    assert torch.isfinite(s.grad).all()


def test_gradients_go_through_the_statistics():
    """Against the equation, composed of single operations in float64."""
    made, s = dice()
    weights = torch.randn(50, 3)
    s.requires_grad_()
    (made(s) * weights).sum().backward()
    x = s.detach().double().requires_grad_()
    alpha = made.alpha_D.detach().double().requires_grad_()
    centred = x - x.mean(dim=0)
    p = torch.sigmoid(centred / (centred.square().mean(dim=0) + 1e-8).sqrt())
    ((p * x + (1 - p) * alpha * x) * weights).sum().backward()
    torch.testing.assert_close(s.grad, x.grad.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.alpha_D.grad, alpha.grad.float(), rtol=1e-4, atol=1e-4)


def test_bf16():
    made, s = dice()
    rough = made(s.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), made(s), rtol=0.05, atol=0.05)
    assert made.mean_D.dtype == torch.float32
