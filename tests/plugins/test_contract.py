"""How a Contract becomes tests: ids, exemptions with their reason, errors of the author's; the fixtures."""

import subprocess
import sys
from pathlib import Path

import pytest

from dicm_kit.builtin import dicm_interest_aggregators
from dicm_kit.errors import PluginError, RecipeError
from dicm_kit.testing.plan import plan

pytest_plugins = ["pytester"]

SUM = dicm_interest_aggregators()[0]
ATTENTION = next(each for each in dicm_interest_aggregators() if each.name == "attention")
PLUGIN = (Path(__file__).parents[2] / "plugins/example_aggregator/dicm_example_aggregator.py").read_text()
TESTS = """
from dicm_example_aggregator import dicm_interest_aggregators
from dicm_kit.testing import AggregatorContract


class TestRecency(AggregatorContract):
    component = dicm_interest_aggregators()[0]
    configs = ({}, {"half_life": 2.0})
    exempt = {
        "import_does_no_work": "looked at elsewhere",
        "two_ranks_start_alike": "looked at elsewhere",
        "padding_is_not_read": "it is a test of the test",
    }
"""


def run(pytester: pytest.Pytester, tests: str, plugin: str = PLUGIN, only: str = "") -> pytest.RunResult:
    pytester.makepyfile(dicm_example_aggregator=plugin, test_it=tests)
    return pytester.runpytest_subprocess("-v", "-rs", "-k", only)


def test_each_check_with_each_config_is_a_test_and_what_is_exempt_says_why(pytester: pytest.Pytester) -> None:
    result = run(pytester, TESTS)
    checks = len(plan("interest_aggregator", SUM))
    once = sum(each.check.once for each in plan("interest_aggregator", SUM))
    outcomes = result.parseoutcomes()
    assert "failed" not in outcomes
    assert outcomes["passed"] + outcomes["skipped"] == 2 * (checks - once) + once
    text = result.stdout.str()
    assert "TestRecency::test_contract[order_matters_as_declared-half_life=2.0] PASSED" in text
    assert "TestRecency::test_contract[order_matters_as_declared-defaults] PASSED" in text
    assert "exempt: it is a test of the test" in text


def test_a_failure_is_told_without_a_traceback_of_ours(pytester: pytest.Pytester) -> None:
    broken = PLUGIN.replace(".masked_fill(~mask_BL, 0)", "")
    assert broken != PLUGIN
    text = run(
        pytester, TESTS.replace('"padding_is_not_read": ', '"weights_only_when_asked": '), broken, "padding_is"
    ).stdout.str()
    assert "aggregator `recency` (defaults): the output changed when only padded positions changed" in text
    assert "check `padding_is_not_read`: What stands in an empty slot changes nothing" in text
    assert "dicm_kit/testing/aggregators.py" not in text


def test_a_check_that_hangs_fails_with_its_stack(pytester: pytest.Pytester) -> None:
    hanging = PLUGIN.replace(
        "    return Recency(", "    while config.half_life == 2.0:\n        pass\n    return Recency("
    )
    text = run(pytester, f"{TESTS}    timeout = 2.0\n", hanging, "vector_has").stdout.str()
    assert "no end after 2 s; it was here:" in text
    assert "in build\n" in text


def test_the_fixtures(pytester: pytest.Pytester) -> None:
    tests = """
import torch

def rank_of(rank, num_ranks):
    return rank, num_ranks, torch.distributed.get_world_size()

def test_shapes(dicm_history_shapes, dicm_net_shapes, dicm_histories):
    made = dicm_histories(dicm_history_shapes, rows=3, length=4)
    assert made.mask_BL.shape == (3, 4)
    assert {name: each.shape[-1] for name, each in made.history.items()} == dicm_history_shapes.history
    assert torch.equal(made.query["image"], dicm_histories(dicm_history_shapes, rows=3, length=4).query["image"])
    assert dicm_net_shapes.image

def test_data(dicm_log, dicm_dataset, dicm_batch):
    assert (dicm_log / "log.parquet").is_file()
    assert sum(each.impressions for each in dicm_dataset.splits.values()) == 72
    assert 0 < dicm_batch.num_impressions <= 16
    assert set(dicm_batch.target) == {"item_id", "picture", "colour"}

def test_ranks(dicm_ranks):
    assert dicm_ranks.run(2, rank_of) == [(0, 2, 2), (1, 2, 2)]
"""
    run(pytester, tests).assert_outcomes(passed=3)


def test_the_pytest_plugin_is_light() -> None:
    code = "import sys, dicm_kit.testing.pytest_plugin; print({'torch', 'numpy', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unknown_names_and_missing_reasons_are_errors() -> None:
    with pytest.raises(PluginError, match="`exempt` of `sum` names `padding_not_read`, which is no check"):
        plan("interest_aggregator", SUM, exempt={"padding_not_read": "why"})
    with pytest.raises(PluginError, match="Did you mean `hidden`"):
        plan("interest_aggregator", ATTENTION, no_effect={"hiden": "why"})
    with pytest.raises(PluginError, match="gives no reason for `bfloat16`"):
        plan("interest_aggregator", SUM, exempt={"bfloat16": " "})


def test_a_config_is_read_as_a_recipes() -> None:
    item = plan("interest_aggregator", ATTENTION, configs=[{"hiden": [4], "softmax": "perhaps"}])[0]
    assert item.check.id == "builds"
    with pytest.raises(RecipeError, match="2 problems in config of `attention`"):
        _ = item.subject.config
    outcome = item.judge()
    assert outcome.state == "failed"
    assert "unknown key `hiden`" in outcome.text
    assert plan("interest_aggregator", ATTENTION, configs=[{"hiden": [4]}])[5].judge().state == "skipped"
