"""What `sa_ta` promises: the paper's equations, worked out by hand; run it with `pytest plugins/dicm_muse/tests`."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicm_kit import FieldError, HistoryShapes
from dicm_kit.testing import AggregatorContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_muse import SaTa, SaTaConfig, build, dicm_interest_aggregators

SHAPES = HistoryShapes(
    query={"image": 3, "target.item_id": 4, "target.category": 2, "user.user_id": 5},
    history={"image": 3, "item_id": 4, "category": 2, "age": 1},
    values=("image",),
    max_length=7,
)

Given = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


class TestSaTa(AggregatorContract):
    component = dicm_interest_aggregators()[0]


def given(rows: int = 5, length: int = 7) -> Given:
    """Returns query, history with NaN in empty slots, and mask; row 0 has an empty history, row 1 a full one."""
    generator = torch.Generator().manual_seed(2)
    mask_BL = torch.rand(rows, length, generator=generator) < 0.6
    mask_BL[0], mask_BL[1] = False, True
    query = {
        name: torch.randn(rows, width, generator=generator, dtype=torch.float64) for name, width in SHAPES.query.items()
    }
    history = {
        name: torch.randn(rows, length, width, generator=generator, dtype=torch.float64).masked_fill(
            ~mask_BL.unsqueeze(-1), torch.nan
        )
        for name, width in SHAPES.history.items()
    }
    return query, history, mask_BL


def made(config: SaTaConfig) -> SaTa:
    torch.manual_seed(0)
    aggregator = build(config, SHAPES).double()
    torch.nn.init.normal_(aggregator.fusion)  # not 1, 1, 1: each must be in its place
    return aggregator


def by_hand(aggregator: SaTa, inputs: Given, columns: list[str], queries: list[str], scale: float) -> np.ndarray:
    """Equations 2, 4 and 5 of arXiv:2512.07216, row by row and slot by slot."""
    query, history = ({name: each.numpy() for name, each in side.items()} for side in inputs[:2])
    w_q, w_k, w_v = (
        each.weight.detach().numpy().T for each in (aggregator.of_query, aggregator.of_key, aggregator.of_value)
    )
    g1, g2, g3 = aggregator.fusion.tolist()
    width = w_q.shape[1]
    result = np.zeros((len(query["image"]), width))
    for row in range(len(result)):
        e_a, v_a = np.concatenate([query[name][row] for name in queries]), query["image"][row]
        scores, values = [], []
        for slot in np.flatnonzero(inputs[2][row].numpy()):
            e_i, v_i = np.concatenate([history[name][row, slot] for name in columns]), history["image"][row, slot]
            r = scale * float(v_a @ v_i) / math.sqrt(float(v_a @ v_a)) / math.sqrt(float(v_i @ v_i))
            a_id = float((e_i @ w_k) @ (e_a @ w_q)) / math.sqrt(width)
            scores.append(g1 * a_id + g2 * r + g3 * a_id * r)
            values.append(e_i @ w_v)
        total = sum(math.exp(score) for score in scores)
        for score, value in zip(scores, values, strict=True):
            result[row] += math.exp(score) / total * value
    return result


def test_it_is_the_papers_equations_by_hand() -> None:
    inputs = given()
    aggregator = made(SaTaConfig())
    expected = by_hand(aggregator, inputs, ["item_id", "category"], ["target.item_id", "target.category"], 1.0)
    np.testing.assert_allclose(aggregator(*inputs).vector.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_so_it_is_with_every_key_set() -> None:
    inputs = given()
    config = SaTaConfig(columns=["item_id"], queries=["user.user_id", "image"], width=6, similarity_scale=10.0)
    aggregator = made(config)
    expected = by_hand(aggregator, inputs, ["item_id"], ["user.user_id", "image"], 10.0)
    np.testing.assert_allclose(aggregator(*inputs).vector.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_weights_are_shares_of_the_filled_slots() -> None:
    query, history, mask_BL = given()
    interest = made(SaTaConfig())(query, history, mask_BL, need_weights=True)
    assert interest.weights.shape == (5, 1, 7)
    torch.testing.assert_close(interest.weights.sum(dim=(1, 2)), mask_BL.any(dim=1).double())
    assert bool((interest.weights[:, 0][~mask_BL] == 0).all())
    assert interest.vector[0].tolist() == [0.0] * 6


def test_a_click_that_looks_like_the_target_weighs_more_where_ids_say_nothing() -> None:
    query, history, mask_BL = given()
    aggregator = build(SaTaConfig(), SHAPES).double()
    history["image"][1, 3] = query["image"][1]
    with torch.no_grad():
        aggregator.of_key.weight.zero_()
    weight_L = aggregator(query, history, mask_BL, need_weights=True).weights[1, 0]
    assert weight_L.argmax() == 3


def test_ids_and_pictures_are_trained_by_it() -> None:
    query, history, mask_BL = given()
    inputs = [*query.values(), history["image"], history["item_id"], history["category"]]
    for each in inputs:
        each.requires_grad_()
    aggregator = made(SaTaConfig(queries=["target.item_id", "target.category", "user.user_id"]))
    aggregator(query, history, mask_BL).vector.square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in [*inputs, *aggregator.parameters()])
    assert bool((history["item_id"].grad[~mask_BL] == 0).all())


@pytest.mark.parametrize(
    ("config", "shapes", "words"),
    [
        (SaTaConfig(columns=["item"]), SHAPES, "`item` is no column of the history"),
        (SaTaConfig(queries=["target.item"]), SHAPES, "Did you mean `target.item_id`"),
        (SaTaConfig(width=0), SHAPES, "`width`: must be at least 1"),
        (SaTaConfig(similarity_scale=0.0), SHAPES, "`similarity_scale`: must be above 0"),
        (SaTaConfig(), replace(SHAPES, history={"image": 3, "age": 1}), "Give `features.history` a column"),
        (SaTaConfig(), replace(SHAPES, query={"target.item_id": 4}), "Set `images.target: true`"),
        (SaTaConfig(), replace(SHAPES, values=("item_id",)), "under `interest.images`"),
        (SaTaConfig(), replace(SHAPES, query={"image": 3}), "`target.item_id`"),
    ],
)
def test_what_it_refuses(config: SaTaConfig, shapes: HistoryShapes, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(config, shapes)
    assert words in str(caught.value)
