"""What `movielens` promises; run it with `pytest plugins/dicm_movielens/tests`."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dicm_kit import DataError, DicmError, FieldError, cli
from dicm_kit.data.dataset import Dataset
from dicm_kit.testing import DataSourceContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_movielens import MovieLens, MovieLensConfig, build, dicm_data_sources

RECIPE = Path(__file__).parents[1] / "recipe.yaml"
FIXTURE = Path(__file__).parent / "fixture"
LAYOUTS = ("ml-100k", "ml-1m", "ml-latest-small")


class TestMovieLens(DataSourceContract):
    component = dicm_data_sources()[0]
    configs = tuple({"root": str(FIXTURE / name), "posters": "posters"} for name in LAYOUTS[::2])


def rows(stream: Any) -> list[dict[str, Any]]:
    return pa.Table.from_batches(stream).to_pylist()


def source(name: str, **keys: Any) -> MovieLens:
    return build(MovieLensConfig(root=str(FIXTURE / name), **keys))


def log(made: MovieLens) -> list[dict[str, Any]]:
    return rows(made.impressions("ratings"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_ratings_are_read_and_four_stars_are_liked(name: str) -> None:
    made = log(source(name))
    assert len(made) == 168
    assert {tuple(row) for row in made} == {("user", "item", "time", "label")}
    lines = (FIXTURE / "ml-1m/ratings.dat").read_text().splitlines()
    stars = {tuple(map(int, line.split("::")[:2])): int(line.split("::")[2]) for line in lines}
    half = 0.5 if name == "ml-latest-small" else 0  # there every fifth rating is half a star less
    for row in made:
        less = half * ((row["user"] + row["item"]) % 5 == 0)
        assert row["label"] == (stars[row["user"], row["item"]] - less >= 4)


def test_thresholds_and_only_liked() -> None:
    liked = [row for row in log(source("ml-1m", liked_from=5)) if row["label"]]
    assert log(source("ml-1m", liked_from=5, only_liked=True)) == liked
    assert 0 < len(liked) < sum(row["label"] for row in log(source("ml-1m")))
    assert len({source("ml-1m", **keys).fingerprint for keys in ({}, {"liked_from": 5}, {"only_liked": True})}) == 3


@pytest.mark.parametrize("name", LAYOUTS)
def test_films(name: str) -> None:
    films = {row["item"]: row for row in rows(source(name, posters="posters").items())}
    assert len(films) == 16
    assert films[2] | {"genres": 0} == {
        "item": 2, "picture": "2", "title": "Señor Café (1982)", "year": "1982", "genres": 0,
    }  # fmt: skip
    assert films[5]["title"] == 'Long Way: The "Return" (1985)'
    assert films[1]["genres"] == ["Adventure", "Children's", "Comedy"]
    assert (films[9]["title"], films[9]["year"]) == ("unknown", None)
    none = {"ml-100k": ["unknown"], "ml-1m": ["Drama"], "ml-latest-small": None}
    assert films[9]["genres"] == none[name]


def test_titles_with_commas_and_without_a_year() -> None:
    films = {row["item"]: row for row in rows(source("ml-latest-small").items())}
    assert films[3]["title"] == "Kite, The (1983)"
    assert (films[7]["title"], films[7]["year"], films[7]["picture"]) == ("Atlas", None, None)


def test_users() -> None:
    made = source("ml-100k")
    third, fifth = (row for row in rows(made.users()) if row["user"] in (3, 5))
    assert (third["zip_code"], fifth["zip_code"], third["age"]) == ("010003", "V3N4P", 23.0)
    assert set(made.columns.user) == {"age", "gender", "occupation", "zip_code"}
    assert rows(source("ml-1m").users())[0]["occupation"] == "1"
    made = source("ml-latest-small")
    assert (list(made.users()), made.columns.user) == ([], {})


@pytest.mark.parametrize("name", LAYOUTS)
def test_posters_of_every_format_and_only_of_films(name: str) -> None:
    found = dict(source(name, posters="posters").pictures({"1"}))
    assert set(found) == {str(film) for film in range(2, 17)} - {"4", "9"}
    assert found["2"][1:4] == b"PNG"
    assert found["6"][8:12] == b"WEBP"
    assert list(source(name).pictures(())) == []


def call(command: str, layout: str, **keys: Any) -> None:
    keys = {"root": FIXTURE / layout, "lanes": 2, "partitions": 2, "min_count": 1} | keys
    backbone = ("model=resnet10t", "weights=none", "layer=layer1", "image_size=16")
    others = [f"images.backbone.{key}" for key in backbone] + ["batch_size=64", "trainer.accelerator=cpu"]
    assert cli.main([command, str(RECIPE), *(f"data.{key}={value}" for key, value in keys.items()), *others]) == 0


def test_a_run_with_posters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call("run", "ml-100k", **{"split.test": 3, "split.validation": 3})
    assert "test" in json.loads((tmp_path / "runs/movielens/test.json").read_text())


def test_a_dataset_folder_of_liked_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call(
        "prepare",
        "ml-1m",
        only_liked="true",
        negatives="{per_positive: 2, alive: always}",
        **{"split.test": 1, "split.validation": 1},
    )
    made = Dataset.open(tmp_path / "data/movielens-plugin")
    liked = len(log(source("ml-1m", only_liked=True)))
    assert sum(split.positives for split in made.splits.values()) == liked


BROKEN = {
    "no file": (
        "u.item",
        "",
        None,
        r"there is no u.item in .*\n\n  The folder should hold:\n    u.data, u.item, u.user ",
    ),
    "no rating": ("u.data", "7\t15\t2\t", "7\t15\tgood\t", "u.data:1: `rating` is no number: 'good'"),
    "stars": ("u.data", "7\t15\t2\t", "7\t15\t6\t", r"`rating` is not between 0.5 and 5 in 1 row \(line 1\)"),
    "no time": ("u.data", "874731910\n", "\n", r"u.data: `time` has no value in 1 row \(line 1\)"),
    "a user that is none": ("u.user", "1|21|", "one|21|", "u.user:1: `user` is no whole number: 'one'"),
    "a short line": ("u.item", "|0|0\n", "|0\n", "u.item:1: a broken line: 23 values, there should be 24"),
    "another separator": ("u.data", "\t", " ", "u.data:1: a broken line: 1 values, there should be 4"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_an_error_that_says_where(case: str, tmp_path: Path) -> None:
    file, old, new, message = BROKEN[case]
    shutil.copytree(FIXTURE / "ml-100k", tmp_path / "ml")
    path = tmp_path / "ml" / file
    if new is None:
        path.unlink()
    else:
        text = path.read_bytes().decode("latin-1")
        assert old in text
        path.write_bytes(text.replace(old, new).encode("latin-1"))
    with pytest.raises(DicmError, match=message):
        read_all(build(MovieLensConfig(root=str(tmp_path / "ml"))))


def read_all(made: MovieLens) -> None:
    for stream in (made.impressions("ratings"), made.items(), made.users()):
        rows(stream)


def test_a_csv_with_another_header_shows_the_difference(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE / "ml-latest-small", tmp_path / "ml")
    path = tmp_path / "ml/ratings.csv"
    path.write_text(path.read_text().replace("userId,movieId", "user_id,movie_id"))
    with pytest.raises(
        DataError, match=r"ratings.csv:1: the header lacks `userId`, `movieId`; instead there is `user_id`"
    ):
        build(MovieLensConfig(root=str(tmp_path / "ml")))


def test_other_folders_and_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="there is no folder"):
        source("ml-2m")
    with pytest.raises(
        FieldError, match=r"there is no ratings.csv in (.|\n)*ratings.dat, movies.dat, users.dat +ml-1m"
    ):
        build(MovieLensConfig(root=str(tmp_path)))
    with pytest.raises(FieldError, match="`posters`: there is no folder covers"):
        source("ml-1m", posters="covers")
    with pytest.raises(FieldError, match="`liked_from`: is 6"):
        source("ml-1m", liked_from=6)
