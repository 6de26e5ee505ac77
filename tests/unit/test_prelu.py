"""Our PReLU against torch's."""

import copy

import pytest
import torch
from torch import nn

from dicm_kit.prelu import PReLU


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.5, 1.5])
def test_equals_torchs_and_so_do_the_gradients(slope: float) -> None:
    ours, theirs = PReLU(slope).double(), nn.PReLU(init=slope).double()
    torch.manual_seed(0)
    x = torch.randn(5, 7, 3, dtype=torch.float64)
    x[0, 0] = 0
    weights = torch.randn_like(x)
    grads = []
    for module in (ours, theirs):
        leaf = x.clone().requires_grad_()
        (module(leaf) * weights).sum().backward()
        grads.append((module(x), leaf.grad, module.weight.grad))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_holds_what_torchs_holds() -> None:
    assert {name: value.shape for name, value in PReLU().state_dict().items()} == {"weight": (1,)}
    assert nn.PReLU().load_state_dict(PReLU().state_dict()) is not None


def test_gradient_by_finite_differences() -> None:
    module = PReLU().double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"weight": weight}, x)

    assert torch.autograd.gradcheck(run, (x, module.weight))


def test_works_under_autocast_and_without_rows() -> None:
    net = nn.Sequential(nn.Linear(3, 4), PReLU(), nn.Linear(4, 1))
    exact = copy.deepcopy(net)
    x = torch.randn(6, 3)
    exact(x).sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
        assert out.dtype == torch.bfloat16
        out.sum().backward()
    torch.testing.assert_close(net[1].weight.grad, exact[1].weight.grad, rtol=0.1, atol=0.1)
    assert net[1].weight.grad.dtype == torch.float32
    net.zero_grad()
    net(x[:0]).sum().backward()
    assert net[1].weight.grad.tolist() == [0.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_is_torchs() -> None:
    x = torch.randn(5, 7, device="cuda")
    torch.testing.assert_close(PReLU().cuda()(x), nn.PReLU().cuda()(x))
