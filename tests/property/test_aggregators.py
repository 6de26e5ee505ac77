"""Laws of every aggregator: padding is not read, rows do not see each other, the order of slots does not matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dicm_kit.interest.attention import (
    AttentionConfig,
    MultiQueryAttentionConfig,
    build_attention,
    build_multi_query_attention,
)
from dicm_kit.interest.pooling import SumConfig, build_sum
from dicm_kit.interfaces import HistoryShapes

SHAPES = HistoryShapes(
    query={"image": 3, "target.item_id": 4},
    history={"image": 3, "item_id": 4, "age": 1},
    values=("image",),
    max_length=8,
)
AGGREGATORS = {
    "sum": lambda: build_sum(SumConfig(), SHAPES),
    "attention": lambda: build_attention(AttentionConfig(), SHAPES),
    "attention, softmax": lambda: build_attention(AttentionConfig(softmax=True), SHAPES),
    "multi_query_attention": lambda: build_multi_query_attention(MultiQueryAttentionConfig(), SHAPES),
    "multi_query_attention, softmax": lambda: build_multi_query_attention(
        MultiQueryAttentionConfig(softmax=True), SHAPES
    ),
}


@st.composite
def histories(draw):
    """Filled slots anywhere, rows without any, and what stands in the empty ones."""
    length, rows = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    mask = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows))
    poison = draw(st.sampled_from([0.0, 1e30, float("nan"), float("inf")]))
    extra = draw(st.integers(0, 3))
    return torch.tensor(mask), poison, extra, draw(st.integers(0, 2**16))


@pytest.mark.parametrize("make", AGGREGATORS.values(), ids=AGGREGATORS.keys())
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=histories())
def test_padding_changes_nothing(make, case):
    mask, poison, extra, seed = case
    torch.manual_seed(seed)
    aggregator = make()
    rows, length = mask.shape
    query = {name: torch.randn(rows, dim) for name, dim in SHAPES.query.items()}
    history = {name: torch.randn(rows, length, dim) for name, dim in SHAPES.history.items()}
    expected = aggregator(query, history, mask, need_weights=True)
    # Poison in the empty slots, and empty slots at the end.
    longer = torch.cat([mask, torch.zeros(rows, extra, dtype=torch.bool)], dim=1)
    poisoned = {}
    for name, vectors in history.items():
        padded = torch.cat([vectors, torch.zeros(rows, extra, vectors.shape[2])], dim=1)
        poisoned[name] = torch.where(longer.unsqueeze(-1), padded, poison).requires_grad_()
    got = aggregator(query, poisoned, longer, need_weights=True)
    torch.testing.assert_close(got.vector, expected.vector, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.weights[:, :, :length], expected.weights, rtol=1e-5, atol=1e-6)
    assert (got.weights.masked_select(~longer.unsqueeze(1)) == 0).all()
    got.vector.sum().backward()
    assert (poisoned["image"].grad[~longer] == 0).all()
    assert all(torch.isfinite(each.grad).all() for each in aggregator.parameters())
    assert (got.vector[~mask.any(dim=1)] == 0).all()


@pytest.mark.parametrize("make", AGGREGATORS.values(), ids=AGGREGATORS.keys())
@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=histories(), data=st.data())
def test_rows_are_alone_and_slots_have_no_order(make, case, data):
    mask, _, _, seed = case
    torch.manual_seed(seed)
    aggregator = make()
    rows, length = mask.shape
    query = {name: torch.randn(rows, dim) for name, dim in SHAPES.query.items()}
    history = {name: torch.randn(rows, length, dim) for name, dim in SHAPES.history.items()}
    expected = aggregator(query, history, mask).vector
    row_order = torch.tensor(data.draw(st.permutations(range(rows))))
    slot_order = torch.tensor(data.draw(st.permutations(range(length))))
    shuffled = {name: vectors[row_order][:, slot_order] for name, vectors in history.items()}
    got = aggregator({k: v[row_order] for k, v in query.items()}, shuffled, mask[row_order][:, slot_order]).vector
    torch.testing.assert_close(got, expected[row_order], rtol=1e-4, atol=1e-5)
