"""The words about recipes come from the code: pages are current, every key is explained."""

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from small import loaded

from dicm_kit.errors import RecipeError
from dicm_kit.recipe.describe import explained, explained_section, kind_named, plan, reference
from dicm_kit.recipe.keys import docs_of, keys_of, type_text, without_null
from dicm_kit.recipe.schema import Recipe
from dicm_kit.registry import Registry

PAGE = Path(__file__).parents[3] / "docs/reference/recipe.md"


def sections(section: type) -> list[type]:
    below: list[type] = [section]
    for key in keys_of(section).values():
        inner: Any = (get_args(without_null(key.type)[0]) or (without_null(key.type)[0],))[-1]
        if is_dataclass(inner):
            below += sections(inner)  # type: ignore[arg-type]
    return below


def test_the_reference_page_is_current(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        PAGE.write_text(reference(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "docs/reference/recipe.md is not current: python -m dicm_kit.recipe.describe > docs/reference/recipe.md"
    )


def test_every_key_of_every_section_and_component_is_explained() -> None:
    configs = [each.component.config for each in Registry().provided()]
    for section in [*sections(Recipe), *configs]:
        docs = docs_of(section)
        unexplained = [name for name in keys_of(section) if not docs.get(name)]
        assert docs[""], section
        assert not unexplained, (section, unexplained)


def test_types_are_named_in_a_recipe_writers_words() -> None:
    keys = {name: type_text(key.type) for each in sections(Recipe) for name, key in keys_of(each).items()}
    assert keys["precision"] == "one of '32-true', '16-mixed', 'bf16-mixed'"
    assert keys["max_steps"] == "int or null"
    assert keys["plugins"] == "list of str"
    assert type_text(dict[str, float]) == "section of float"
    assert type_text(tuple[int, float]) == "list of 2: int, float"
    assert type_text(int | str | None) == "int or str or null"


def test_a_component_is_explained() -> None:
    registry = Registry()
    registry.find("feature_encoder", "hash")
    text = explained(registry.owner("feature_encoder", "hash"))
    assert text.startswith("encoder `hash`\n\n  A trained vector for each bucket of hashes")
    assert "  buckets: int, default 100000\n      Rows of the table" in text
    assert "features.target.item_id: {name: hash}" in text


def test_a_section_is_explained() -> None:
    text = explained_section("optimizer.decay")
    assert "  every: int, must be given\n" in text
    with pytest.raises(RecipeError) as caught:
        explained_section("optimizr")
    assert "Did you mean `optimizer`?" in str(caught.value)


@pytest.mark.parametrize("word", ["base_net", "net", "nets", "base-nets", "base net"])
def test_kinds_by_the_words_people_use(word: str) -> None:
    assert kind_named(word).name == "base_net"


def test_a_kind_that_is_none() -> None:
    with pytest.raises(RecipeError, match="no kind of component is called `losses`"):
        kind_named("losses")


def test_the_plan_says_what_a_run_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = plan(loaded(tmp_path, "interest.ids.name=attention", "interest.images.name=sum", "trainer.max_steps=9"))
    assert "data      synthetic -> data/small (to be prepared); histories of 8, 16 lanes" in text
    assert "history: item_id (as target.item_id)" in text
    assert "pictures  target and history; timm resnet10t, embedder 16-6" in text
    assert "training  2 epochs, at most 9 steps, batches of 64, 1 rank (auto, auto), bf16-mixed" in text
    assert "note: `interest.images.queries` is left out: sum has no such key" in text
    assert "none: the id-only baseline" in plan(loaded(tmp_path, "images=null", "interest.images=null"))
