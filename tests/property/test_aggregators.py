"""Laws of every registered aggregator, of pictures and of ids: what it must not read, and what it must."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dicm_kit.interfaces import HistoryShapes
from dicm_kit.registry import Registry

QUERY = {"image": 3, "target.item_id": 4, "target.tags": 2, "user.age": 2}
HISTORY = {"image": 3, "item_id": 4, "tags": 2, "age": 1}
SLOTS = {"images": ("image",), "ids": ("item_id", "tags")}
LONGEST = 9
PROVIDED = {each.component.name: each.component for each in Registry().provided("interest_aggregator")}


def variants():
    """Yields every aggregator by a name: in each slot, and with each value of the options that are words."""
    for component, (slot, values) in itertools.product(PROVIDED.values(), SLOTS.items()):
        shapes = HistoryShapes(QUERY, HISTORY, values, LONGEST)
        for softmax in (False, True) if hasattr(component.config(), "softmax") else (None,):
            config = component.config() if softmax is None else component.config(softmax=softmax)
            for queries in (None, ["user.age"]) if hasattr(config, "queries") else (None,):
                chosen = config if queries is None else dataclasses.replace(config, queries=queries)
                name = " ".join(filter(None, (component.name, slot, softmax and "softmax", queries and "of the user")))
                yield name, lambda component=component, config=chosen, shapes=shapes: component.build(config, shapes)


AGGREGATORS = dict(variants())
everywhere = pytest.mark.parametrize("make", AGGREGATORS.values(), ids=AGGREGATORS.keys())


@st.composite
def histories(draw):
    """Filled slots anywhere, rows without any, and what stands in the empty ones."""
    length, rows = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    mask = draw(st.lists(st.lists(st.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows))
    poison = draw(st.sampled_from([0.0, 1e30, float("nan"), float("inf"), float("-inf")]))
    extra = draw(st.integers(0, LONGEST - length))
    return torch.tensor(mask), poison, extra, draw(st.integers(0, 2**16))


def inputs(make, rows, length, seed):
    torch.manual_seed(seed)
    aggregator = make()
    query = {name: torch.randn(rows, dim, requires_grad=True) for name, dim in QUERY.items()}
    history = {name: torch.randn(rows, length, dim, requires_grad=True) for name, dim in HISTORY.items()}
    return aggregator, query, history


def test_all_of_ours_are_here():
    assert set(PROVIDED) == {"sum", "mean", "max", "concat", "attention", "multi_query_attention"}
    assert len(AGGREGATORS) == 2 * (4 + 2 * 4)


@everywhere
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=histories())
def test_padding_changes_nothing(make, case):
    mask, poison, extra, seed = case
    rows, length = mask.shape
    aggregator, query, history = inputs(make, rows, length, seed)
    expected = aggregator(query, history, mask, need_weights=True)
    expected.vector.sum().backward()
    gradients = [each.grad.clone() for each in aggregator.parameters()]
    aggregator.zero_grad()
    # Poison in the empty slots, and empty slots at the end.
    longer = torch.cat([mask, torch.zeros(rows, extra, dtype=torch.bool)], dim=1)
    poisoned = {}
    for name, vectors in history.items():
        padded = torch.cat([vectors.detach(), torch.zeros(rows, extra, vectors.shape[2])], dim=1)
        poisoned[name] = torch.where(longer.unsqueeze(-1), padded, poison).requires_grad_()
    got = aggregator(query, poisoned, longer, need_weights=True)
    torch.testing.assert_close(got.vector, expected.vector, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.weights[:, :, :length], expected.weights, rtol=1e-5, atol=1e-6)
    assert (got.weights.masked_select(~longer.unsqueeze(1)) == 0).all()
    got.vector.sum().backward()
    for name in aggregator.values:
        assert (poisoned[name].grad[~longer] == 0).all()
        torch.testing.assert_close(poisoned[name].grad[:, :length], history[name].grad, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(aggregator.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    assert (got.vector[~mask.any(dim=1)] == 0).all(), "an empty history gives zeros"


@everywhere
@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=histories(), data=st.data())
def test_rows_are_alone_and_slots_have_no_order_but_where_declared(make, case, data):
    mask, _, _, seed = case
    rows, length = mask.shape
    aggregator, query, history = inputs(make, rows, length, seed)
    expected = aggregator(query, history, mask).vector
    row_order = torch.tensor(data.draw(st.permutations(range(rows))))
    slot_order = torch.arange(length)
    if not aggregator.uses_order:
        slot_order = torch.tensor(data.draw(st.permutations(range(length))))
    shuffled = {name: vectors[row_order][:, slot_order] for name, vectors in history.items()}
    got = aggregator({k: v[row_order] for k, v in query.items()}, shuffled, mask[row_order][:, slot_order]).vector
    torch.testing.assert_close(got, expected[row_order], rtol=1e-4, atol=1e-5)


@everywhere
def test_rows_do_not_see_each_other(make):
    aggregator, query, history = inputs(make, 3, 4, seed=1)
    mask = torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    aggregator(query, history, mask).vector[1].sum().backward()
    for vectors in (*query.values(), *history.values()):
        assert vectors.grad is None or (vectors.grad[[0, 2]] == 0).all()


@everywhere
def test_what_it_says_it_uses_it_uses(make):
    """Order where it says so; all queries that it names and no other; every column of every filled slot."""
    aggregator, query, history = inputs(make, 2, 5, seed=1)
    mask = torch.ones(2, 5, dtype=torch.bool)
    vector = aggregator(query, history, mask).vector
    turned = aggregator(query, {name: each.flip(1) for name, each in history.items()}, mask).vector
    assert torch.allclose(vector, turned, atol=1e-5) is not aggregator.uses_order
    # Squares: the sum of a softmax's weights has no gradient.
    vector.square().sum().backward()
    asked = {name for name, each in query.items() if each.grad is not None and each.grad.abs().sum() > 0}
    assert asked == set(getattr(aggregator, "queries", ()))
    assert aggregator.uses_target is any(not name.startswith("user.") for name in asked)
    for name in HISTORY:
        gradient = history[name].grad
        if name not in aggregator.values:
            assert gradient is None
        else:  # of a maximum only the slots that have it
            reached = gradient.abs().sum(dim=1 if type(aggregator).__name__ == "MaxPooling" else 2)
            assert (reached > 0).all()
    assert all(each.grad.abs().sum() > 0 for each in aggregator.parameters())


@everywhere
def test_weights_only_when_asked(make):
    aggregator, query, history = inputs(make, 3, 4, seed=1)
    mask = torch.tensor([[True, True, False, True], [False] * 4, [False, True, False, False]])
    without, asked = aggregator(query, history, mask), aggregator(query, history, mask, need_weights=True)
    assert without.weights is None
    assert torch.equal(without.vector, asked.vector)
    assert without.vector.shape == (3, aggregator.out_dim)
    channels = len(aggregator.queries) if type(aggregator).__name__ == "MultiQueryAttention" else 1
    assert asked.weights.shape == (3, channels, 4)
    assert (asked.weights.masked_select(~mask.unsqueeze(1)) == 0).all()
    assert (asked.weights.masked_select(mask.unsqueeze(1)) != 0).any()


@everywhere
def test_no_rows_and_no_filled_slots_train_too(make):
    """A rank whose data has ended still has gradients for every parameter: zeros."""
    for rows in (0, 2):
        aggregator, query, history = inputs(make, rows, 4, seed=1)
        vector = aggregator(query, history, torch.zeros(rows, 4, dtype=torch.bool)).vector
        assert torch.equal(vector, torch.zeros(rows, aggregator.out_dim))
        vector.sum().backward()
        for each in (*aggregator.parameters(), *(history[name] for name in aggregator.values)):
            assert torch.equal(each.grad, torch.zeros_like(each))


@everywhere
def test_bf16(make):
    aggregator, query, history = inputs(make, 3, 5, seed=1)
    mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
    exact = aggregator(query, history, mask).vector
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = aggregator(query, history, mask).vector
    rough.float().sum().backward()
    assert torch.allclose(exact, rough.float(), atol=0.05)


@everywhere
def test_a_copy_with_the_same_weights_gives_the_same(make):
    aggregator, query, history = inputs(make, 3, 5, seed=1)
    other = make()
    other.load_state_dict(aggregator.state_dict())
    mask = torch.ones(3, 5, dtype=torch.bool)
    assert torch.equal(other(query, history, mask).vector, aggregator(query, history, mask).vector)
