"""The made-up shop: what the tests and the demo may rely on, whatever its constants are tuned to."""

from collections import Counter
from io import BytesIO
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dicm_kit.data.sources.drawing import COLOURS, SHAPES, TEXTURES, draw, jpeg
from dicm_kit.data.sources.synthetic import SyntheticConfig, SyntheticSource, build_synthetic
from dicm_kit.errors import FieldError

DAY = 86_400


def shop(**config: Any) -> SyntheticSource:
    small = {"users": 200, "items": 400, "impressions": 20_000, "days": 5, "picture_size": 8}
    return build_synthetic(SyntheticConfig(**{**small, **config}))


def table(batches: Any) -> pa.Table:
    return pa.Table.from_batches(list(batches))


def log(source: SyntheticSource) -> dict[str, np.ndarray]:
    found = table(source.impressions("log"))
    return {name: found[name].to_numpy(zero_copy_only=False) for name in found.column_names}


@pytest.fixture(scope="module")
def source() -> SyntheticSource:
    return shop()


@pytest.fixture(scope="module")
def shown(source: SyntheticSource) -> dict[str, np.ndarray]:
    return log(source)


def pages(shown: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the page of each impression: places count up from 0 within a page."""
    return np.cumsum(shown["position"] == "0")


def test_the_same_config_makes_the_same_shop() -> None:
    one, other = shop(), shop()
    assert one.fingerprint == other.fingerprint
    assert table(one.impressions("log")).equals(table(other.impressions("log")))
    for stream in ("items", "users"):
        assert table(getattr(one, stream)()).equals(table(getattr(other, stream)()))
        assert table(getattr(one, stream)()).equals(table(getattr(one, stream)())), "a stream can be asked for again"
    assert list(one.pictures(())) == list(other.pictures(()))


def test_a_log_that_grows_is_the_same_log_day_by_day() -> None:
    whole, early, late = shop(), shop(so_far=2), shop(so_far=5)
    assert early.fingerprint == late.fingerprint != whole.fingerprint
    assert early.snapshot != late.snapshot
    assert list(late.pieces) == [f"day-000{day}" for day in range(5)]
    assert early.pieces == dict(list(late.pieces.items())[:2]), "a piece that is there does not change"
    days = [table(late.impressions(piece)) for piece in late.pieces]
    assert all(one.equals(table(early.impressions(piece))) for one, piece in zip(days, early.pieces, strict=False))
    for number, day in enumerate(days):
        assert set((np.unique(day["time"]) - np.min(days[0]["time"]) // DAY * DAY) // DAY) == {number}
    order = [("time", "ascending"), ("user", "ascending"), ("position", "ascending")]
    assert pa.concat_tables(days).sort_by(order).equals(table(whole.impressions("log")).sort_by(order))
    items = table(early.items())
    assert set(pa.concat_tables(days[:2])["item"].to_pylist()) <= set(items["item"].to_pylist())
    assert items.num_rows < 400 == table(late.items()).num_rows
    named = set(items["picture"].drop_null().to_pylist())
    assert {name for name, _ in early.pictures(())} == named, "an item's picture is there when the item is"


@pytest.mark.parametrize("days", [0, 6])
def test_a_log_grows_up_to_its_days(days: int) -> None:
    with pytest.raises(FieldError, match=r"from 1 to `days`, 5"):
        shop(so_far=days)


def test_another_seed_makes_another_shop() -> None:
    one, other = shop(), shop(seed=1)
    assert one.fingerprint != other.fingerprint
    assert not table(one.impressions("log")).equals(table(other.impressions("log")))
    assert not table(one.items()).equals(table(other.items()))
    assert dict(one.pictures(())) != dict(other.pictures(()))


@pytest.mark.parametrize("key", ["users", "impressions", "days", "visual", "picture_size", "novelty"])
def test_every_key_is_in_the_fingerprint(key: str) -> None:
    changed = getattr(shop().config, key) * 2 if key != "novelty" else 0.1
    assert shop().fingerprint != shop(**{key: changed}).fingerprint


@pytest.mark.parametrize(
    ("impressions", "page_size", "users"),
    [(1, 8, 5), (7, 8, 5), (8, 8, 5), (1001, 8, 5), (1000, 1, 5), (9999, 7, 9000)],
)
def test_it_has_exactly_as_many_impressions_as_asked_for(impressions: int, page_size: int, users: int) -> None:
    found = log(shop(impressions=impressions, page_size=page_size, users=users))
    assert len(found["user"]) == impressions
    sizes = Counter(Counter(pages(found).tolist()).values())
    whole, rest = divmod(impressions, page_size)
    assert sizes == Counter({page_size: whole} if whole else {}) + Counter([rest] if rest else [])


def test_a_page_is_one_user_one_time_and_no_item_twice(shown: dict[str, np.ndarray]) -> None:
    page = pages(shown)
    for name in ("user", "time"):
        assert len(set(zip(page, shown[name], strict=True))) == page[-1]
    assert len(set(zip(page, shown["item"], strict=True))) == len(page)
    assert (shown["position"] == (np.arange(len(page)) - np.searchsorted(page, page)).astype(str)).all()


def test_no_item_twice_on_a_page_that_shows_half_the_shop() -> None:
    found = log(shop(items=20, new_items=0.2, page_size=8, impressions=8000))
    assert len(set(zip(pages(found), found["item"], strict=True))) == 8000


def test_an_item_is_shown_only_once_it_exists(source: SyntheticSource, shown: dict[str, np.ndarray]) -> None:
    day = (shown["time"] - 1_704_067_200) // DAY
    assert set(day.tolist()) == set(range(5))
    birth = source._items.birth
    assert (birth[shown["item"]] <= day).all()
    assert np.mean(birth > 0) == pytest.approx(0.5, abs=0.1)


def test_the_last_day_shows_items_that_no_earlier_day_showed(shown: dict[str, np.ndarray]) -> None:
    last = shown["time"] >= 1_704_067_200 + 4 * DAY
    unseen = ~np.isin(shown["item"][last], shown["item"][~last])
    assert unseen.mean() == pytest.approx(0.3, abs=0.05), "novelty"
    none = log(shop(new_items=0.0))
    last = none["time"] >= 1_704_067_200 + 4 * DAY
    assert np.isin(none["item"][last], none["item"][~last]).mean() > 0.99


@pytest.mark.parametrize("click_rate", [0.05, 0.2, 0.5])
def test_the_click_rate_is_roughly_the_one_asked_for(click_rate: float) -> None:
    found = log(shop(click_rate=click_rate, users=2000, items=2000, impressions=100_000))
    assert found["click_probability"].mean() == pytest.approx(click_rate, rel=0.3)
    assert set(found["label"].tolist()) == {0.0, 1.0}


def test_labels_are_drawn_from_the_probabilities() -> None:
    found = log(shop(impressions=200_000))
    probability, label = found["click_probability"], found["label"]
    assert ((probability > 0) & (probability < 1)).all()
    for part in np.array_split(np.argsort(probability), 10):
        expected, deviation = probability[part].mean(), np.sqrt((probability[part] * (1 - probability[part])).sum())
        assert abs(label[part].sum() - expected * len(part)) < 4.5 * deviation


def test_pictures_and_ids_move_the_probabilities_as_much_as_asked_for() -> None:
    spreads = {
        (visual, ids): np.std(_logit(log(shop(visual=visual, ids=ids, users=2000, items=2000, impressions=50_000))))
        for visual, ids in ((0.0, 0.0), (1.5, 0.0), (0.0, 1.5))
    }
    assert spreads[0.0, 0.0] < 0.2, "only the place on the page"
    assert spreads[1.5, 0.0] == pytest.approx(1.5, rel=0.35)
    assert spreads[0.0, 1.5] == pytest.approx(1.5, rel=0.35)


def _logit(found: dict[str, np.ndarray]) -> np.ndarray:
    probability = found["click_probability"]
    return np.log(probability / (1 - probability))


def test_popularity_follows_zipf() -> None:
    found = log(shop(new_items=0.0, novelty=0.0, page_size=1, zipf=0.9, impressions=200_000, items=300))
    counts = np.sort(np.bincount(found["item"], minlength=300))[::-1][:100]
    slope = np.polyfit(np.log(np.arange(1, 101)), np.log(counts), 1)[0]
    assert slope == pytest.approx(-0.9, abs=0.08)


def test_shares_of_missing_and_shared_pictures() -> None:
    source = shop(items=20_000, without_picture=0.1, shared_picture=0.2)
    items = table(source.items()).to_pydict()
    names = np.array([-1 if name is None else int(name) for name in items["picture"]])
    assert np.mean(names < 0) == pytest.approx(0.1, abs=0.01)
    borrowed = (names >= 0) & (names != np.arange(20_000))
    assert 0.1 < borrowed.mean() <= 0.21
    for name in ("colour", "shape", "texture"):
        values = np.array(items[name])
        assert (values[borrowed] == values[names[borrowed]]).all(), "it shows what its picture shows"


def test_a_picture_for_every_name_and_no_other(source: SyntheticSource) -> None:
    names = {name for name in table(source.items())["picture"].to_pylist() if name is not None}
    drawn = dict(source.pictures(()))
    assert drawn.keys() == names
    assert len(set(drawn.values())) == len(drawn), "never twice the same"


def test_streams_come_in_blocks_and_items_are_known() -> None:
    source = shop(users=10_000, items=70_000, impressions=30_000)
    assert len(list(source.users())) > 1
    assert len(list(source.items())) > 1
    blocks = list(source.impressions("log"))
    assert len(blocks) > 1
    users = [set(block["user"].to_pylist()) for block in blocks]
    assert not set.intersection(*users)
    assert table(source.users())["user"].to_pylist() == list(range(10_000))
    found = log(source)
    assert found["user"].max() < 10_000
    assert found["item"].min() >= 0
    assert found["item"].max() < 70_000


def test_columns_are_those_of_the_streams(source: SyntheticSource) -> None:
    assert set(table(source.users()).column_names) == {"user", *source.columns.user}
    assert set(table(source.items()).column_names) == {"item", "picture", *source.columns.item}
    impressions = {"user", "item", "time", "label", "click_probability", *source.columns.context}
    assert set(table(source.impressions("log")).column_names) == impressions


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("users", 0), ("items", 0), ("impressions", 0), ("days", 0), ("page_size", 0), ("picture_size", 0),
        ("new_items", 1.5), ("novelty", -0.1), ("without_picture", 2.0), ("shared_picture", -1.0),
        ("click_rate", 0.0), ("click_rate", 1.0), ("page_size", 100_000),
            ("seed", -1), ("visual", float("nan")), ("zipf", -1.0),
    ],
)  # fmt: skip
def test_values_that_make_no_shop_are_refused(key: str, value: float) -> None:
    with pytest.raises(FieldError) as caught:
        shop(**{key: value})
    assert caught.value.field == key


# --- pictures ---


@pytest.mark.parametrize("size", [8, 64])
def test_every_product_is_a_valid_jpeg_of_its_own(size: int) -> None:
    seen = set()
    for colour, shape, texture in product(range(len(COLOURS)), range(len(SHAPES)), range(len(TEXTURES))):
        pixels = draw(np.random.default_rng(0), colour, shape, texture, size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        image = Image.open(BytesIO(jpeg(pixels)))
        image.load()
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
        seen.add(pixels.tobytes())
    assert len(seen) == len(COLOURS) * len(SHAPES) * len(TEXTURES)


def test_no_two_drawings_of_one_product_are_alike() -> None:
    rng = np.random.default_rng(0)
    assert len({draw(rng, 0, 0, 0, 32).tobytes() for _ in range(50)}) == 50


def test_colours_are_what_they_are_called() -> None:
    hues = {"red": (1, 0, 0), "lime": (0.75, 1, 0), "green": (0, 1, 0), "cyan": (0, 1, 1), "blue": (0, 0.2, 1)}
    for name, hue in hues.items():
        drawn = [draw(np.random.default_rng(n), COLOURS.index(name), 1, 0, 32)[16, 16] / 255 for n in range(5)]
        means = {other: np.dot(np.mean(drawn, 0), hue) / np.linalg.norm(hue) for other, hue in hues.items()}
        assert means[name] > 0.9 * max(means.values()), (name, hue)
