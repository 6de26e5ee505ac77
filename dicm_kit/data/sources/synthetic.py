"""A made-up shop whose click probabilities are known: the data of the quickstart, of tests and of benchmarks.

Every item has a drawn picture (colour, shape, texture); every user likes some of each, and likes some items for
reasons that no picture shows (a latent factor, the category). A page shows several items to one user at one time;
items are shown by a Zipf law among those that exist on that day, and a share of every page is what appeared that day,
so that the test day shows many items that training never saw. A click is drawn from

    logit p = base + visual * taste_u[attributes of i] + ids * (<user factor, item factor> + quality of i) + place

so the best possible ranking, by p itself, is known: `click_probability` in the impressions.
"""

import hashlib
import json
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.order import repeated
from dicm_kit.data.sources.drawing import COLOURS, SHAPES, TEXTURES, draw, jpeg
from dicm_kit.errors import FieldError
from dicm_kit.interfaces import DataSource, SourceColumn, SourceColumns

if TYPE_CHECKING:
    import pyarrow as pa

_VERSION = 1  # raised when the same config would make another shop
_FIRST_DAY = 1_704_067_200  # 2024-01-01 00:00 UTC
_DAY = 86_400
_USERS_PER_BLOCK = 4_096
_NUM_FACTORS = 4
_NUM_CATEGORIES = 20
_NUM_SEGMENTS = 8
_ATTRIBUTES = {"colour": COLOURS, "shape": SHAPES, "texture": TEXTURES}
_WEIGHT = {"colour": 0.7, "shape": 0.15, "texture": 0.15}
"""Share of each attribute in the variance of visual taste."""
_TREND = 0.6
"""Share of taste that all users have in common: some colours are in fashion."""
# Numbers of the random streams; each is a generator of its own, so that no part disturbs another.
_ITEMS, _USERS, _PAGES, _DRAWING, _SPLIT, _TRENDS = range(6)


@dataclass
class SyntheticConfig:
    """A made-up shop with drawn pictures and known click probabilities."""

    users: int = 4000
    """People who visit."""
    items: int = 4000
    """Items of the whole time."""
    impressions: int = 400_000
    """Items shown, exactly."""
    days: int = 12
    """Length of the log."""
    so_far: int | None = None
    """How many of its days have happened: a log that grows by a piece a day, and by the items that appear on it. null:
    the whole log, in one piece."""
    page_size: int = 8
    """Items shown to one user at one time; the last page of the log may hold fewer."""
    click_rate: float = 0.2
    """Share of impressions that are clicked, roughly."""
    visual: float = 1.5
    """Standard deviation of the logit that comes from what the picture shows."""
    ids: float = 0.7
    """Standard deviation of the logit that comes from what no picture shows."""
    zipf: float = 0.9
    """Exponent of popularity: the k-th most popular item is shown k^-zipf as often as the first."""
    new_items: float = 0.5
    """Share of items that appear after the first day, spread over the other days."""
    novelty: float = 0.3
    """Share of impressions given to items on the day they appear."""
    without_picture: float = 0.02
    """Share of items that have no picture."""
    shared_picture: float = 0.03
    """Share of items that show another item's picture (one picture under several ads)."""
    picture_size: int = 64
    """Height and width of a picture in pixels."""
    seed: int = 0
    """Makes another shop. The recipe's own seed does not change the shop."""


def build_synthetic(config: SyntheticConfig, shapes: None = None) -> "SyntheticSource":
    """Returns the shop that the config describes."""
    return SyntheticSource(**{each.name: getattr(config, each.name) for each in fields(config)})


@dataclass(frozen=True)
class _Items:
    attributes: dict[str, np.ndarray]
    birth: np.ndarray
    """Day on which an item appears, ascending: the items of day d are a prefix."""
    factor: np.ndarray
    category: np.ndarray
    price: np.ndarray
    quality: np.ndarray
    popularity: np.ndarray
    picture: np.ndarray
    """The item whose picture it shows; -1: none."""


class SyntheticSource(DataSource):
    """Streams of the made-up shop; memory grows with the items and with the impressions of 4,096 users."""

    def __init__(self, **config: float):
        self.config = SyntheticConfig(**config)  # type: ignore[arg-type]
        _check(self.config)
        self.columns = SourceColumns(
            user={"segment": SourceColumn("id")},
            item={"category": SourceColumn("id"), "price": SourceColumn("number")}
            | {name: SourceColumn("id") for name in _ATTRIBUTES},
            context={"position": SourceColumn("id")},
        )
        so_far = self.config.so_far
        described = {"synthetic": _VERSION} | asdict(self.config) | ({} if so_far is None else {"by_day": True})
        del described["so_far"]  # the same shop, early or late
        self.fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        pieces = ["log"] if so_far is None else [f"day-{day:04d}" for day in range(so_far)]
        self.pieces = dict.fromkeys(pieces, self.fingerprint)
        self.snapshot = self.fingerprint if so_far is None else f"{self.fingerprint} {so_far}"
        self._items = self._make_items()
        last_day = self.config.days if so_far is None else so_far
        self._num_items = int(np.searchsorted(self._items.birth, last_day))
        self._trend = {
            name: self._rng(_TRENDS, number).permutation(np.linspace(-1.6, 1.6, len(values)))
            for number, (name, values) in enumerate(_ATTRIBUTES.items())
        }
        # Born today: [first, end) of the items; alive: [0, end).
        days = np.arange(self.config.days)
        self._first_of_day = np.searchsorted(self._items.birth, days, "left")
        self._end_of_day = np.searchsorted(self._items.birth, days, "right")
        self._cumulative_popularity = np.concatenate([[0.0], np.cumsum(self._items.popularity)])

    def items(self) -> "Iterator[pa.RecordBatch]":
        """Yields every item so far with its picture's name and, as id columns, what its picture shows."""
        import pyarrow as pa

        items = self._items
        for start in range(0, self._num_items, 65_536):
            rows = slice(start, min(start + 65_536, self._num_items))
            picture = items.picture[rows]
            yield pa.RecordBatch.from_pydict(
                {
                    "item": np.arange(rows.start, rows.stop),
                    "picture": pa.array(np.char.mod("%d", picture), mask=picture < 0),
                    "category": np.char.mod("category %d", items.category[rows]),
                    "price": items.price[rows],
                }
                | {name: np.array(values)[items.attributes[name][rows]] for name, values in _ATTRIBUTES.items()}
            )

    def users(self) -> "Iterator[pa.RecordBatch]":
        """Yields every user with a segment: the strongest of the latent factors and its sign."""
        import pyarrow as pa

        for start in range(0, self.config.users, _USERS_PER_BLOCK):
            factor = self._users(start)["factor"]
            strongest = abs(factor).argmax(1)
            segment = 2 * strongest + (np.take_along_axis(factor, strongest[:, None], 1)[:, 0] > 0)
            yield pa.RecordBatch.from_pydict(
                {"user": np.arange(start, start + len(factor)), "segment": np.char.mod("segment %d", segment)}
            )

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes]]:
        """Yields a JPEG for every item so far that has a picture of its own."""
        items, size = self._items, self.config.picture_size
        for item in np.flatnonzero(items.picture[: self._num_items] == np.arange(self._num_items)).tolist():
            if str(item) in have:
                continue
            colour, shape, texture = (int(items.attributes[name][item]) for name in _ATTRIBUTES)
            yield str(item), jpeg(draw(self._rng(_DRAWING, item), colour, shape, texture, size))

    def impressions(self, piece: str) -> "Iterator[pa.RecordBatch]":
        """Yields the log, or one day of it, in blocks of users, unsorted within them, a page's places in order."""
        import pyarrow as pa

        day = None if self.config.so_far is None else int(piece.removeprefix("day-"))
        for start, num_impressions in self._impressions_of_blocks():
            users, rng = self._users(start), self._rng(_PAGES, start)
            num_pages = -(-num_impressions // self.config.page_size)
            share = users["activity"] / users["activity"].sum()
            user_of_page = rng.choice(len(share), num_pages, p=share)
            day_of_page = rng.integers(0, self.config.days, num_pages)
            time_of_page = _FIRST_DAY + day_of_page * _DAY + rng.integers(0, _DAY, num_pages)
            item_of_place = self._shown(rng, day_of_page)
            place = np.tile(np.arange(self.config.page_size), num_pages)[:num_impressions]
            page = np.repeat(np.arange(num_pages), self.config.page_size)[:num_impressions]
            user, item = user_of_page[page], item_of_place.reshape(-1)[:num_impressions]
            probability = self._click_probability(users, user, item, place)
            block = pa.RecordBatch.from_pydict(
                {
                    "user": start + user,
                    "item": item,
                    "time": time_of_page[page],
                    "label": (rng.random(num_impressions) < probability).astype(np.float32),
                    "click_probability": probability,
                    "position": np.char.mod("%d", place),
                }
            )
            yield block if day is None else block.filter(pa.array(day_of_page[page] == day))

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *stream])

    def _make_items(self) -> _Items:
        config, rng, number = self.config, self._rng(_ITEMS), np.arange(self.config.items)
        later = rng.random(config.items) < config.new_items
        birth = np.sort(np.where(later, rng.integers(1, max(config.days, 2), config.items), 0))
        birth[: config.page_size] = 0  # the first page shows distinct items, too
        category = rng.integers(0, _NUM_CATEGORIES, config.items)
        # Items of a category are alike in what no picture shows.
        centre = rng.normal(size=(_NUM_CATEGORIES, _NUM_FACTORS))
        factor = 0.7 * centre[category] + 0.7 * rng.normal(size=(config.items, _NUM_FACTORS))
        chance = rng.random(config.items)
        picture = np.where(chance < config.without_picture, -1, number)
        # A shared picture is an earlier item's own; the item then shows what that item shows.
        shares = (chance > 1 - config.shared_picture) & (number > 0)
        lender = (rng.random(config.items) * number).astype(np.int64)
        shares &= picture[lender] == lender
        shares &= ~shares[lender]
        picture = np.where(shares, lender, picture)
        attributes = {name: rng.integers(0, len(values), config.items) for name, values in _ATTRIBUTES.items()}
        return _Items(
            attributes={name: np.where(shares, values[lender], values) for name, values in attributes.items()},
            birth=birth,
            factor=factor,
            category=category,
            price=np.exp(rng.normal(3, 0.8, config.items)).astype(np.float32),
            quality=rng.normal(size=config.items),
            popularity=(1.0 + rng.permutation(config.items)) ** -config.zipf,
            picture=picture,
        )

    def _users(self, start: int) -> dict[str, np.ndarray]:
        count, rng = min(_USERS_PER_BLOCK, self.config.users - start), self._rng(_USERS, start)
        # Loves a few things and is cool about the rest: an exponential law, moved to mean 0 (its deviation is 1).
        own = {name: rng.exponential(size=(count, len(values))) - 1 for name, values in _ATTRIBUTES.items()}
        taste = {name: np.sqrt(_TREND) * self._trend[name] + np.sqrt(1 - _TREND) * own[name] for name in _ATTRIBUTES}
        return taste | {
            "factor": rng.normal(size=(count, _NUM_FACTORS)),
            "activity": rng.lognormal(0, 0.5, count),
        }

    def _impressions_of_blocks(self) -> Iterator[tuple[int, int]]:
        """Yields (first user, impressions) of each block; whole pages, but for the last page of the log."""
        config = self.config
        starts = np.arange(0, config.users, _USERS_PER_BLOCK)
        sizes = np.minimum(_USERS_PER_BLOCK, config.users - starts)
        num_pages = -(-config.impressions // config.page_size)
        pages = self._rng(_SPLIT).multinomial(num_pages, sizes / config.users)
        left = config.impressions
        for start, count in zip(starts.tolist(), (pages * config.page_size).tolist(), strict=True):
            if min(count, left):
                yield start, min(count, left)
            left -= min(count, left)

    def _shown(self, rng: np.random.Generator, day_of_page: np.ndarray) -> np.ndarray:
        """Returns which item stands at each place of each page, [pages, page_size]; no item twice on a page."""
        first, end = self._first_of_day[day_of_page][:, None], self._end_of_day[day_of_page][:, None]
        shape = (len(day_of_page), self.config.page_size)
        drawn = rng.random(shape) * self._cumulative_popularity[end]
        known = np.minimum(np.searchsorted(self._cumulative_popularity, drawn, "right") - 1, end - 1)
        new = first + (rng.random(shape) * (end - first)).astype(np.int64)
        # On the first day everything is new, so nothing is.
        is_new = (rng.random(shape) < self.config.novelty) & (end > first) & (first > 0)
        item = np.where(is_new, new, known)
        while (again := repeated(item)).any():
            item = np.where(again, (rng.random(shape) * end).astype(np.int64), item)
        return item

    def _click_probability(
        self, users: dict[str, np.ndarray], user: np.ndarray, item: np.ndarray, place: np.ndarray
    ) -> np.ndarray:
        config, items = self.config, self._items
        shown = {name: values[item] for name, values in items.attributes.items()}
        seen = sum(np.sqrt(_WEIGHT[name]) * users[name][user, shown[name]] for name in _ATTRIBUTES)
        # No picture, nothing to like about it.
        seen = np.where(items.picture[item] < 0, 0.0, seen)
        match = (users["factor"][user] * items.factor[item]).sum(1) / np.sqrt(_NUM_FACTORS)
        unseen = (match + 0.5 * items.quality[item]) / np.sqrt(1.25)
        spread = config.visual**2 + config.ids**2
        # The base that makes sigmoid(base + noise of this spread) average to the click rate (probit approximation).
        base = np.log(config.click_rate / (1 - config.click_rate)) * np.sqrt(1 + np.pi / 8 * spread)
        logit = base + config.visual * seen + config.ids * unseen - 0.05 * (place - (config.page_size - 1) / 2)
        return 1 / (1 + np.exp(-logit))


def _check(config: SyntheticConfig) -> None:
    for name in ("users", "items", "impressions", "days", "page_size", "picture_size"):
        if getattr(config, name) < 1:
            raise FieldError(name, f"must be at least 1, got {getattr(config, name)}")
    if config.so_far is not None and not 1 <= config.so_far <= config.days:
        raise FieldError("so_far", f"is a number of days from 1 to `days`, {config.days}, got {config.so_far}")
    for name in ("new_items", "novelty", "without_picture", "shared_picture"):
        if not 0 <= getattr(config, name) <= 1:
            raise FieldError(name, f"is a share and lies between 0 and 1, got {getattr(config, name)}")
    for name in ("visual", "ids", "zipf"):
        if not 0 <= getattr(config, name) < 100:
            raise FieldError(name, f"lies between 0 and 100, got {getattr(config, name)}")
    if config.seed < 0:
        raise FieldError("seed", f"must be at least 0, got {config.seed}")
    if not 0 < config.click_rate < 1:
        raise FieldError("click_rate", f"lies between 0 and 1, got {config.click_rate}")
    if config.page_size > config.items:
        raise FieldError(
            "page_size",
            f"is {config.page_size}, but there are {config.items} items, and a page shows none twice",
            todo="Use a smaller page or more `items`.",
        )
