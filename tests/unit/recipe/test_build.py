"""Recipes to components: what is built, what is shared, and refusals with the recipe's lines."""

from pathlib import Path

import pytest
import torch
from small import SMALL, changed, loaded

from dicm_kit.errors import RecipeError
from dicm_kit.interfaces import ColumnShape
from dicm_kit.recipe.build import backbone_request, build_backbone, build_parts, build_source, rehearse

ID = ColumnShape("id", 10)
COLUMNS = {
    "user": {"user_id": ID},
    "target": {"item_id": ID, "picture": ID},
    "context": {},
    "history": {"item_id": ID},
}

PLUGIN = """
from dataclasses import dataclass
from torch import nn
from dicm_kit import BaseNet, Component, FeatureEncoder, hookimpl
dicm_api = 1

@dataclass
class Nothing:
    \"\"\"No keys.\"\"\"

class Towers(BaseNet):
    requires_untargeted = True
    def __init__(self, shapes):
        super().__init__()
        self.shapes = shapes
    def forward(self, encoded, pictures, interest):
        raise NotImplementedError

class Peeking(FeatureEncoder):
    out_dim = 3
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(__import__("torch").ones(3))
        self.start = self.scale.sum().item()
    def forward(self, values):
        raise NotImplementedError

@hookimpl
def dicm_base_nets():
    return [Component(name="towers", config=Nothing, build=lambda config, shapes: Towers(shapes))]

@hookimpl
def dicm_feature_encoders():
    return [Component(name="peeking", config=Nothing, build=lambda config, shapes: Peeking())]
"""


def refusal(folder: Path, *overrides: str, text: str = SMALL) -> str:
    result = loaded(folder, *overrides, text=text)
    with pytest.raises(RecipeError) as caught:
        rehearse(result)
    return str(caught.value).replace(f"{folder}/", "")


def test_columns_are_told_once_the_file_itself_is_right(tmp_path: Path) -> None:
    """As docs/how_to/read_an_error.md says: only the source, once built, knows its columns."""
    typo, column = "optimizr.dense.lr=1", "features.target.kcall={name: id, dim: 8}"
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, typo, column)
    assert "optimizr" in str(caught.value)
    assert "has no item column" not in str(caught.value)
    told = refusal(tmp_path, column, "features.target.prise={name: number, dim: 8}")
    assert "has no item column `kcall`" in told
    assert "has no item column `prise`" in told


def test_parts_fit_each_other(tmp_path: Path) -> None:
    parts = build_parts(loaded(tmp_path), COLUMNS, image_dim=20)
    assert parts.encoders["history"]["item_id"] is parts.encoders["target"]["item_id"]
    assert parts.embedder is not None
    assert (parts.embedder.in_dim, parts.embedder.dim) == (20, 6)
    assert set(parts.interest) == {"ids", "images"}
    assert parts.interest["ids"].out_dim == 8
    assert parts.interest["images"].out_dim == 2 * 6


def test_the_net_is_told_what_it_gets(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PLUGIN)
    text = changed("net: {name: embedding_mlp, hidden: [16]}", "net: {name: towers}")
    text = text.replace("{name: multi_query_attention, queries: [image, target.item_id]}", "{name: sum}")
    parts = build_parts(loaded(tmp_path, "plugins=[./p.py]", text=text), COLUMNS, image_dim=20)
    shapes = parts.net.shapes
    assert (shapes.user, shapes.target) == ({"user_id": 8}, {"item_id": 8, "picture": 4})
    assert (shapes.history, shapes.context) == ({"item_id": 8}, {})
    assert (shapes.image, shapes.interest) == (6, {"ids": 8, "images": 6})


def test_without_pictures_there_is_no_embedder(tmp_path: Path) -> None:
    parts = build_parts(loaded(tmp_path, "images=null", "interest.images=null"), COLUMNS, image_dim=None)
    assert parts.embedder is None
    assert set(parts.interest) == {"ids"}


def test_the_source_and_the_request(tmp_path: Path) -> None:
    result = loaded(tmp_path)
    assert build_source(result).columns.item["price"].kind == "number"
    request = backbone_request(result)
    assert (request["name"], request["model"], request["weights"]) == ("timm", "resnet10t", "none")
    assert request["layer"] == "pooled"  # defaults too


def test_a_backbone_that_does_not_exist(tmp_path: Path) -> None:
    result = loaded(tmp_path, "images.backbone.model=resnet10tt")
    with pytest.raises(RecipeError, match=r"command line: `images.backbone.model`: timm has no model `resnet10tt`"):
        build_backbone(result)


def test_rehearsal_finds_every_refused_value_at_its_line(tmp_path: Path) -> None:
    text = changed("{user_id: {name: id, dim: 8}}", "{user_id: {name: id, dim: 0}}")
    message = refusal(tmp_path, "net.hidden=[-1]", "features.target.price={name: id}", text=text)
    assert message.startswith("3 problems in recipe.yaml\n\nrecipe.yaml:10: `features.user.user_id.dim`: ")
    assert (
        "command line: `features.target.price.name`: `id` encodes id columns, this column is of kind number" in message
    )
    assert "command line: `net.hidden`: " in message


def test_rehearsal_leaves_random_numbers_alone_and_takes_no_memory(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    rehearse(loaded(tmp_path, "features.user.user_id={name: id}", "features.user.segment={name: id, dim: 1000000}"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_rehearsal_allows_components_that_look_at_values(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PLUGIN)
    assert rehearse(loaded(tmp_path, "plugins=[./p.py]", "features.user.user_id={name: peeking}"))


def test_a_column_the_source_does_not_have(tmp_path: Path) -> None:
    message = refusal(tmp_path, "features.target.color={name: id}", "features.context.hour={name: id}")
    assert "data source `synthetic` has no item column `color`" in message
    assert "Did you mean `colour`? Columns here: category, colour, item_id, picture" in message
    assert "data source `synthetic` has no context column `hour`" in message


def test_only_columns_of_one_vocabulary_share_an_encoder(tmp_path: Path) -> None:
    message = refusal(tmp_path, "features.history.category={share: target.item_id}")
    assert "`features.history.category` cannot share `target.item_id`" in message


def test_two_towers_refuse_what_looks_at_the_target(tmp_path: Path) -> None:
    (tmp_path / "p.py").write_text(PLUGIN)
    text = changed("net: {name: embedding_mlp, hidden: [16]}", "net: {name: towers}")
    message = refusal(tmp_path, "plugins=[./p.py]", text=text)
    assert message.startswith(
        "1 problem in recipe.yaml\n\n"
        "recipe.yaml:20: aggregator `multi_query_attention` looks at the target, which net `towers` forbids"
    )
    assert rehearse(loaded(tmp_path, "plugins=[./p.py]", "interest.images.name=sum", text=text))


def test_two_towers_refuse_context_columns_and_say_which_aggregators_go(tmp_path: Path) -> None:
    text = changed("net: {name: embedding_mlp, hidden: [16]}", "net: {name: two_tower}")
    text = text.replace("features:\n", "features:\n  context: {position: {name: id, dim: 2}}\n")
    message = refusal(tmp_path, "interest.ids={name: attention}", text=text)
    assert (
        message
        == """3 problems in recipe.yaml

recipe.yaml:10: context column `position` belongs to neither tower of net `two_tower`
  >  10 |   context: {position: {name: id, dim: 2}}
  Neither vector may depend on the impression. Leave it out; without any: `features.context={}`.

recipe.yaml:21: aggregator `multi_query_attention` looks at the target, which net `two_tower` forbids
  >  21 |   images: {name: multi_query_attention, queries: [image, target.item_id]}
  Its user vector must not depend on the item. These go: `concat`, `max`, `mean`, `sum`; or give it queries of the \
user alone: user.user_id.

command line: aggregator `attention` looks at the target, which net `two_tower` forbids
  > interest.ids={name: attention}
  Its user vector must not depend on the item. These go: `concat`, `max`, `mean`, `sum`; or give it queries of the \
user alone: user.user_id."""
    )
    mended = ["features.context={}", "interest.images={name: attention, queries: [user.user_id]}"]
    assert rehearse(loaded(tmp_path, *mended, text=text))
