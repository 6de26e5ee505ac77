"""What `simtier` promises: the paper's histogram, counted by hand; run it with `pytest plugins/dicm_simtier/tests`."""

import math
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from dicm_kit import FieldError, HistoryShapes, Interest
from dicm_kit.testing import AggregatorContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_simtier import SimTier, SimTierConfig, build, dicm_interest_aggregators

SHAPES = HistoryShapes(query={"image": 4}, history={"image": 4, "age": 1}, values=("image",), max_length=9)


class TestSoft(AggregatorContract):
    component = dicm_interest_aggregators()[0]
    configs = ({}, {"tiers": 7, "spread": 1.5, "counts": "share"}, {"counts": "raw"})


class TestHard(AggregatorContract):
    component = dicm_interest_aggregators()[0]
    configs = ({"soft": False}, {"soft": False, "counts": "share"})
    no_effect = MappingProxyType({"spread": "it is the soft kernel's"})
    exempt = MappingProxyType(
        {
            "gradient_reaches_the_history": "a count is a step function of the similarity, as in the paper",
            "gradient_reaches_the_query": "a count is a step function of the similarity, as in the paper",
        }
    )


def given(rows: int = 6, length: int = 9) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Returns query, history with NaN in empty slots, and mask; row 0 has an empty history, row 1 a full one."""
    generator = torch.Generator().manual_seed(1)
    target_BI = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    history_BLI = torch.randn(rows, length, 4, generator=generator, dtype=torch.float64)
    mask_BL = torch.rand(rows, length, generator=generator) < 0.6
    mask_BL[0], mask_BL[1] = False, True
    history_BLI[~mask_BL] = torch.nan
    return {"image": target_BI}, {"image": history_BLI}, mask_BL


def by_hand(target: np.ndarray, history: np.ndarray, mask: np.ndarray, tiers: int, spread: float | None) -> np.ndarray:
    """The definition, slot by slot: spread None is the paper's histogram, else the Gaussian kernel's."""
    counts = np.zeros((len(target), tiers))
    for row in range(len(target)):
        for slot in range(history.shape[1]):
            if not mask[row, slot]:
                continue
            one, other = target[row], history[row, slot]
            similarity = float(one @ other) / math.sqrt(float(one @ one)) / math.sqrt(float(other @ other))
            if spread is None:
                edges = [-1 + 2 * tier / tiers for tier in range(1, tiers)]
                counts[row, sum(similarity >= edge for edge in edges)] += 1
                continue
            sigma = spread * 2 / tiers
            centres = [-1 + (2 * tier + 1) / tiers for tier in range(tiers)]
            kernel = [math.exp(-((similarity - centre) ** 2) / (2 * sigma**2)) for centre in centres]
            for tier in range(tiers):
                counts[row, tier] += kernel[tier] / sum(kernel)
    return counts


def result(aggregator: SimTier, *inputs: object) -> torch.Tensor:
    interest: Interest = aggregator(*inputs)
    return interest.vector


@pytest.mark.parametrize("tiers", [2, 7, 20])
@pytest.mark.parametrize("spread", [None, 0.5, 2.0])
def test_it_is_the_histogram_counted_by_hand(tiers: int, spread: float | None) -> None:
    query, history, mask_BL = given()
    aggregator = SimTier(tiers, soft=spread is not None, spread=spread or 0.5, counts="raw")
    expected = by_hand(query["image"].numpy(), history["image"].numpy(), mask_BL.numpy(), tiers, spread)
    np.testing.assert_allclose(result(aggregator, query, history, mask_BL).numpy(), expected, atol=1e-6)


def test_the_ends_of_the_range_are_in_the_first_and_the_last_tier() -> None:
    target = torch.tensor([[0.6, 0.8, 0.0, 0.0]])
    history = torch.stack([target, -3 * target, target[:, [2, 3, 0, 1]]], dim=1)  # cosines 1, -1, 0
    vector = result(SimTier(4, soft=False, counts="raw"), {"image": target}, {"image": history}, torch.ones(1, 3) > 0)
    assert vector.tolist() == [[1.0, 0.0, 1.0, 1.0]]


def test_counts_are_made_small_as_asked() -> None:
    query, history, mask_BL = given()
    raw = result(SimTier(counts="raw"), query, history, mask_BL)
    torch.testing.assert_close(result(SimTier(counts="log1p"), query, history, mask_BL), raw.log1p())
    share = result(SimTier(counts="share"), query, history, mask_BL)
    torch.testing.assert_close(share.sum(dim=1), mask_BL.any(dim=1).double())
    torch.testing.assert_close(raw.sum(dim=1), mask_BL.sum(dim=1).double())  # soft or not, a slot counts 1


@pytest.mark.parametrize("soft", [True, False])
def test_no_history_and_no_target_picture_give_zeros(soft: bool) -> None:
    query, history, mask_BL = given()
    query["image"][2] = 0.0  # what the image server gives where there is no picture
    vector = result(SimTier(soft=soft), query, history, mask_BL)
    assert vector[0].tolist() == vector[2].tolist() == [0.0] * 20
    none = result(SimTier(soft=soft), query, {"image": history["image"][:, :0]}, mask_BL[:, :0])
    assert none.tolist() == [[0.0] * 20] * 6


def test_a_narrow_kernel_is_the_papers_histogram() -> None:
    query, history, mask_BL = given()
    narrow = SimTier(soft=True, spread=0.01, counts="raw")
    torch.testing.assert_close(
        result(narrow, query, history, mask_BL), result(SimTier(soft=False, counts="raw"), query, history, mask_BL)
    )


def test_the_soft_one_trains_the_pictures_and_the_hard_one_stays_connected() -> None:
    for soft in (True, False):
        query, history, mask_BL = given()
        inputs = [each.requires_grad_() for each in (query["image"], history["image"])]
        vector = result(SimTier(soft=soft), query, history, mask_BL)
        gradients = torch.autograd.grad((vector * torch.arange(20)).sum(), inputs)  # raises where there is no graph
        assert all((each.abs().sum() > 0) == soft for each in gradients)
        assert bool((gradients[1][~mask_BL] == 0).all())


def test_bfloat16_counts_are_exact() -> None:
    target = torch.ones(1, 4, dtype=torch.bfloat16)
    mask = torch.ones(1, 1000) > 0
    history = {"image": target.expand(1, 1000, 4)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vector = result(SimTier(4, soft=False, counts="raw"), {"image": target}, history, mask)
    assert vector.tolist() == [[0.0, 0.0, 0.0, 1000.0]]


@pytest.mark.parametrize(
    ("config", "shapes", "words"),
    [
        (SimTierConfig(tiers=1), SHAPES, "`tiers`: must be at least 2"),
        (SimTierConfig(spread=0.0), SHAPES, "`spread`: must be above 0"),
        (SimTierConfig(), HistoryShapes({}, SHAPES.history, ("image",), 9), "Set `images.target: true`"),
        (SimTierConfig(), HistoryShapes({"image": 4}, {"item_id": 4}, ("item_id",), 9), "under `interest.images`"),
    ],
)
def test_what_it_refuses(config: SimTierConfig, shapes: HistoryShapes, words: str) -> None:
    with pytest.raises(FieldError) as caught:
        build(config, shapes)
    assert words in str(caught.value)
