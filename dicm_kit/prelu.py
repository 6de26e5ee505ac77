"""PReLU, as fast on CPU as leaky ReLU."""

from typing import Any

import torch
from torch import Tensor, nn


class PReLU(nn.Module):
    """max(0, x) + slope * min(0, x), one learnable slope, 0.25 at first, as `nn.PReLU()`.

    On CPU torch's own PReLU is several times slower than the same mathematics through its leaky-ReLU kernels; those
    take the slope as a plain number, so there is one slope per layer and not one per channel.
    """

    def __init__(self, init: float = 0.25):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([init]))

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of x's shape and type."""
        if x.device.type != "cpu":  # reading the slope would wait for the device, and its own kernel is fast
            return nn.functional.prelu(x, self.weight.to(x.dtype))
        return _LeakyPReLU.apply(x, self.weight)


class _LeakyPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return nn.functional.leaky_relu(x, weight.item())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.leaky_relu_backward(grad, x, weight.item(), False)
        if ctx.needs_input_grad[1]:
            # sum(grad * min(0, x)), in the slope's own precision: bf16 would lose all but the first terms
            grad_weight = (grad * x.clamp(max=0)).sum(dtype=weight.dtype).reshape(1)
        return grad_x, grad_weight
