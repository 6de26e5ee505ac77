import torch

from dicm_kit.interest.pooling import SumConfig, build_sum
from dicm_kit.interfaces import HistoryShapes


def test_sums_the_filled_slots_of_each_column():
    shapes = HistoryShapes(query={}, history={"a": 2, "b": 1, "age": 1}, values=("a", "b"), max_length=3)
    pooling = build_sum(SumConfig(), shapes)
    assert (pooling.out_dim, pooling.uses_target) == (3, False)
    history = {
        "a": torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]),
        "b": torch.tensor([[[10.0], [20.0], [float("nan")]]]),
    }
    interest = pooling({}, history, torch.tensor([[True, True, False]]), need_weights=True)
    assert torch.equal(interest.vector, torch.tensor([[4.0, 6.0, 30.0]]))
    assert torch.equal(interest.weights, torch.tensor([[[1.0, 1.0, 0.0]]]))


def test_empty_history_gives_zeros():
    shapes = HistoryShapes(query={}, history={"image": 2}, values=("image",), max_length=3)
    pooling = build_sum(SumConfig(), shapes)
    interest = pooling({}, {"image": torch.full((1, 3, 2), torch.nan)}, torch.zeros(1, 3, dtype=torch.bool))
    assert torch.equal(interest.vector, torch.zeros(1, 2))
    assert interest.weights is None
