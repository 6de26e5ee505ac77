import numpy as np
import pytest
import torch

from dicm_kit.errors import FieldError
from dicm_kit.interest.attention import (
    Attention,
    AttentionConfig,
    MultiQueryAttention,
    MultiQueryAttentionConfig,
    build_attention,
    build_multi_query_attention,
)
from dicm_kit.interfaces import HistoryShapes

SHAPES = HistoryShapes(
    query={"image": 4, "target.item_id": 6, "user.age": 2, "context.hour": 1},
    history={"image": 4, "item_id": 6, "age": 1},
    values=("image",),
    max_length=5,
)


def inputs(batch=3, length=5):
    torch.manual_seed(1)
    query = {name: torch.randn(batch, dim) for name, dim in SHAPES.query.items()}
    history = {name: torch.randn(batch, length, dim) for name, dim in SHAPES.history.items()}
    return query, history, torch.arange(length) < torch.tensor([length, 2, 0])[:batch, None]


def plain_scores(net, query, history):
    """DIN's activation unit as written, [q, h, q - h, q * h] through the layers, one pair at a time in float64."""
    parameters = {name: value.detach().double().numpy() for name, value in net.named_parameters()}
    if "project.weight" in parameters:
        query = query @ parameters["project.weight"].T
    out = np.zeros(history.shape[:2])
    for row in range(history.shape[0]):
        for slot in range(history.shape[1]):
            q, h = query[row], history[row, slot]
            x = parameters["first.weight"] @ np.concatenate([q, h, q - h, q * h]) + parameters.get("first.bias", 0.0)
            for layer in range(len(net.rest)):
                x = np.where(x > 0, x, parameters[f"activations.{layer}.weight"] * x)
                x = parameters[f"rest.{layer}.weight"] @ x + parameters.get(f"rest.{layer}.bias", 0.0)
            out[row, slot] = x[0]
    return out


@pytest.mark.parametrize("hidden", [[7], [7, 3], []])
@pytest.mark.parametrize("softmax", [False, True])
def test_channels_equal_the_formula(hidden, softmax):
    config = MultiQueryAttentionConfig(hidden=hidden, softmax=softmax)
    attention = build_multi_query_attention(config, SHAPES)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    query, history, mask = inputs()
    interest = attention(query, history, mask, need_weights=True)
    for channel, name in enumerate(config.queries):
        scores = plain_scores(
            attention.scores[channel], query[name].double().numpy(), history["image"].double().numpy()
        )
        weight = np.zeros_like(scores)
        for row in range(2):  # the last row's history is empty
            filled = mask[row].numpy()
            kept = scores[row, filled]
            weight[row, filled] = np.exp(kept) / np.exp(kept).sum() if softmax else kept
        vector = np.einsum("bl,bld->bd", weight, history["image"].double().numpy())
        np.testing.assert_allclose(interest.weights[:, channel].detach().numpy(), weight, rtol=2e-5, atol=2e-5)
        got = interest.vector[:, 4 * channel : 4 * channel + 4].detach().numpy()
        np.testing.assert_allclose(got, vector, rtol=2e-5, atol=2e-5)


def test_attention_is_one_channel():
    torch.manual_seed(0)
    one = build_attention(AttentionConfig(), SHAPES)  # queries: the counterpart, `image`
    torch.manual_seed(0)
    several = build_multi_query_attention(MultiQueryAttentionConfig(queries=["image"]), SHAPES)
    query, history, mask = inputs()
    assert one.queries == ("image",)
    assert torch.allclose(one(query, history, mask).vector, several(query, history, mask).vector, atol=1e-6)


def test_id_slot_compares_its_columns_with_the_targets():
    shapes = HistoryShapes(
        query={"target.item_id": 6, "target.colour": 3},
        history={"item_id": 6, "colour": 3},
        values=("item_id", "colour"),
        max_length=2,
    )
    attention = build_attention(AttentionConfig(), shapes)
    assert attention.queries == ("target.item_id", "target.colour")
    assert attention.score.project is None  # as wide as the history: compared as it is
    assert attention.out_dim == 9


@pytest.mark.parametrize("softmax", [False, True])
def test_empty_history_is_zero_with_finite_gradients(softmax):
    attention = build_multi_query_attention(MultiQueryAttentionConfig(softmax=softmax), SHAPES)
    query, history, _ = inputs()
    poison = {name: torch.full_like(value, torch.nan).requires_grad_() for name, value in history.items()}
    interest = attention(query, poison, torch.zeros(3, 5, dtype=torch.bool), need_weights=True)
    assert torch.equal(interest.vector, torch.zeros(3, 8))
    assert torch.equal(interest.weights, torch.zeros(3, 2, 5))
    interest.vector.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in attention.parameters())
    assert torch.equal(poison["image"].grad, torch.zeros(3, 5, 4))


def test_no_rows_still_give_every_parameter_a_gradient():
    attention = build_multi_query_attention(MultiQueryAttentionConfig(), SHAPES)
    query, history, mask = inputs()
    none = attention({k: v[:0] for k, v in query.items()}, {k: v[:0] for k, v in history.items()}, mask[:0])
    none.vector.sum().backward()
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in attention.parameters())


@pytest.mark.parametrize(
    ("queries", "uses_target"),
    [(["user.age"], False), (["image"], True), (["user.age", "context.hour"], True), (["target.item_id"], True)],
)
def test_uses_target(queries, uses_target):
    assert build_multi_query_attention(MultiQueryAttentionConfig(queries=queries), SHAPES).uses_target is uses_target
    assert build_attention(AttentionConfig(queries=queries), SHAPES).uses_target is uses_target


def test_bf16_autocast():
    for attention in (
        build_attention(AttentionConfig(), SHAPES),
        build_multi_query_attention(MultiQueryAttentionConfig(), SHAPES),
    ):
        query, history, mask = inputs()
        exact = attention(query, history, mask).vector
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = attention(query, history, mask).vector
        rough.float().sum().backward()
        assert torch.allclose(exact, rough.float(), atol=0.05)


@pytest.mark.parametrize(
    ("queries", "says"),
    [
        (["imag"], "`imag` names no vector of this recipe\n\n  Did you mean `image`?"),
        (["target.item"], "Did you mean `target.item_id`?"),
        (["image", "image"], "given twice"),
    ],
)
def test_unknown_query_is_a_field_error_with_the_nearest_name(queries, says):
    with pytest.raises(FieldError) as caught:
        build_multi_query_attention(MultiQueryAttentionConfig(queries=queries), SHAPES)
    assert caught.value.field == "queries"
    assert says in str(caught.value)


def test_nothing_to_compare_with_is_a_field_error():
    shapes = HistoryShapes(query={"user.age": 2}, history={"image": 4}, values=("image",), max_length=2)
    with pytest.raises(FieldError, match="has no `image` to compare the history with"):
        build_attention(AttentionConfig(), shapes)
    with pytest.raises(FieldError, match="names no query"):
        build_multi_query_attention(MultiQueryAttentionConfig(queries=[]), shapes)
    with pytest.raises(FieldError, match="at least 1"):
        build_attention(AttentionConfig(queries=["user.age"], hidden=[0]), shapes)


def test_plain_values_make_it_without_a_config():
    assert Attention(("a", "b"), (2, 3), ("user.x",), (4,)).out_dim == 5
    assert MultiQueryAttention(("a",), (2,), ("user.x", "image"), (4, 2)).out_dim == 4
