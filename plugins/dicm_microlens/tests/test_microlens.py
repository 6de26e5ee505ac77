"""What `microlens` promises; run it with `pytest plugins/dicm_microlens/tests`."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dicm_kit import DicmError, FieldError, cli
from dicm_kit.data.dataset import Dataset
from dicm_kit.testing import DataSourceContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_microlens import MicroLens, MicroLensConfig, build, dicm_data_sources

RECIPE = Path(__file__).parents[1] / "recipe.yaml"
FIXTURE = Path(__file__).parent / "fixture"
SIZES = ("50k", "100k")


class TestMicroLens(DataSourceContract):
    component = dicm_data_sources()[0]
    configs = ({"root": str(FIXTURE / "MicroLens-100k"), "covers": "MicroLens-100k_covers"},)


def rows(stream: Any) -> list[dict[str, Any]]:
    return pa.Table.from_batches(stream).to_pylist()


def source(size: str, covers: bool = True) -> MicroLens:
    return build(MicroLensConfig(str(FIXTURE / f"MicroLens-{size}"), f"MicroLens-{size}_covers" if covers else None))


@pytest.mark.parametrize("size", SIZES)
def test_every_comment_is_a_click_at_its_second_and_millisecond(size: str) -> None:
    made = rows(source(size).impressions("pairs"))
    lines = (FIXTURE / f"MicroLens-{size}/MicroLens-{size}_pairs.csv").read_text().splitlines()[1:]
    assert len(made) == len(lines) > 100
    for row, line in zip(made, lines, strict=True):
        user, item, time = map(int, line.split(","))
        assert row == {"user": user, "item": item, "time": time // 1000, "order": time % 1000, "label": 1.0}


def test_titles_with_header_and_quotes_and_without_either() -> None:
    small, large = ({row["item"]: row for row in rows(source(size).items())} for size in SIZES)
    for videos in (small, large):
        assert len(videos) == 18
        assert videos[2]["title"] == "Knots, ropes, and 舟 🚣"
        assert videos[5]["title"] == 'The "best" harbour'
        assert videos[7]["title"] in ("", None)
    assert large[9]["title"] == 'An "unclosed quote, and a comma'


def test_likes_views_and_tags_where_the_folder_has_them(tmp_path: Path) -> None:
    assert rows(source("100k").items())[2] == {
        "item": 3, "picture": "3", "title": "How to fold a boat no 3", "likes": 300.0, "views": 15007.0, "tag": "Boats",
    }  # fmt: skip
    assert list(source("50k").columns.item) == ["title", "likes", "views"]
    for name in ("MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"):
        shutil.copy(FIXTURE / "MicroLens-50k" / name, tmp_path)
    made = build(MicroLensConfig(str(tmp_path)))
    assert rows(made.items())[0] == {"item": 1, "picture": None, "title": "How to fold a boat no 1"}
    assert made.fingerprint != source("50k", covers=False).fingerprint
    (tmp_path / "MicroLens-50k_likes_and_views.txt").write_text("3\t5\t6\n")
    found = rows(build(MicroLensConfig(str(tmp_path))).items())
    assert [(row["likes"], row["views"]) for row in found[1:3]] == [(None, None), (5.0, 6.0)]


def test_covers() -> None:
    assert {name for name, _ in source("50k").pictures({"1"})} == {str(item) for item in range(2, 19)} - {"11"}
    assert list(source("50k", covers=False).pictures(())) == []
    assert list(source("50k").users()) == []


def test_a_run_with_covers_and_drawn_negatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"root": FIXTURE / "MicroLens-50k", "lanes": 2, "partitions": 2, "min_count": 1, "negatives.alive": "always"}
    keys = {f"data.{key}": value for key, value in data.items()} | {"batch_size": 128, "trainer.accelerator": "cpu"}
    backbone = {"model": "resnet10t", "weights": "none", "layer": "layer1", "image_size": 16}
    keys |= {f"images.backbone.{key}": value for key, value in backbone.items()}
    assert cli.main(["run", str(RECIPE), *(f"{key}={value}" for key, value in keys.items())]) == 0
    assert "test" in json.loads((tmp_path / "runs/microlens/test.json").read_text())
    made = Dataset.open(tmp_path / "data/microlens")
    assert (made.splits["test"].positives, made.splits["val"].positives) == (14, 14)  # one of each user
    assert made.num_pictures == 17


PAIRS, TITLES, COUNTS = (f"MicroLens-100k_{name}" for name in ("pairs.csv", "title_en.csv", "likes_and_views.txt"))
BROKEN = {
    "no pairs": (PAIRS, "", None, r"there is no MicroLens-\*_pairs.csv in (.|\n)*the .tsv has no times"),
    "no titles": (TITLES, "", None, r"there is no MicroLens-\*_title\*.csv"),
    "header": (PAIRS, "item,t", "video,t", "pairs.csv:1: the header lacks `item`; instead there is `video`"),
    "seconds": (
        PAIRS,
        r"(\d{10})\d{3}\n",
        r"\1\n",
        r"`timestamp` is not in milliseconds since 1970 in 112 rows \(line 2, ",
    ),
    "no number": (PAIRS, r"\n11,", r"\neleven,", r"pairs.csv:\d+: `user` is no whole number: 'eleven'"),
    "a title of nothing": (TITLES, "3,How", "How", r"no video's number and comma .* in 2 rows \(line 3, line 13\)"),
    "likes": (COUNTS, r"\t300\t", r"\tmany\t", "views.txt:3: `likes` is no number: 'many'"),
    "likes with commas": (COUNTS, r"\t", ",", "views.txt:1: a broken line: 1 values, there should be 3"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_an_error_that_says_where(case: str, tmp_path: Path) -> None:
    file, old, new, message = BROKEN[case]
    shutil.copytree(FIXTURE / "MicroLens-100k", tmp_path / "folder")
    path = tmp_path / "folder" / file
    if new is None:
        path.unlink()
    else:
        text, count = re.subn(old, new, path.read_text())
        assert count
        path.write_text(text)
    with pytest.raises(DicmError, match=message):
        read_all(tmp_path / "folder")


def read_all(root: Path) -> None:
    made = build(MicroLensConfig(str(root)))
    for stream in (made.impressions("pairs"), made.items()):
        rows(stream)


def test_two_datasets_in_one_folder_and_no_covers(tmp_path: Path) -> None:
    for size in SIZES:
        shutil.copy(FIXTURE / f"MicroLens-{size}/MicroLens-{size}_pairs.csv", tmp_path)
    with pytest.raises(FieldError, match=r"there are several MicroLens-\*_pairs.csv: MicroLens-100k_pairs.csv, Micro"):
        build(MicroLensConfig(str(tmp_path)))
    with pytest.raises(FieldError, match="`covers`: there is no folder covers"):
        build(MicroLensConfig(str(FIXTURE / "MicroLens-50k"), "covers"))
