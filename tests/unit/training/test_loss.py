import math

import pytest
import torch

from dicm_kit.training.loss import add_over_ranks, share_of_global_mean, summed_loss


def test_weighted_mean_by_hand():
    logit = torch.tensor([0.0, math.log(3.0)], requires_grad=True)  # p = 1/2 and 3/4
    label, weight = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3.0])
    total = summed_loss(logit, label, weight)
    assert total.item() == pytest.approx(math.log(2) + 3 * math.log(4), rel=1e-6)
    totals = add_over_ranks(total, weight, stop=False, num_ranks=1)
    assert (totals.weight, totals.impressions, totals.stop) == (4.0, 2, False)
    assert totals.loss == pytest.approx(total.item() / 4)
    share_of_global_mean(total, totals.weight, 1).backward()
    assert torch.allclose(logit.grad, torch.tensor([-0.5 / 4, 3 * 0.75 / 4]))


def test_shares_of_ranks_average_to_the_global_mean():
    torch.manual_seed(0)
    logit, label, weight = torch.randn(10), (torch.rand(10) < 0.5).float(), torch.rand(10)
    parts = [slice(0, 7), slice(7, 10), slice(10, 10)]  # the third rank has nothing
    shares = [share_of_global_mean(summed_loss(logit[p], label[p], weight[p]), weight.sum().item(), 3) for p in parts]
    whole = torch.nn.functional.binary_cross_entropy_with_logits(logit, label, weight, reduction="sum") / weight.sum()
    assert sum(shares) / 3 == pytest.approx(whole.item(), rel=1e-6)


def test_nothing_at_all_gives_zero_and_stays_connected():
    logit = torch.zeros(0, requires_grad=True)
    total = summed_loss(logit, torch.zeros(0), torch.zeros(0))
    totals = add_over_ranks(total, torch.zeros(0), stop=True, num_ranks=1)
    assert (totals.loss, totals.stop) == (0.0, True)
    share_of_global_mean(total, totals.weight, 1).backward()
    assert logit.grad.shape == (0,)
