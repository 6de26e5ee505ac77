"""`dicm cp`: text as it was, plugin files still found."""

from pathlib import Path

import pytest
from small import SMALL

from dicm_kit.errors import RecipeError
from dicm_kit.recipe.copy import copy_recipe


def test_comments_stay_and_relative_plugin_files_are_rewritten(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    source = tmp_path / "a" / "r.yaml"
    source.write_text("# mine\nplugins: [dicm-x, './p.py', /abs/q.py]  # two files\n" + SMALL)
    assert copy_recipe(source, tmp_path / "a" / "b" / "c.yaml").read_text() == (
        "# mine\nplugins: [dicm-x, ../p.py, /abs/q.py]  # two files\n" + SMALL
    )
    copied = copy_recipe(source, tmp_path)  # a folder
    assert copied == tmp_path / "r.yaml"
    assert "plugins: [dicm-x, ./a/p.py, /abs/q.py]  # two files" in copied.read_text()


def test_what_is_there_stays(tmp_path: Path) -> None:
    source, target = tmp_path / "r.yaml", tmp_path / "c.yaml"
    source.write_text(SMALL)
    target.write_text("mine")
    with pytest.raises(RecipeError, match="there is a file already"):
        copy_recipe(source, target)
    assert target.read_text() == "mine"
    copy_recipe(source, target, force=True)
    assert target.read_text() == SMALL


@pytest.mark.parametrize(
    ("target", "message"), [("c.txt", "ends in `.yaml`"), ("no/c.yaml", "its folder does not exist")]
)
def test_a_target_that_cannot_be(target: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(SMALL)
    with pytest.raises(RecipeError, match=message):
        copy_recipe(tmp_path / "r.yaml", tmp_path / target)


def test_a_broken_recipe_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="this is not YAML"):
        copy_recipe(tmp_path / "r.yaml", tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()
