"""Our aggregators keep what they promise."""

from dicm_kit.builtin import dicm_interest_aggregators
from dicm_kit.testing import AggregatorContract

OURS = {each.name: each for each in dicm_interest_aggregators()}


class TestSum(AggregatorContract):
    component = OURS["sum"]


class TestMean(AggregatorContract):
    component = OURS["mean"]


class TestMax(AggregatorContract):
    component = OURS["max"]


class TestConcat(AggregatorContract):
    component = OURS["concat"]


class TestAttention(AggregatorContract):
    component = OURS["attention"]


class TestMultiQueryAttention(AggregatorContract):
    component = OURS["multi_query_attention"]
