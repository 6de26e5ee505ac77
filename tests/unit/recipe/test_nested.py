"""An aggregator inside another one: read like any section, built for the outer one, refused at its own lines."""

from pathlib import Path

import pytest
from small import SMALL, complaint, loaded

from dicm_kit import DicmError, HistoryShapes, NestedAggregator
from dicm_kit.errors import RecipeError
from dicm_kit.interest.attention import AttentionConfig
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.describe import explained
from dicm_kit.recipe.load import dump, load

PLUGIN = '''
from dataclasses import dataclass, replace
from dicm_kit import Component, Interest, InterestAggregator, NestedAggregator, hookimpl
dicm_api = 1

@dataclass
class HalfConfig:
    """Half of another aggregator's result."""

    then: NestedAggregator
    """The other one."""

class Half(InterestAggregator):
    def __init__(self, then):
        super().__init__()
        self.then, self.uses_target, self.out_dim = then, then.uses_target, then.out_dim
    def forward(self, query, history, mask_BL, need_weights=False):
        return Interest(self.then(query, history, mask_BL).vector / 2, None)

@hookimpl
def dicm_interest_aggregators():
    build = lambda config, shapes: Half(config.then.build(replace(shapes, max_length=2)))
    return [Component(name="half", config=HalfConfig, build=build)]
'''
HALF = SMALL.replace("seed: 7\n", "seed: 7\nplugins: [./half.py]\n").replace(
    "images: {name: multi_query_attention, queries: [image, target.item_id]}",
    "images:\n    name: half\n    then: {name: attention, queries: [image], hidden: [5]}",
)


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(PLUGIN)


def test_it_is_read_with_the_keys_of_the_chosen_one_and_built_for_other_shapes(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, text=HALF)
    then = recipe.recipe.interest.images.config.then
    assert then.config == AttentionConfig(queries=["image"], hidden=[5])
    shapes = HistoryShapes({"image": 6}, {"image": 6, "age": 1}, ("image",), 8)
    built = recipe.registry.build("interest_aggregator", "half", recipe.recipe.interest.images.config, shapes)
    assert (built.out_dim, built.uses_target) == (6, True)
    assert next(each.shape[0] for each in built.then.score.parameters()) == 5
    concat = loaded(tmp_path, "interest.images.then={name: concat}", text=HALF).recipe.interest.images.config.then
    assert concat.build(shapes).out_dim == 6 * 8
    rehearse(recipe)


def test_overrides_reach_into_it_and_the_dump_loads_to_the_same(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "interest.images.then.name=multi_query_attention", text=HALF)
    assert recipe.recipe.interest.images.config.then.config.hidden == [5]  # both have the key
    (tmp_path / "again.yaml").write_text(dump(recipe.recipe, tmp_path))
    assert dump(load(tmp_path / "again.yaml").recipe, tmp_path) == dump(recipe.recipe, tmp_path)
    nothing = loaded(tmp_path, "interest.images.then.name=sum", text=HALF)
    assert nothing.notes == tuple(
        f"`interest.images.then.{key}` is left out: sum has no such key" for key in ("queries", "hidden")
    )
    half_of_half = "interest.images.then={name: half, then: {name: sum}}"
    assert loaded(tmp_path, half_of_half, text=HALF).recipe.interest.images.config.then.config.then.name == "sum"


def test_what_is_wrong_in_it_is_reported_at_its_line(tmp_path: Path) -> None:
    assert "no aggregator is called `atention`" in complaint(tmp_path, text=HALF.replace("attention", "atention"))
    assert "unknown key `depth` in aggregator `attention`" in complaint(
        tmp_path, text=HALF.replace("hidden: [5]", "depth: 5")
    )
    assert "`interest.images.then` is missing" in complaint(
        tmp_path, text=HALF.replace("    then: {name: attention, queries: [image], hidden: [5]}\n", "")
    )


def test_what_it_refuses_when_it_is_built_is_reported_at_its_line(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, text=HALF.replace("hidden: [5]", "hidden: [0]").replace("[image]", "[image, image]"))
    with pytest.raises(RecipeError) as caught:
        rehearse(recipe)
    line = HALF.split("then:")[0].count("\n") + 1
    assert "`interest.images.then.hidden`: every width must be at least 1, got [0]" in str(caught.value)
    assert f"recipe.yaml:{line}" in str(caught.value)
    deep = loaded(tmp_path, "interest.images.then={name: half, then: {name: attention, hidden: [0]}}", text=HALF)
    with pytest.raises(RecipeError, match=r"`interest\.images\.then\.then\.hidden`: every width"):
        rehearse(deep)


def test_it_is_explained(tmp_path: Path) -> None:
    text = explained(loaded(tmp_path, text=HALF).registry.owner("interest_aggregator", "half"))
    assert "then: section, must be given" in text
    assert "name: str, must be given" in text


def test_one_that_no_recipe_made_says_so() -> None:
    with pytest.raises(DicmError, match="was not read from a recipe"):
        NestedAggregator(name="sum").build(HistoryShapes({}, {"age": 1}, (), 1))
