"""What `taobao_ad` promises; run it with `pytest plugins/dicm_taobao_ad/tests`."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dicm_kit import DicmError, FieldError, cli
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.sources import log_csv
from dicm_kit.testing import DataSourceContract

sys.path.insert(0, str(Path(__file__).parents[1]))
import dicm_taobao_ad
from dicm_taobao_ad import TaobaoAd, TaobaoAdConfig, build, dicm_data_sources

RECIPE = Path(__file__).parents[1] / "recipe.yaml"
FIXTURE = Path(__file__).parent / "fixture"
FIRST = 1_494_000_000  # 2017-05-06 00:00 in China


class TestTaobaoAd(DataSourceContract):
    component = dicm_data_sources()[0]
    configs = ({"root": str(FIXTURE), "pictures": "pictures", "behavior": True},)


def rows(stream: Any) -> list[dict[str, Any]]:
    return pa.Table.from_batches(stream).to_pylist()


def source(**keys: Any) -> TaobaoAd:
    return build(TaobaoAdConfig(root=str(FIXTURE), **keys))


def lines(name: str) -> list[list[str]]:
    return [line.split(",") for line in (FIXTURE / name).read_text().splitlines()[1:]]


def test_every_ad_shown_with_its_click_and_days_of_china() -> None:
    made, shown = rows(source().impressions("raw_sample.csv")), lines("raw_sample.csv")
    assert len(made) == len(shown) == 264
    for row, (user, time, ad, pid, _, clicked) in zip(made, shown, strict=True):
        time = int(time) + 8 * 3600
        assert row == {"user": int(user), "item": int(ad), "time": time, "label": float(clicked), "pid": pid}
    days = {row["time"] // 86_400 for row in made}
    assert days == set(range((FIRST + 8 * 3600) // 86_400, (FIRST + 8 * 3600) // 86_400 + 8))  # eight whole days
    assert rows(source(utc_offset_hours=0).impressions("raw_sample.csv"))[0]["time"] == int(shown[0][1])


def test_ads_with_nulls() -> None:
    ads = {row["item"]: row for row in rows(source().items())}
    assert ads[3] == {
        "item": 3, "picture": None, "cate_id": 6403, "campaign_id": 83001, "customer": 2, "brand": 95003, "price": 30.5,
    }  # fmt: skip
    assert ads[5]["brand"] is None
    assert rows(source(pictures="pictures").items())[2]["picture"] == "3"


def test_users_without_a_profile_are_there_with_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_csv, "_BLOCK", 500)
    monkeypatch.setattr(dicm_taobao_ad, "_HELD", 30)
    users = {row["user"]: row for row in rows(source().users())}
    assert sorted(users) == list(range(101, 116))
    assert (users[102]["pvalue_level"], users[103]["new_user_class_level"]) == (None, 4)
    assert (users[101]["pvalue_level"], users[104]["new_user_class_level"]) == (3, None)
    assert {value for name, value in users[113].items() if name not in ("user", "row")} == {None}


def test_counts_of_behaviour_end_before_the_first_ad() -> None:
    first = min(int(time) for _, time, *_ in lines("raw_sample.csv"))
    wanted = Counter((int(user), act) for user, time, act, *_ in lines("behavior_log.csv") if int(time) < first)
    assert 0 < sum(wanted.values()) < 120
    made = source(behavior=True)
    found = rows(made.users())
    assert len(found) == 15
    for row in found:
        assert [row[act] for act in ("pv", "cart", "fav", "buy")] == [
            wanted[row["user"], act] for act in ("pv", "cart", "fav", "buy")
        ]
    assert list(made.columns.user)[-4:] == ["pv", "cart", "fav", "buy"]
    assert made.fingerprint != source().fingerprint
    assert made.snapshot != source().snapshot


def test_pictures_are_those_that_the_user_brings() -> None:
    assert {name for name, _ in source(pictures="pictures").pictures(())} == {str(ad) for ad in range(1, 21) if ad % 4}
    assert list(source().pictures(())) == []


def test_a_run_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"root": FIXTURE, "lanes": 2, "partitions": 2, "min_count": 1}
    keys = {f"data.{key}": value for key, value in data.items()} | {"batch_size": 64, "trainer.accelerator": "cpu"}
    backbone = {"model": "resnet10t", "weights": "none", "layer": "layer1", "image_size": 16}
    keys |= {f"images.backbone.{key}": value for key, value in backbone.items()}
    assert cli.main(["run", str(RECIPE), *(f"{key}={value}" for key, value in keys.items())]) == 0
    assert "test" in json.loads((tmp_path / "runs/taobao_ad/test.json").read_text())
    made = Dataset.open(tmp_path / "data/taobao_ad")
    assert [split.impressions for split in made.splits.values()] == [198, 33, 33]
    assert made.num_pictures == 15


LOG, ADS, USERS, ACTS = "raw_sample.csv", "ad_feature.csv", "user_profile.csv", "behavior_log.csv"
BROKEN = {
    "no file": (ADS, "", None, r"there is no ad_feature.csv in .*\n\n  The folder should hold:\n    raw_sample.csv  "),
    "no behaviour": (ACTS, "", None, "there is no behavior_log.csv in"),
    "header": (USERS, "new_user_class_level ", "city", "lacks `new_user_class_level`; instead there is `city`"),
    "no time": (LOG, ",1494", ",now1494", "sample.csv:2: `time_stamp` is no whole number: 'now1494"),
    "both": (LOG, ",1,0\n", ",1,1\n", r"`clk` and `nonclk` are not 0 and 1, or 1 and 0 in \d+ rows \(line "),
    "two": (LOG, ",1,0\n", ",2,-1\n", r"`clk` and `nonclk` are not 0 and 1, or 1 and 0 in \d+ rows \(line "),
    "a price of words": (ADS, ",170.0\n", ",cheap\n", "feature.csv:3: `price` is no number: 'cheap'"),
    "an ad without a number": (ADS, "\n3,", "\n,", r"feature.csv: `adgroup_id` has no value in 1 row \(line 4\)"),
    "another act": (ACTS, ",pv,", ",look,", r"log.csv: `btag` is none of pv, cart, fav, buy in \d+ rows \(line "),
    "a short line": (LOG, ",1,0\n", ",1\n", r"sample.csv:\d+: a broken line: 5 values, the header has 6"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_an_error_that_says_where(case: str, tmp_path: Path) -> None:
    file, old, new, message = BROKEN[case]
    shutil.copytree(FIXTURE, tmp_path / "ads")
    path = tmp_path / "ads" / file
    if new is None:
        path.unlink()
    else:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DicmError, match=message):
        read_all(tmp_path / "ads")


def read_all(root: Path) -> None:
    made = build(TaobaoAdConfig(root=str(root), behavior=True))
    for stream in (made.impressions("raw_sample.csv"), made.items(), made.users()):
        rows(stream)


def test_values_and_folders_that_cannot_be_are_refused() -> None:
    with pytest.raises(FieldError, match="`utc_offset_hours`: lies between"):
        source(utc_offset_hours=800)
    with pytest.raises(FieldError, match="`pictures`: there is no folder ads"):
        source(pictures="ads")
