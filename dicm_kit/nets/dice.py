"""Dice, DIN's activation: a PReLU whose turning point follows the data."""

import torch
from torch import Tensor, nn

_LONGEST_MEMORY = 100  # steps


class Dice(nn.Module):
    """f(s) = p s + (1 - p) alpha s with p = sigmoid((s - E[s]) / sqrt(Var[s] + 1e-8)): arXiv:1706.06978, eq. 3 and 4.

    [N, D] -> [N, D], one alpha per channel, 0.25 at first (the paper gives no start). E and Var are per channel: of the
    batch while training, running ones afterwards, so that an impression's result depends on the others of its batch
    while training and on nothing else later. The paper says moving average, not which: the running statistics are
    the mean over all steps so far, and from step 100 on move by a hundredth.

    On several ranks each sees its own part of the batch, like BatchNorm: the training of R ranks is not quite that of
    one. The running statistics that count are rank 0's; DDP brings them to the others before each step, `CtrModule`
    before each validation. A batch without rows leaves them alone.
    """

    mean_D: Tensor
    variance_D: Tensor
    steps: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.alpha_D = nn.Parameter(torch.full((dim,), 0.25))
        self.register_buffer("mean_D", torch.zeros(dim))
        self.register_buffer("variance_D", torch.ones(dim))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, s_ND: Tensor) -> Tensor:
        """Returns a tensor of s's shape and type; the statistics are in float32, also under bf16."""
        mean_D, variance_D = self.mean_D, self.variance_D
        if self.training and s_ND.shape[0]:
            variance_D, mean_D = torch.var_mean(s_ND.float(), dim=0, correction=0)
            self._remember(mean_D.detach(), variance_D.detach())
        p_ND = torch.sigmoid((s_ND.float() - mean_D) * torch.rsqrt(variance_D + 1e-8)).to(s_ND.dtype)
        alpha_D = self.alpha_D.to(s_ND.dtype)
        return s_ND * (alpha_D + p_ND * (1 - alpha_D))

    @torch.no_grad()
    def _remember(self, mean_D: Tensor, variance_D: Tensor) -> None:
        self.steps += 1
        share = 1 / self.steps.clamp(max=_LONGEST_MEMORY)  # on the device: nothing waits
        self.mean_D.lerp_(mean_D, share)
        self.variance_D.lerp_(variance_D, share)
