"""Laws of recipes: any text is a recipe or is explained; what is written out reads the same."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicm_kit.errors import RecipeError
from dicm_kit.recipe.load import dump, load

RECIPE = (Path(__file__).parents[2] / "plugins/example_aggregator/recipe.yaml").read_text()
PLUGIN = (Path(__file__).parents[2] / "plugins/example_aggregator/dicm_example_aggregator.py").read_text()

TOKENS = st.sampled_from(
    [
        *("{}", "[]", "null", "???", "-1", "1.5", "yes", "name", "sum", "a.b", "'", '"', ":", "- ", "\n", "\t", "&a"),
        *("*a", "!!python/object:os.system", "${oc.env:HOME}", "${x}", "{name: id}", "[image, 3]", "\x00", "é", "%"),
        *("1e999", ".nan"),
    ]
)
KEYS = st.sampled_from(
    [
        *("seed", "data", "data.out", "data.lanes", "features", "features.user", "features.history.item_id.share"),
        *("images", "images.backbone", "images.embedder.hidden", "interest", "interest.ids", "interest.images.name"),
        *("net.name", "optimizer.decay", "trainer.max_epochs", "trainer.precision", "plugins", "dicm", "x.y.z", ""),
    ]
)


@pytest.fixture(scope="module")
def folder() -> Path:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "dicm_example_aggregator.py").write_text(PLUGIN)
        yield Path(name)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.integers(0, len(RECIPE)), length=st.integers(0, 12), token=TOKENS)
def test_any_text_is_a_recipe_or_an_explanation(folder: Path, place: int, length: int, token: str) -> None:
    path = folder / "r.yaml"
    path.write_text(RECIPE[:place] + token + RECIPE[place + length :])
    _loads_or_explains(path, [])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(overrides=st.lists(st.tuples(KEYS, TOKENS), max_size=3))
def test_any_override_is_taken_or_explained(folder: Path, overrides: list[tuple[str, str]]) -> None:
    path = folder / "r.yaml"
    path.write_text(RECIPE)
    _loads_or_explains(path, [f"{key}={value}" for key, value in overrides])


def _loads_or_explains(path: Path, overrides: list[str]) -> None:
    try:
        loaded = load(path, overrides)
    except RecipeError as error:
        text = str(error)
        assert " in " in text.splitlines()[0]
        assert f"{path}:" in text or "command line: " in text
    else:
        copy = path.with_name("copy.yaml")
        copy.write_text(dump(loaded.recipe))
        assert dump(load(copy).recipe) == dump(loaded.recipe)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rate=st.floats(1e-9, 1e9),
    hidden=st.lists(st.integers(1, 4096), max_size=4),
    where=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(
        lambda text: "${" not in text and text != "???"
    ),
    clip=st.none() | st.floats(1e-9, 1e9),
)
def test_what_is_written_out_reads_the_same(
    folder: Path, seed: int, rate: float, hidden: list[int], where: str, clip: float | None
) -> None:
    path = folder / "r.yaml"
    path.write_text(RECIPE)
    recipe = load(path).recipe
    recipe.seed, recipe.optimizer.dense.lr, recipe.run_dir, recipe.trainer.gradient_clip = seed, rate, where, clip
    assert recipe.images is not None
    recipe.images.embedder.hidden = hidden
    path.write_text(dump(recipe), encoding="utf-8")
    again = load(path).recipe
    assert again.images is not None
    assert (again.seed, again.optimizer.dense.lr, again.run_dir) == (seed, rate, where)
    assert (again.trainer.gradient_clip, again.images.embedder.hidden) == (clip, hidden)
