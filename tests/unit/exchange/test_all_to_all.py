"""The exchange of one rank."""

import torch

from dicm_kit.exchange.all_to_all import LocalExchange


def test_one_rank_serves_itself_and_gradients_pass() -> None:
    exchange = LocalExchange()
    weight = torch.ones(2, requires_grad=True)
    asked = []

    def compute(keys_V: torch.Tensor) -> torch.Tensor:
        asked.append(keys_V.tolist())
        return keys_V[:, None] * weight

    vectors_UD = exchange.fetch(torch.tensor([4, 7]), compute)
    vectors_UD.sum().backward()
    assert asked == [[4, 7]]
    assert vectors_UD.tolist() == [[4, 4], [7, 7]]
    assert weight.grad is not None
    assert weight.grad.tolist() == [11, 11]
    traffic = exchange.traffic
    assert (traffic.fetches, traffic.asked, traffic.served, traffic.bytes_sent) == (1, 2, 2, 0)
    assert traffic.compute_seconds > 0
    assert (exchange.rank, exchange.num_ranks) == (0, 1)
