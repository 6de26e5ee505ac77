"""DESIGN's example on two ranks, with numbers worked out by hand."""

import pytest
import torch
from torch import distributed

from dicm_kit.exchange.all_to_all import RankExchange
from dicm_kit.exchange.owner import owner, partition

# 3 partitions: key 4 lies in 0, so rank 0 owns it, key 7 in 1
PARTITIONS = 3
ASKS = ([4, 7], [7])
DIM = 3


def fetch(rank, num_ranks):
    """e4 = 4 * weight, e7 = 7 * weight, of `weight` = (1, 10, 100)."""
    group = distributed.new_group()
    exchange = RankExchange(group, PARTITIONS)
    weight_I, computed = torch.tensor([1.0, 10.0, 100.0], requires_grad=True), []

    def compute(keys_V):
        computed.append(keys_V.tolist())
        vectors_VI = keys_V[:, None] * weight_I
        vectors_VI.register_hook(lambda grad_VI: computed.append(grad_VI.tolist()))
        return vectors_VI

    vectors_UI = exchange.fetch(torch.tensor(ASKS[rank]), compute)
    # rank 0 weighs e4 by 1 and e7 by 2, rank 1 weighs e7 by 30
    (vectors_UI * torch.tensor([[1.0], [2.0]] if rank == 0 else [[30.0]])).sum().backward()
    distributed.destroy_process_group(group)
    return vectors_UI.tolist(), computed, weight_I.grad.tolist(), exchange.traffic


def test_two_ranks_by_hand(ranks):
    assert owner(partition(torch.tensor([4, 7]), PARTITIONS), 2).tolist() == [0, 1]
    (got0, computed0, grad0, sent0), (got1, computed1, grad1, sent1) = ranks.run(2, fetch)
    e4, e7 = [4.0, 40.0, 400.0], [7.0, 70.0, 700.0]
    assert got0 == [e4, e7]
    assert got1 == [e7]
    assert computed0 == [[4], [[1.0] * DIM]]  # what it computed, and the gradient that came home
    assert computed1 == [[7], [[32.0] * DIM]]  # rank 0's 2 and rank 1's 30
    assert grad0 == [4.0] * DIM
    assert grad1 == [7.0 * 32] * DIM
    # rank 0 asks rank 1 for one key, and returns its gradient; rank 1 sends one vector
    assert (sent0.sizes_bytes, sent0.keys_bytes, sent0.vectors_bytes, sent0.gradients_bytes) == (8, 8, 0, 4 * DIM)
    assert (sent1.sizes_bytes, sent1.keys_bytes, sent1.vectors_bytes, sent1.gradients_bytes) == (8, 0, 4 * DIM, 0)
    assert (sent0.asked, sent0.served, sent1.asked, sent1.served) == (2, 1, 1, 1)
    assert sent0.bytes_sent + sent1.bytes_sent == 48
    assert sent0 - sent0 == type(sent0)()


def fetch_half(rank, num_ranks, dtype):
    group = distributed.new_group()
    exchange = RankExchange(group, PARTITIONS)
    vectors_UD = exchange.fetch(torch.tensor([4, 7]), lambda keys_V: keys_V[:, None].expand(-1, 8).to(dtype))
    distributed.destroy_process_group(group)
    return vectors_UD, exchange.traffic.vectors_bytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_vectors_travel_in_their_own_type(ranks, dtype):
    for vectors_UD, num_bytes in ranks.run(2, fetch_half, dtype):
        assert vectors_UD.dtype == dtype
        assert vectors_UD[:, 7].tolist() == [4, 7]
        assert num_bytes == 8 * dtype.itemsize  # the one key that the other rank does not own
