import numpy as np
import pytest
import torch

from dicm_kit.interest.pooling import (
    ConcatConfig,
    MaxConfig,
    MeanConfig,
    SumConfig,
    build_concat,
    build_max,
    build_mean,
    build_sum,
)
from dicm_kit.interfaces import HistoryShapes

SHAPES = HistoryShapes(query={}, history={"a": 2, "b": 1, "age": 1}, values=("a", "b"), max_length=4)
BUILD = {
    "sum": lambda shapes: build_sum(SumConfig(), shapes),
    "mean": lambda shapes: build_mean(MeanConfig(), shapes),
    "max": lambda shapes: build_max(MaxConfig(), shapes),
    "concat": lambda shapes: build_concat(ConcatConfig(), shapes),
}
NAN = float("nan")


def three_slots():
    """Two filled slots, an empty one between them, and a row without any."""
    history = {
        "a": torch.tensor([[[1.0, -2.0], [NAN, NAN], [3.0, -4.0]], [[NAN, NAN]] * 3], requires_grad=True),
        "b": torch.tensor([[[-10.0], [NAN], [-20.0]], [[NAN]] * 3], requires_grad=True),
    }
    return history, torch.tensor([[True, False, True], [False, False, False]])


@pytest.mark.parametrize(
    ("name", "vector", "weights"),
    [
        ("sum", [4.0, -6.0, -30.0], [1.0, 0.0, 1.0]),
        ("mean", [2.0, -3.0, -15.0], [0.5, 0.0, 0.5]),
        ("max", [3.0, -2.0, -10.0], [2 / 3, 0.0, 1 / 3]),  # below zero too: an empty slot is no zero
        ("concat", [1.0, -2.0, -10.0, 0.0, 0.0, 0.0, 3.0, -4.0, -20.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0]),
    ],
)
def test_by_hand(name, vector, weights):
    pooling = BUILD[name](SHAPES)
    assert (pooling.out_dim, pooling.uses_target, pooling.uses_order) == (len(vector), False, name == "concat")
    history, mask = three_slots()
    interest = pooling({}, history, mask, need_weights=True)
    assert torch.equal(interest.vector, torch.tensor([vector, [0.0] * len(vector)]))
    torch.testing.assert_close(interest.weights, torch.tensor([[weights], [[0.0] * 3]]))
    assert pooling({}, history, mask).weights is None
    interest.vector.sum().backward()
    assert all(torch.isfinite(each.grad).all() for each in history.values())
    assert (history["a"].grad[~mask] == 0).all()


def plain(name, history, mask, max_length):
    """The same in NumPy, row by row, in float64."""
    rows = []
    for vectors, filled in zip(history, mask, strict=True):
        kept = vectors[filled]
        if name == "concat":
            padded = np.zeros((max_length, vectors.shape[1]))
            padded[: len(filled)] = np.where(filled[:, None], vectors, 0.0)
            rows.append(padded.reshape(-1))
        elif len(kept) == 0:
            rows.append(np.zeros(vectors.shape[1]))
        else:
            rows.append({"sum": kept.sum, "mean": kept.mean, "max": kept.max}[name](axis=0))
    return np.stack(rows)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("length", [1, 7, 16])
def test_equals_numpy(name, length):
    torch.manual_seed(length)
    shapes = HistoryShapes(query={}, history={"image": 5}, values=("image",), max_length=16)
    history, mask = torch.randn(9, length, 5), torch.rand(9, length) < 0.6
    got = BUILD[name](shapes)({}, {"image": history}, mask).vector
    expected = plain(name, history.double().numpy(), mask.numpy(), 16)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_largest_of_equals_share_the_gradient():
    shapes = HistoryShapes(query={}, history={"image": 1}, values=("image",), max_length=3)
    history = torch.tensor([[[2.0], [2.0], [1.0]]], requires_grad=True)
    interest = BUILD["max"](shapes)({}, {"image": history}, torch.ones(1, 3, dtype=torch.bool), need_weights=True)
    interest.vector.sum().backward()
    assert history.grad.flatten().tolist() == [0.5, 0.5, 0.0]
    assert interest.weights.flatten().tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("name", BUILD)
def test_bf16_and_state(name):
    pooling = BUILD[name](SHAPES)
    history, mask = torch.randn(5, 3, 3), torch.rand(5, 3) < 0.7
    vectors = {"a": history[..., :2], "b": history[..., 2:]}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = pooling({}, {k: v.bfloat16() for k, v in vectors.items()}, mask).vector
    torch.testing.assert_close(rough.float(), pooling({}, vectors, mask).vector, rtol=0.02, atol=0.02)
    assert dict(pooling.state_dict()) == {}  # nothing is trained: nothing to keep


def test_no_rows():
    for make in BUILD.values():
        interest = make(SHAPES)({}, {"a": torch.zeros(0, 3, 2), "b": torch.zeros(0, 3, 1)}, torch.zeros(0, 3).bool())
        assert interest.vector.shape == (0, make(SHAPES).out_dim)
