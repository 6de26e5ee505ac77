"""What `two_stage_search` promises; run it with `pytest plugins/dicm_search/tests`."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicm_kit import FieldError, HistoryShapes, Interest, InterestAggregator, NestedAggregator, side_by_side
from dicm_kit.testing import AggregatorContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_search import TwoStageSearch, TwoStageSearchConfig, build, dicm_interest_aggregators

SHAPES = HistoryShapes(
    query={"image": 3, "target.item_id": 4, "target.category": 2},
    history={"image": 3, "item_id": 4, "category": 5, "age": 1},
    values=("image",),
    max_length=12,
)

Given = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


class TestTwoStageSearch(AggregatorContract):
    component = dicm_interest_aggregators()[0]


class Weighing(InterestAggregator):
    """The second stage of these tests: sums by age, looks at everything it gets, and remembers it."""

    uses_target = True
    out_dim = 3

    def forward(
        self,
        query: Mapping[str, torch.Tensor],
        history: Mapping[str, torch.Tensor],
        mask_BL: torch.Tensor,
        need_weights: bool = False,
    ) -> Interest:
        self.got = {name: history[name] for name in ("image", "age")}, mask_BL
        vectors_BLD = side_by_side(history, ("image",), mask_BL)
        weight_BL = torch.where(mask_BL, history["age"].squeeze(-1), 0)
        vector_BD = torch.einsum("bl,bld->bd", weight_BL, vectors_BLD)
        return Interest(vector_BD, weight_BL.unsqueeze(1) if need_weights else None)


def given(rows: int = 6, length: int = 12) -> Given:
    """Returns query, history with NaN in empty slots, and mask; row 0 is empty, row 1 full, row 2 has two clicks."""
    generator = torch.Generator().manual_seed(4)
    mask_BL = torch.rand(rows, length, generator=generator) < 0.7
    mask_BL[0], mask_BL[1], mask_BL[2] = False, True, torch.arange(length) % 6 == 5
    empty_BL1 = ~mask_BL.unsqueeze(-1)
    query = {"image": torch.randn(rows, 3, generator=generator, dtype=torch.float64)}
    image_BLI = torch.randn(rows, length, 3, generator=generator, dtype=torch.float64)
    age_BL1 = torch.rand(rows, length, 1, generator=generator, dtype=torch.float64)
    history = {"image": image_BLI.masked_fill(empty_BL1, torch.nan), "age": age_BL1.masked_fill(empty_BL1, torch.nan)}
    return query, history, mask_BL


def search(k: int, similarity: str = "cosine") -> TwoStageSearch:
    return TwoStageSearch(Weighing(), k, "image", "image", similarity)


def by_hand(inputs: Given, k: int, similarity: str) -> list[list[int]]:
    """Which filled slots are chosen: by a stable sort, row by row."""
    query, history, mask_BL = inputs
    chosen = []
    for row in range(len(mask_BL)):
        target, clicks = query["image"][row].numpy(), history["image"][row].detach().numpy()
        filled = [slot for slot in range(len(clicks)) if mask_BL[row, slot]]
        length = {slot: np.linalg.norm(clicks[slot]) if similarity == "cosine" else 1.0 for slot in filled}
        best = sorted(filled, key=lambda slot: -float(clicks[slot] @ target) / length[slot])
        chosen.append(sorted(best[:k]))
    return chosen


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("k", [1, 3, 5, 11])
def test_it_pools_the_k_most_similar_found_by_hand(k: int, similarity: str) -> None:
    query, history, mask_BL = inputs = given()
    aggregator = search(k, similarity)
    interest = aggregator(query, history, mask_BL, need_weights=True)
    expected = np.zeros((6, 3))
    weights = np.zeros((6, 12))
    for row, slots in enumerate(by_hand(inputs, k, similarity)):
        for slot in slots:
            weights[row, slot] = history["age"][row, slot, 0]
            expected[row] += weights[row, slot] * history["image"][row, slot].numpy()
    np.testing.assert_allclose(interest.vector.numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(interest.weights[:, 0].numpy(), weights)
    got, mask_BK = aggregator.then.got
    assert got["image"].shape == (6, k, 3)
    assert mask_BK.sum(dim=1).tolist() == mask_BL.sum(dim=1).clamp(max=k).tolist()


def test_a_history_of_k_clicks_is_not_searched() -> None:
    query, history, mask_BL = given()
    for k in (12, 50):
        aggregator = search(k)
        vector = aggregator(query, history, mask_BL).vector
        assert aggregator.then.got[1] is mask_BL
        torch.testing.assert_close(vector, Weighing()(query, history, mask_BL).vector)
    none = search(3)(query, {name: each[:, :0] for name, each in history.items()}, mask_BL[:, :0])
    assert none.vector.tolist() == [[0.0] * 3] * 6


def test_of_equal_clicks_the_newer_ones_go_on_in_their_order() -> None:
    target = torch.tensor([[1.0, 0.0, 0.0]])
    same = torch.tensor([[[2.0, 0.0, 0.0]]]).expand(1, 9, 3).clone()
    same[0, 6] = torch.tensor([0.5, 0.0, 0.0])  # as near by the cosine, farther by the inner product
    mask_BL = torch.tensor([[False, True, True, False, True, True, True, True, True]])
    slots = {kind: search(4, kind).chosen(target, same, mask_BL).tolist() for kind in ("cosine", "dot")}
    assert slots == {"cosine": [[1, 2, 4, 5]], "dot": [[1, 2, 4, 5]]}
    same[0, 8] = torch.tensor([9.0, 0.0, 0.0])
    assert search(4, "dot").chosen(target, same, mask_BL).tolist() == [[1, 2, 4, 8]]
    nowhere = torch.zeros(1, 3)  # a target without a picture: the newest go on
    assert search(4).chosen(nowhere, same, mask_BL).tolist() == [[1, 2, 4, 5]]


def test_only_chosen_slots_have_a_gradient() -> None:
    query, history, mask_BL = inputs = given()
    history["image"].requires_grad_()
    search(3)(query, history, mask_BL).vector.sum().backward()
    touched = history["image"].grad.abs().sum(dim=-1) > 0
    assert [row.nonzero().flatten().tolist() for row in touched] == by_hand(inputs, 3, "cosine")


def test_a_vector_that_nobody_asks_for_is_not_gathered() -> None:
    query, history, mask_BL = given()

    class Strict(dict[str, torch.Tensor]):
        def __getitem__(self, name: str) -> torch.Tensor:
            assert name in ("image", "age"), name
            return super().__getitem__(name)

    search(3)(query, Strict(history, item_id=torch.zeros(())), mask_BL)


def test_mixed_precision_chooses_the_same() -> None:
    query, history, mask_BL = given(rows=6, length=12)
    query, history = {"image": query["image"].float()}, {name: each.float() for name, each in history.items()}
    expected = search(5).chosen(query["image"], history["image"], mask_BL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(search(5).chosen(query["image"], history["image"], mask_BL), expected)


def nested(make: Callable[[HistoryShapes], InterestAggregator]) -> NestedAggregator:
    """Stands for `then: {name: ...}` of a recipe."""
    then = NestedAggregator(name="weighing")
    then.bind("then", make)
    return then


def test_the_second_stage_is_built_for_k_slots() -> None:
    lengths: list[int] = []

    def make(shapes: HistoryShapes) -> InterestAggregator:
        lengths.append(shapes.max_length)
        return Weighing()

    for k in (5, 50):
        assert build(TwoStageSearchConfig(then=nested(make), k=k), SHAPES).out_dim == 3
    assert lengths == [5, 12]
    built = build(TwoStageSearchConfig(then=nested(make), by="item_id"), SHAPES)
    assert (built.by, built.of_target) == ("item_id", "target.item_id")
    ids = replace(SHAPES, values=("item_id",), history={"item_id": 4, "age": 1})
    assert build(TwoStageSearchConfig(then=nested(make)), ids).by == "item_id"


@pytest.mark.parametrize(
    ("keys", "shapes", "words"),
    [
        ({"k": 0}, SHAPES, "`k`: must be at least 1"),
        ({"by": "items"}, SHAPES, "Known here: image, item_id, category"),
        ({"by": "age"}, SHAPES, "`age` is not in this slot's history"),
        ({"by": "category"}, SHAPES, "`target.category` is 2 wide, and the history's `category` 5"),
        ({}, replace(SHAPES, query={"target.item_id": 4}), "Set `images.target: true`"),
        ({"by": "item_id"}, replace(SHAPES, query={}), "Give `features.target` the column `item_id`"),
    ],
)
def test_what_it_refuses(keys: dict[str, object], shapes: HistoryShapes, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(TwoStageSearchConfig(then=nested(lambda shapes: Weighing()), **keys), shapes)
    assert words in str(caught.value)
