"""Binary cross-entropy, averaged over the batch of all ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class StepTotals:
    """What all ranks' parts of a step add up to."""

    loss: float
    """Weighted mean over the global batch."""
    weight: float
    impressions: int
    stop: bool
    """A rank asked to stop after this step (Ctrl-C)."""
    save: bool = False
    """A rank asked for a checkpoint after this step."""


def summed_loss(logit_N: Tensor, label_N: Tensor, weight_N: Tensor) -> Tensor:
    """Returns sum(weight * cross-entropy) in float32; 0, connected to every logit's graph, for N = 0."""
    return F.binary_cross_entropy_with_logits(logit_N.float(), label_N.float(), weight_N.float(), reduction="sum")


def add_over_ranks(loss_sum: Tensor, weight_N: Tensor, stop: bool, num_ranks: int, save: bool = False) -> StepTotals:
    """Adds loss, weight and impressions of all ranks: 40 bytes, one all-reduce, none on one rank.

    Every rank calls it once in each step, after its forward and before its backward. All get the same numbers, so a
    loss that is not finite, or a wish to stop or to save, is seen by all in the same step.
    """
    numbers = [0.0, 0.0, float(weight_N.numel()), float(stop), float(save)]
    mine = torch.tensor(numbers, dtype=torch.float64, device=loss_sum.device)
    mine[0] = loss_sum.detach()
    mine[1] = weight_N.sum(dtype=torch.float64)
    if num_ranks > 1:
        torch.distributed.all_reduce(mine)
    loss, weight, impressions, stops, saves = mine.tolist()
    return StepTotals(loss / weight if weight else loss, weight, int(impressions), stops > 0, saves > 0)


def share_of_global_mean(loss_sum: Tensor, total_weight: float, num_ranks: int) -> Tensor:
    """Returns R * sum(my losses) / total weight, whose average over R ranks is the mean over the global batch.

    DDP averages gradients over ranks; so their average is the gradient of the global mean, also where ranks have
    different numbers of impressions, or none.
    """
    return loss_sum * (num_ranks / total_weight if total_weight else 0.0)
