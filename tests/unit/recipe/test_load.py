"""What a recipe becomes, and what it says of each kind of mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small import SMALL, changed, complaint, loaded

from dicm_kit.errors import RecipeError
from dicm_kit.features.encoders import HashConfig, IdConfig
from dicm_kit.recipe.load import dump, find_recipe, load


def test_sections_become_typed_values(tmp_path: Path) -> None:
    recipe = loaded(tmp_path).recipe
    assert recipe.features.user["user_id"].config == IdConfig(dim=8)
    assert recipe.data.config.users == 50
    assert recipe.data.config.items == 4000  # a default of the source
    assert recipe.data.history.max_length == 8
    assert recipe.data.lanes == 16
    assert recipe.optimizer.dense.lr == 0.001
    assert recipe.trainer.precision == "bf16-mixed"
    assert recipe.images is not None
    assert recipe.images.embedder.hidden == [16]


def test_a_shared_feature_takes_the_others_name_and_config(tmp_path: Path) -> None:
    text = changed("{name: id, share: target.item_id}", "{share: target.item_id}")
    features = loaded(tmp_path, text=text).recipe.features
    assert features.history["item_id"].name == "id"
    assert features.history["item_id"].config is features.target["item_id"].config


def test_without_pictures_it_is_the_baseline(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "images=null", "interest.images=null").recipe
    assert recipe.images is None
    assert recipe.interest.images is None


def test_overrides_reach_any_leaf_and_make_new_ones(tmp_path: Path) -> None:
    recipe = loaded(
        tmp_path,
        "features.user.user_id.dim=3",
        "features.user.segment.name=hash",
        "features.user.segment.buckets=9",
        "data.group.by=session",
        "trainer.max_steps=5",
        "interest.images.queries=[image]",
        "run_dir=runs/no",
    ).recipe
    assert recipe.features.user["user_id"].config.dim == 3
    assert recipe.features.user["segment"].config == HashConfig(buckets=9)
    assert recipe.data.group.by == "session"
    assert recipe.trainer.max_steps == 5
    assert recipe.interest.images is not None
    assert recipe.interest.images.config.queries == ["image"]
    assert recipe.run_dir == "runs/no"


def test_an_override_of_name_drops_what_only_the_component_before_it_had(tmp_path: Path) -> None:
    result = loaded(tmp_path, "interest.images.name=sum")
    assert result.recipe.interest.images is not None
    assert result.recipe.interest.images.name == "sum"
    assert result.notes == ("`interest.images.queries` is left out: sum has no such key",)
    assert "unknown key `queries` in aggregator `sum`" in complaint(
        tmp_path, "interest.images.name=sum", "interest.images.queries=[image]"
    )


def test_scalars_are_read_as_yaml_1_2_and_text_as_it_is_written(tmp_path: Path) -> None:
    text = changed("lr: 1e-3", "lr: 5e-4").replace("run_dir: runs/small", "run_dir: 007")
    recipe = loaded(tmp_path, "data.out=no", text=text).recipe
    assert (recipe.optimizer.dense.lr, recipe.run_dir, recipe.data.out) == (5e-4, "007", "no")


def test_environment_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICM_TEST_LR", "0.5")
    monkeypatch.delenv("DICM_TEST_OUT", raising=False)
    text = changed("lr: 1e-3", "lr: '${oc.env:DICM_TEST_LR}'").replace(
        "out: data/small", "out: ${oc.env:DICM_TEST_OUT,data}/x"
    )
    recipe = loaded(tmp_path, text=text).recipe
    assert (recipe.optimizer.dense.lr, recipe.data.out) == (0.5, "data/x")


def test_what_is_written_out_loads_to_the_same_recipe(tmp_path: Path) -> None:
    first = loaded(tmp_path, "features.user.segment={name: hash, dim: 3}", "checkpoint.monitor=null").recipe
    text = dump(first)
    assert loaded(tmp_path, text=text).recipe == first
    assert dump(loaded(tmp_path, text=text).recipe) == text


def test_written_out_plugin_files_are_absolute(tmp_path: Path) -> None:
    plugin = Path(__file__).parents[3] / "plugins/example_aggregator/dicm_example_aggregator.py"
    (tmp_path / "p.py").write_text(plugin.read_text())
    recipe = loaded(tmp_path, "plugins=[./p.py]", "interest.ids={name: recency, half_life: 2}").recipe
    again = load(_written(tmp_path / "elsewhere" / "r.yaml", dump(recipe, tmp_path)))
    assert again.recipe.plugins == [str(tmp_path / "p.py")]
    assert again.recipe.interest.ids is not None
    assert again.recipe.interest.ids.config.half_life == 2


def test_errors_found_later_point_at_the_line(tmp_path: Path) -> None:
    result = loaded(tmp_path, "batch_size=128")
    text = str(result.error("data.out", "is full", "Empty it.")).replace(f"{tmp_path}/", "")
    assert text == "1 problem in recipe.yaml\n\nrecipe.yaml:6: is full\n  >   6 |   out: data/small\n  Empty it."
    assert "command line: is odd\n  > batch_size=128" in str(result.error("batch_size", "is odd"))
    assert "recipe.yaml:21: no such" in str(result.error("net.activation", "no such"))  # not written: its section


def test_everything_wrong_is_reported_at_once_in_file_order(tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    text = """\
# ten things are wrong
dicm: 1
seed: seven
plugins: [dicm-dinn, ./my_aggregator.py]
data:
  name: synthetic
  usrs: 50
  history: {max_length: lots}
batch_size: 100
features:
  user: {user_id: {name: idd, dim: 8}}
  target: {item_id: {name: id, dim: 8}, picture: id}
  history: {item_id: {name: hash, share: target.item_id, dim: 3}, colour: {share: target.color}}
images:
  history: true
  backbone: {name: timm, weights: none, trainable: al}
  embedder: {hidden: [16, lots]}
interest:
  ids: {name: sum}
  images: {name: multi_query_attention, queries: [image, target.item], hiden: [3]}
net: embedding_mlp
net: {name: embedding_mlp}
trainer: {devices: two, precision: bf16}
trainr: {}
run_dir: ???
"""
    golden(
        "errors/recipe_all_at_once.txt",
        complaint(tmp_path, "trainer.max_steps=x", "seed.x=1", "features.user.age.dim=3", "bar", text=text),
    )


CASES = {
    "unknown_key": changed("hidden: [16]}\noptimizer", "hiden: [16]}\noptimizer"),
    "unknown_key_of_the_recipe": SMALL + "trainr: {}\n",
    "unknown_component": changed("embedding_mlp", "embeding_mlp"),
    "wrong_type": changed("max_epochs: 2", "max_epochs: two"),
    "wrong_choice": changed("bf16-mixed", "bf16"),
    "float_for_int": changed("dim: 6", "dim: 6.5"),
    "wrong_item": changed("hidden: [16], dim", "hidden: [16, wide], dim"),
    "scalar_for_a_section": changed("net: {name: embedding_mlp, hidden: [16]}", "net: embedding_mlp"),
    "empty_section": changed("trainer: {max_epochs: 2, precision: bf16-mixed}", "trainer:"),
    "list_for_a_section": changed("{max_length: 8}", "[8]"),
    "missing_key": changed("  out: data/small\n", ""),
    "missing_component_key": changed("model: resnet10t, ", ""),
    "missing_name": changed("ids: {name: sum}", "ids: {}"),
    "to_be_given": changed("out: data/small", "out: ???"),
    "duplicate_key": SMALL + "seed: 8\n",
    "duplicate_key_inside": changed("dim: 6", "dim: 6, dim: 7"),
    "no_format": changed("dicm: 1\n", ""),
    "other_format": changed("dicm: 1", "dicm: 2") + "trainr: {}\n",
    "format_of_no_kind": changed("dicm: 1", "dicm: one"),
    "not_yaml": changed("{max_length: 8}", "{max_length: 8"),
    "unquoted_interpolation": changed("lr: 1e-3", "lr: ${oc.env:LR}"),
    "alias": changed("seed: 7", "seed: &seed 7").replace("batch_size: 64", "batch_size: *seed"),
    "tag": changed("seed: 7", "seed: !!python/object/apply:os.getcwd []"),
    "not_a_mapping": "- a\n- b\n",
    "empty": "# nothing here\n",
    "other_interpolation": changed("run_dir: runs/small", "run_dir: ${trainer.max_epochs}"),
    "other_resolver": changed("run_dir: runs/small", "run_dir: ${oc.decode:x}"),
    "unset_variable": changed("run_dir: runs/small", "run_dir: ${oc.env:DICM_NEVER_SET}"),
    "key_beside_share": changed("share: target.item_id", "share: target.item_id, dim: 3"),
    "dot_in_a_name": changed("picture: {name: id, dim: 4}", "a.b: {name: id, dim: 4}"),
    "plugin_does_not_load": "plugins:\n  - dicm-nowhere\n" + SMALL,
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake(case: str, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    golden(f"errors/recipe_{case}.txt", complaint(tmp_path, text=CASES[case]))


OVERRIDES = {
    "no_share_and_no_name": "features.history.item_id={share: null}",
    "unknown_key": "net.hiden=[3]",
    "wrong_type": "trainer.max_steps=many",
    "no_value": "trainer.max_steps",
    "below_a_value": "seed.x=1",
    "below_a_list": "interest.images.queries.0=image",
    "not_yaml": "interest.images.queries=[image",
    "unknown_component": "interest.ids.name=som",
    "unknown_feature_key": "features.user.segment={name: id, width: 3}",
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_wrong_override(case: str, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    golden(f"errors/override_{case}.txt", complaint(tmp_path, OVERRIDES[case]))


def test_a_components_config_may_refuse_values(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PLUGIN_WITH_CHECK)
    text = changed("ids: {name: sum}", "ids:\n    name: picky\n    width: 3")
    message = complaint(tmp_path, "plugins=[./p.py]", text=text)
    assert "recipe.yaml:21: `interest.ids.width`: must be even, got 3\n  >  21 |     width: 3" in message


def test_a_plugins_keys_have_rich_types(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PLUGIN_WITH_CHECK)
    ids = "interest.ids={name: picky, parts: [{of: a}, {of: b, weight: 2}], table: {x: id}, pair: [1, 2.5]}"
    config = loaded(tmp_path, "plugins=[./p.py]", ids).recipe.interest.ids.config  # type: ignore[union-attr]
    assert [(part.of, part.weight) for part in config.parts] == [("a", 1.0), ("b", 2.0)]
    assert (config.table, config.pair) == ({"x": "id"}, (1, 2.5))
    wrong = "interest.ids={name: picky, parts: [{of: a, wight: 2}], table: {x: idd}, pair: [1], things: 3}"
    message = complaint(tmp_path, "plugins=[./p.py]", wrong)
    assert "unknown key `wight` in `interest.ids.parts[0]`" in message
    assert "`interest.ids.table.x` must be one of 'id', 'ids', got 'idd' (str)" in message
    assert "`interest.ids.pair` must be list of 2: int, float, got 1" in message
    assert "`interest.ids.things` is of a type no recipe can give: set" in message


PLUGIN_WITH_CHECK = """
from dataclasses import dataclass, field
from typing import Literal
from dicm_kit import Component, FieldError, hookimpl
dicm_api = 1

@dataclass
class Part:
    of: str
    weight: float = 1.0

@dataclass
class Config:
    width: int = 2
    parts: list[Part] = field(default_factory=list)
    table: dict[str, Literal["id", "ids"]] = field(default_factory=dict)
    pair: tuple[int, float] = (1, 1.0)
    things: set = field(default_factory=set)
    def __post_init__(self):
        if self.width % 2:
            raise FieldError("width", f"must be even, got {self.width}")

@hookimpl
def dicm_interest_aggregators():
    return [Component(name="picky", config=Config, build=None)]
"""


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(SMALL)
    with pytest.raises(RecipeError, match="there is no such recipe") as caught:
        load(tmp_path / "quik.yaml")
    assert caught.value.todo == f"Did you mean `{tmp_path}/quick.yaml`?"


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file in UTF-8"):
        load(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_recipes_are_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _written(tmp_path / "recipes" / "shop" / "quick.yaml", SMALL)
    assert find_recipe("recipes/shop/quick.yaml") == find_recipe("shop/quick") == Path("recipes/shop/quick.yaml")
    with pytest.raises(RecipeError) as caught:
        find_recipe("quik")
    assert caught.value.todo == "Did you mean `recipes/shop/quick.yaml`?"


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path
