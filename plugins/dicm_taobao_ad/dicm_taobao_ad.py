"""Taobao's display ads (Ali_Display_Ad_Click) as a data source: who clicks on which ad; real clicks and non-clicks.

Histories are the ads that the user clicked before in the same log. The behaviour log has categories and brands, but no
ads: it cannot be a history of items. What can be had of it without looking ahead are counts of what each user did
before the first ad was shown: `behavior: true`.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dicm_kit import (
    Component,
    DataSource,
    FieldError,
    SourceColumn,
    SourceColumns,
    SourceFolder,
    hookimpl,
    joined_fingerprint,
)

dicm_api = 1

_VERSION = 1  # raised when the same files and config would give other tables
_HOLDS = {
    "raw_sample.csv": "ads shown: user,time_stamp,adgroup_id,pid,nonclk,clk",
    "ad_feature.csv": "ads: adgroup_id,cate_id,campaign_id,customer,brand,price",
    "user_profile.csv": "users: userid,cms_segid, ...",
    "behavior_log.csv": "only for `behavior: true`: user,time_stamp,btag,cate,brand",
}
_LOG = {
    "user": "int64",
    "time_stamp": "int64",
    "adgroup_id": "int64",
    "pid": "string",
    "nonclk": "int64",
    "clk": "int64",
}
_AD_IDS = ("cate_id", "campaign_id", "customer", "brand")
_PROFILE_TEXT = (
    "cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,occupation,new_user_class_level"
)
_PROFILE = tuple(_PROFILE_TEXT.split(","))
_ACTS = ("pv", "cart", "fav", "buy")
_HELD = 2**23  # users at once, while the distinct ones are found: more than seven times those of the dataset


@dataclass
class TaobaoAdConfig:
    """Ads shown on Taobao during eight days, clicked or not (Ali_Display_Ad_Click)."""

    root: str
    """Folder with raw_sample.csv, ad_feature.csv, user_profile.csv."""
    pictures: str | None = None
    """Folder of pictures `<adgroup_id>.jpg`, a path from `root`; the dataset has none. null: none."""
    utc_offset_hours: int = 8
    """Added to all times, so that a day begins at midnight in China and the eighth day is whole; 0: days of UTC."""
    behavior: bool = False
    """Read behavior_log.csv, too: numbers pv, cart, fav and buy of each user, of the days before the first ad."""


class TaobaoAd(DataSource):
    """Streams of the dataset's files; of the users, their numbers and counts are held in memory."""

    def __init__(self, root: str, pictures: str | None, utc_offset_hours: int, behavior: bool):
        folder = SourceFolder(root, _HOLDS)
        self._log = folder.table("raw_sample.csv", _LOG)
        ad = {"adgroup_id": "int64", "price": "float64?"} | dict.fromkeys(_AD_IDS, "int64?")
        self._ads = folder.table("ad_feature.csv", ad)
        self._profiles = folder.table("user_profile.csv", {"userid": "int64"} | dict.fromkeys(_PROFILE, "int64?"))
        acts = {"user": "int64", "time_stamp": "int64", "btag": "string"}
        self._acts = folder.table("behavior_log.csv", acts) if behavior else None
        self._pictures = folder.pictures(pictures, self._names, "pictures") if pictures is not None else None
        self._offset = utc_offset_hours * 3600
        counts = {name: SourceColumn("number") for name in (_ACTS if behavior else ())}
        self.columns = SourceColumns(
            user={name: SourceColumn("id") for name in _PROFILE} | counts,
            item={name: SourceColumn("id") for name in _AD_IDS} | {"price": SourceColumn("number")},
            context={"pid": SourceColumn("id")},
        )
        config = [utc_offset_hours, behavior, pictures is None]
        self.fingerprint = joined_fingerprint(["taobao_ad", _VERSION, *config])
        self.pieces = {"raw_sample.csv": self._log.fingerprint}

    @cached_property
    def snapshot(self) -> str:
        """Of all files (whose users have no profile is seen in the log), and of the list of pictures."""
        tables = [self._log, self._ads, self._profiles] + ([self._acts] if self._acts else [])
        pictures = self._pictures.fingerprint if self._pictures else ""
        return joined_fingerprint([*(table.fingerprint for table in tables), pictures])

    def impressions(self, piece: str) -> Iterator[pa.RecordBatch]:
        """Yields every ad that was shown."""
        for batch in self._log.batches():
            clicked, not_clicked = batch["clk"], batch["nonclk"]
            neither = pc.or_(
                pc.not_equal(pc.add(clicked, not_clicked), 1), pc.less(pc.multiply(clicked, not_clicked), 0)
            )
            self._log.refuse(batch, neither, "`clk` and `nonclk` are not 0 and 1, or 1 and 0")
            yield pa.RecordBatch.from_pydict(
                {
                    "user": batch["user"],
                    "item": batch["adgroup_id"],
                    "time": pc.add(batch["time_stamp"], self._offset),
                    "label": clicked.cast(pa.float32()),
                    "pid": batch["pid"],
                }
            )

    def items(self) -> Iterator[pa.RecordBatch]:
        """Yields every ad."""
        for batch in self._ads.batches():
            item = batch["adgroup_id"]
            picture = item.cast(pa.string()) if self._pictures else pa.nulls(len(item), pa.string())
            rows = {name: batch[name] for name in self.columns.item}
            yield pa.RecordBatch.from_pydict({"item": item, "picture": picture} | rows)

    def users(self) -> Iterator[pa.RecordBatch]:
        """Yields the users with a profile, then those of the log that have none, with nulls."""
        known = [np.zeros(0, np.int64)]
        for batch in self._profiles.batches():
            known.append(batch["userid"].to_numpy())
            profile = {name: batch[name] for name in _PROFILE}
            yield self._with_counts({"user": batch["userid"]} | profile)
        others = np.setdiff1d(self._shown_to, np.concatenate(known))
        nulls = dict.fromkeys(_PROFILE, pa.nulls(len(others), pa.int64()))
        yield self._with_counts({"user": pa.array(others)} | nulls)

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields the pictures that the user brought."""
        return self._pictures.read(have) if self._pictures else iter(())

    @cached_property
    def _shown_to(self) -> np.ndarray:
        """The users of the log, ascending."""
        found = [np.zeros(0, np.int64)]
        for batch in self._log.batches("user"):
            found.append(np.unique(batch["user"]))
            if sum(map(len, found)) > _HELD:
                found = [np.unique(np.concatenate(found))]
        return np.unique(np.concatenate(found))

    @cached_property
    def _counts(self) -> np.ndarray:
        """What each user of `_shown_to` did before the first ad was shown to anybody, [users, acts]."""
        assert self._acts is not None
        first = min(pc.min(batch["time_stamp"]).as_py() for batch in self._log.batches("time_stamp"))
        counts = np.zeros(len(self._shown_to) * len(_ACTS), np.int64)
        for batch in self._acts.batches():
            act = pc.index_in(batch["btag"], value_set=pa.array(_ACTS))
            self._acts.refuse(batch, act.is_null(), f"`btag` is none of {', '.join(_ACTS)}")
            user, there = self._row_of(batch["user"].to_numpy())
            there &= batch["time_stamp"].to_numpy() < first
            np.add.at(counts, user[there] * len(_ACTS) + act.to_numpy()[there], 1)
        return counts.reshape(-1, len(_ACTS))

    def _with_counts(self, rows: dict[str, pa.Array]) -> pa.RecordBatch:
        if self._acts is not None:
            row, there = self._row_of(rows["user"].to_numpy())
            counts = np.where(there[:, None], self._counts[row], 0)
            rows |= {name: pa.array(counts[:, place]) for place, name in enumerate(_ACTS)}
        return pa.RecordBatch.from_pydict(rows)

    def _row_of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows of `_shown_to`, and which users are in it."""
        row = np.searchsorted(self._shown_to, users).clip(max=len(self._shown_to) - 1)
        return row, self._shown_to[row] == users

    def _names(self) -> Iterator[str]:
        for batch in self._ads.batches("adgroup_id"):
            yield from map(str, batch["adgroup_id"].to_pylist())


def build(config: TaobaoAdConfig, shapes: None = None) -> TaobaoAd:
    """Returns the source that the config describes."""
    if not -12 <= config.utc_offset_hours <= 14:
        raise FieldError("utc_offset_hours", f"lies between -12 and 14, got {config.utc_offset_hours}")
    return TaobaoAd(config.root, config.pictures, config.utc_offset_hours, config.behavior)


@hookimpl
def dicm_data_sources() -> list[Component[DataSource]]:
    """Returns the data source of this plugin."""
    no_effect = {
        "pictures": "names a folder of the user's own, which the dataset does not have",
        "behavior": "needs behavior_log.csv, which need not be there",
    }
    return [Component(name="taobao_ad", config=TaobaoAdConfig, build=build, no_effect=no_effect)]
