"""Comparison files: what they load to, and every mistake with its line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicm_kit.errors import RecipeError
from dicm_kit.recipe.comparison import is_comparison, load_comparison
from dicm_kit.recipe.load import load

REPOSITORY = Path(__file__).parents[3]
WHOLE = """\
# A table.
compare: 1
base: ./debug.yaml
rows:
  first: []
  second: [trainer.max_steps=3, batch_size=64]
  third: {recipe: ./more/other.yaml}
  fourth: {recipe: more/other.yaml, overrides: ['run_dir=runs/${oc.env:HOME,x}']}
  fifth:
against: second
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two recipes in it: messages then hold no path of this machine."""
    (tmp_path / "more").mkdir()
    text = (REPOSITORY / "recipes/debug.yaml").read_text()
    (tmp_path / "debug.yaml").write_text(text)
    (tmp_path / "more/other.yaml").write_text(text.replace("batch_size: 128", "batch_size: 32"))
    monkeypatch.chdir(tmp_path)
    return Path()


def written(text: str) -> Path:
    Path("table.yaml").write_text(text)
    return Path("table.yaml")


def test_rows_are_recipes_with_overrides(folder: Path) -> None:
    found = load_comparison(written(WHOLE), ["seed=3"])
    assert [row.name for row in found.rows] == ["first", "second", "third", "fourth", "fifth"]
    recipes = {row.name: row.loaded.recipe for row in found.rows}
    assert {each.seed for each in recipes.values()} == {3}
    assert [each.batch_size for each in recipes.values()] == [128, 64, 32, 32, 128]
    assert recipes["second"].trainer.max_steps == 3
    assert [row.name for row in found.rows if row.own_folder] == ["fourth"]
    assert found.against == "second"
    lines = str(found).splitlines()
    assert lines[0] == "5 rows, differences to second:"
    assert lines[2] == "second  debug.yaml trainer.max_steps=3 batch_size=64 seed=3"


def test_a_row_without_pictures_does_not_get_what_is_said_of_pictures(folder: Path) -> None:
    text = "compare: 1\nbase: ./debug.yaml\nrows:\n  ids: [images=null, interest.images=null]\n  all: []\n"
    given = ["images.backbone.seed=5", "seed=3"]
    ids, whole = (row.loaded.recipe for row in load_comparison(written(text), given).rows)
    assert (ids.images, ids.seed, whole.seed) == (None, 3, 3)
    assert whole.images is not None
    assert whole.images.backbone.config.seed == 5
    with pytest.raises(RecipeError, match=r"images\.backbone\.sed"):
        load_comparison(written(text), ["images.backbone.sed=5"])


def test_another_base_takes_the_place_of_the_recipes_beside_the_old_one(folder: Path) -> None:
    Path("shop").mkdir()
    text = Path("debug.yaml").read_text()
    for name, size in (("big.yaml", 256), ("side.yaml", 512)):
        Path("shop", name).write_text(text.replace("batch_size: 128", f"batch_size: {size}"))
    Path("side.yaml").write_text(text)
    rows = "{first: [], second: {recipe: ./side.yaml}, third: {recipe: ./more/other.yaml}}"
    file = written(f"compare: 1\nbase: ./debug.yaml\nrows: {rows}\n")
    sizes = [row.loaded.recipe.batch_size for row in load_comparison(file, ["base=shop/big.yaml"]).rows]
    assert sizes == [256, 512, 32]
    with pytest.raises(RecipeError, match=r"there is no recipe `shop/bgi\.yaml`"):
        load_comparison(file, ["base=shop/bgi.yaml"])


def test_a_row_after_a_run_that_is_not_there(folder: Path) -> None:
    text = "compare: 1\nbase: ./debug.yaml\nbefore: {yesterday: []}\nrows: {first: {after: yesteday}}\n"
    with pytest.raises(
        RecipeError, match=r"there is no run `yesteday` in `before`[\s\S]*Did you mean `yesterday`"
    ) as e:
        load_comparison(written(text))
    assert "table.yaml:4" in str(e.value)


def test_a_row_says_what_it_starts_from(folder: Path) -> None:
    text = "compare: 1\nbase: ./debug.yaml\nbefore: {yesterday: [seed=5]}\nrows: {first: {after: yesterday}}\n"
    found = load_comparison(written(text))
    (row,), (before,) = found.rows, found.before
    assert row.loaded.recipe.warm_start.run == str(before.folder) == "runs/debug/yesterday"
    assert str(found).splitlines()[1].endswith("(after yesterday)")
    assert str(found).splitlines()[2] == "before them:"


def test_differences_are_to_the_first_row_unless_said(folder: Path) -> None:
    assert load_comparison(written(WHOLE.replace("against: second\n", ""))).against == "first"


def test_it_looks_for_recipes_beside_itself(folder: Path) -> None:
    Path("tables").mkdir()
    text = "compare: 1\nbase: ../debug.yaml\nrows: {first: [], second: {recipe: ../more/other.yaml}}\n"
    Path("tables/table.yaml").write_text(text)
    assert [row.loaded.recipe.batch_size for row in load_comparison(Path("tables/table.yaml")).rows] == [128, 32]


def test_it_is_told_from_a_recipe(folder: Path) -> None:
    assert is_comparison(written(WHOLE))
    assert not is_comparison(Path("debug.yaml"))
    with pytest.raises(RecipeError, match="is a comparison, not a recipe"):
        load("table.yaml")


BROKEN = {
    "empty": "compare: 1\nbase: ./debug.yaml\nrows: {}\n",
    "missing_keys": "compare: 1\n",
    "format": WHOLE.replace("compare: 1", "compare: 2"),
    "all_at_once": """\
compare: 1
base: ./debgu.yaml
aganist: first
rows:
  first: []
  a/b: []
  second: {recpie: ./more/other.yaml}
  third: {recipe: ./more/othr.yaml}
  fourth: trainer.max_steps=3
against: frist
""",
    "rows": """\
compare: 1
base: ./debug.yaml
rows:
  first: []
  second:
    - trainer.max_stepss=3
    - net.name=embeding_mlp
    - seed
  third: {recipe: ./more/other.yaml, overrides: [interest.images.queries=image]}
""",
    "not_quoted": "compare: 1\nbase: ./debug.yaml\nrows:\n  first: [interest.images.queries=[image]]\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_mistakes_are_shown_with_file_and_line(case: str, folder: Path, golden: Callable[[str, str], None]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_comparison(written(BROKEN[case]), ["batch_size=many"] if case == "rows" else [])
    golden(f"errors/comparison_{case}.txt", f"{caught.value}\n")


def test_the_quickstarts_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    found = load_comparison(Path("recipes/quickstart/compare.yaml"))
    assert found.against == "baseline"
    assert len(found.rows) == 5
