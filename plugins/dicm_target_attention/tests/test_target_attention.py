"""What `multi_head_target_attention` promises, worked out by hand; `pytest plugins/dicm_target_attention/tests`."""

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
from dicm_target_attention import MultiHeadTargetAttention, build, dicm_interest_aggregators
from dicm_target_attention import MultiHeadTargetAttentionConfig as Config

SHAPES = HistoryShapes(
    query={"image": 3, "target.item_id": 4, "user.user_id": 3},
    history={"image": 3, "item_id": 4, "age": 1},
    values=("image",),
    max_length=7,
)

Given = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


class TestMultiHeadTargetAttention(AggregatorContract):
    component = dicm_interest_aggregators()[0]


def given(rows: int = 5, length: int = 7) -> Given:
    """Returns query, history with NaN in empty slots, and mask; row 0 has an empty history, row 1 a full one."""
    generator = torch.Generator().manual_seed(3)
    mask_BL = torch.rand(rows, length, generator=generator) < 0.6
    mask_BL[0], mask_BL[1] = False, True
    empty_BL1 = ~mask_BL.unsqueeze(-1)
    query = {
        name: torch.randn(rows, width, generator=generator, dtype=torch.float64) for name, width in SHAPES.query.items()
    }
    image_BLI = torch.randn(rows, length, 3, generator=generator, dtype=torch.float64)
    age_BL1 = 40 * torch.rand(rows, length, 1, generator=generator, dtype=torch.float64)
    age_BL1[1, :4, 0] = torch.tensor([0.0, 0.04, 1.0, 500.0])  # on bounds, and beyond the last
    history = {"image": image_BLI.masked_fill(empty_BL1, torch.nan), "age": age_BL1.masked_fill(empty_BL1, torch.nan)}
    return query, history, mask_BL


def made(config: Config, shapes: HistoryShapes = SHAPES) -> MultiHeadTargetAttention:
    torch.manual_seed(0)
    aggregator = build(config, shapes).double().eval()
    if aggregator.has_time:
        torch.nn.init.normal_(aggregator.of_age)  # as large as the vectors, so that it shows
    return aggregator


def by_hand(aggregator: MultiHeadTargetAttention, inputs: Given, queries: list[str], bounds: list[float]) -> np.ndarray:
    """Queries, keys and values of every head and slot, made one by one."""
    query, history = ({name: each.numpy() for name, each in side.items()} for side in inputs[:2])
    w_q, w_k, w_v = (
        each.detach().numpy() for each in (aggregator.of_query_HDd, aggregator.of_key_HDd, aggregator.of_value_HDd)
    )
    rows, (heads, _, width) = len(query["image"]), w_q.shape
    result = np.zeros((rows, heads * width))
    for row in range(rows):
        target = np.concatenate([query[name][row] for name in queries])
        if aggregator.project is not None:
            target = aggregator.project.weight.detach().numpy() @ target
        if bounds:
            target = target + aggregator.of_age.detach().numpy()[len(bounds) + 1]
        for head in range(heads):
            scores, values = [], []
            for slot in np.flatnonzero(inputs[2][row].numpy()):
                click = history["image"][row, slot]
                if bounds:
                    bucket = sum(history["age"][row, slot, 0] >= np.float32(bound) for bound in bounds)
                    click = click + aggregator.of_age.detach().numpy()[bucket]
                scores.append(float((target @ w_q[head]) @ (click @ w_k[head])) / math.sqrt(width))
                values.append((click * target if aggregator.target_aware else click) @ w_v[head])
            total = sum(math.exp(score) for score in scores)
            for score, value in zip(scores, values, strict=True):
                result[row, head * width : (head + 1) * width] += math.exp(score) / total * value
    return result


@pytest.mark.parametrize(
    ("config", "queries", "bounds"),
    [
        (Config(), ["image"], Config().age_bounds),
        (Config(heads=3, head_dim=2, time="none", target_aware=False), ["image"], []),
        (
            Config(queries=["target.item_id", "user.user_id"], age_bounds=[2.0]),
            ["target.item_id", "user.user_id"],
            [2.0],
        ),
        (Config(heads=1, time="none"), ["image"], []),
    ],
    ids=["defaults", "transformer", "projected", "no time"],
)
def test_it_is_the_papers_formula_by_hand(config: Config, queries: list[str], bounds: list[float]) -> None:
    inputs = given()
    aggregator = made(config)
    expected = by_hand(aggregator, inputs, queries, bounds)
    np.testing.assert_allclose(aggregator(*inputs).vector.detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_one_head_without_projections_is_tin() -> None:
    query, history, mask_BL = given()
    aggregator = made(Config(heads=1, head_dim=3))
    with torch.no_grad():
        for each in (aggregator.of_query_HDd, aggregator.of_key_HDd, aggregator.of_value_HDd):
            each.copy_(torch.eye(3))
        vector = aggregator(query, history, mask_BL).vector[1]
        p = aggregator.of_age
        target = query["image"][1] + p[-1]
        bounds = torch.tensor(Config().age_bounds)  # float32, as they are kept
        age_L = history["age"][1, :, 0]
        clicks = [click + p[(age >= bounds).sum()] for click, age in zip(history["image"][1], age_L, strict=True)]
        score = torch.stack([click @ target for click in clicks]) / 3**0.5
        expected = sum(weight * click * target for weight, click in zip(score.softmax(0), clicks, strict=True))
    torch.testing.assert_close(vector, expected)


def test_age_moves_the_weights() -> None:
    query, history, mask_BL = given()
    older = history | {"age": history["age"] + 20}
    aggregator, blind = made(Config()), made(Config(time="none"))
    assert not torch.allclose(aggregator(query, history, mask_BL).vector, aggregator(query, older, mask_BL).vector)
    torch.testing.assert_close(blind(query, history, mask_BL).vector, blind(query, older, mask_BL).vector)


def test_weights_are_shares_of_the_filled_slots_in_every_head() -> None:
    query, history, mask_BL = given()
    interest = made(Config(heads=4))(query, history, mask_BL, need_weights=True)
    assert interest.weights.shape == (5, 4, 7)
    torch.testing.assert_close(interest.weights.sum(dim=2), mask_BL.any(dim=1, keepdim=True).double().expand(5, 4))
    assert bool((interest.weights.transpose(1, 2)[~mask_BL] == 0).all())
    assert interest.vector[0].tolist() == [0.0] * 32


def test_dropout_is_for_training_only() -> None:
    inputs = given()
    aggregator, without = made(Config(dropout=0.5)), made(Config())
    torch.testing.assert_close(aggregator(*inputs).vector, without(*inputs).vector)
    assert not torch.allclose(aggregator.train()(*inputs).vector, without(*inputs).vector)


def test_queries_of_the_user_alone_run_once_per_group() -> None:
    assert made(Config()).uses_target
    assert not made(Config(queries=["user.user_id"])).uses_target


@pytest.mark.parametrize(
    ("config", "shapes", "words"),
    [
        (Config(heads=0), SHAPES, "`heads`: must be at least 1"),
        (Config(head_dim=0), SHAPES, "`head_dim`: must be at least 1"),
        (Config(dropout=1.0), SHAPES, "`dropout`: must be from 0 to below 1"),
        (Config(age_bounds=[3.0, 1.0]), SHAPES, "`age_bounds`: must be above 0 and ascend"),
        (Config(age_bounds=[]), SHAPES, "Without time: `time: none`"),
        (Config(queries=["images"]), SHAPES, "Did you mean `image`?"),
        (Config(), replace(SHAPES, query={"user.user_id": 3}), "the recipe has no `image`"),
    ],
)
def test_what_it_refuses(config: Config, shapes: HistoryShapes, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(config, shapes)
    assert words in str(caught.value)
