"""What `recency` promises; run it with `pytest plugins/example_aggregator/tests`."""

import sys
from pathlib import Path

import pytest
import torch

from dicm_kit import FieldError, HistoryShapes
from dicm_kit.testing import AggregatorContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_example_aggregator import RecencyConfig, build, dicm_interest_aggregators

SHAPES = HistoryShapes(query={}, history={"image": 2, "age": 1}, values=("image",), max_length=3)


class TestRecency(AggregatorContract):
    component = dicm_interest_aggregators()[0]
    configs = ({}, {"half_life": 2.0})


def test_a_click_half_life_days_older_weighs_half() -> None:
    aggregator = build(RecencyConfig(half_life=2.0), SHAPES)
    history = {"image": torch.tensor([[[3.0, 0.0], [0.0, 3.0]]]), "age": torch.tensor([[[1.0], [3.0]]])}
    interest = aggregator({}, history, torch.tensor([[True, True]]), need_weights=True)
    torch.testing.assert_close(interest.vector, torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(interest.weights, torch.tensor([[[2 / 3, 1 / 3]]]))


def test_empty_slots_do_not_count_and_an_empty_history_gives_zeros() -> None:
    aggregator = build(RecencyConfig(), SHAPES)
    history = {"image": torch.tensor([[[3.0, 6.0], [torch.nan, 9.0]]] * 2), "age": torch.zeros(2, 2, 1)}
    vector = aggregator({}, history, torch.tensor([[True, False], [False, False]])).vector
    torch.testing.assert_close(vector, torch.tensor([[3.0, 6.0], [0.0, 0.0]]))


def test_a_half_life_of_zero_is_refused() -> None:
    with pytest.raises(FieldError, match="must be above 0"):
        build(RecencyConfig(half_life=0.0), SHAPES)
