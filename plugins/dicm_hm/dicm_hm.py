"""H&M's purchases (Kaggle, H&M Personalized Fashion Recommendations) as a data source: who buys which article.

Purchases only: negatives are drawn when the dataset folder is prepared. The 31 million purchases are read a block at a
time, never held.
"""

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from dicm_kit import (
    Component,
    DataSource,
    FieldError,
    SourceColumn,
    SourceColumns,
    SourceFolder,
    TextTable,
    hookimpl,
    joined_fingerprint,
)

dicm_api = 1

_VERSION = 1  # raised when the same files and config would give other tables
_DAY = 86_400
_HOLDS = {
    "transactions_train.csv": "purchases",
    "articles.csv": "articles",
    "customers.csv": "customers",
    "images/": "photos, images/010/0108775015.jpg (not needed with `images: null`)",
}
_PURCHASES = {"t_dat": "date32", "customer_id": "string", "article_id": "string", "sales_channel_id": "string?"}
"""Without the price: a drawn negative would come with the price of another article, which gives it away."""
_ARTICLES_TEXT = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,graphical_appearance_no,"
    "graphical_appearance_name,colour_group_code,colour_group_name,perceived_colour_value_id,"
    "perceived_colour_value_name,perceived_colour_master_id,perceived_colour_master_name,department_no,"
    "department_name,index_code,index_name,index_group_no,index_group_name,section_no,section_name,garment_group_no,"
    "garment_group_name,detail_desc"
)
_ARTICLES = tuple(_ARTICLES_TEXT.split(","))
_CUSTOMERS = ("FN", "Active", "club_member_status", "fashion_news_frequency", "postal_code")


@dataclass
class HmConfig:
    """A fashion shop's purchases, two years (H&M, Kaggle 2022): every row a click, negatives are drawn."""

    root: str
    """Folder with transactions_train.csv, articles.csv and customers.csv as Kaggle gives them."""
    images: str | None = "images"
    """Folder of the photos `<article id>.jpg`, at any depth, a path from `root`; articles may lack one. null: none."""
    last_days: int | None = None
    """Only the purchases of the log's last so many days; null: all."""
    customers: float = 1.0
    """Share of the customers, always the same ones: chosen by a hash of their id."""
    basket_order: bool = True
    """A day's purchases follow each other as in the file, so that a history may hold the basket so far; false: they
    are at one time and share one history, of earlier days."""


class Hm(DataSource):
    """Streams of H&M's files."""

    def __init__(self, root: str, images: str | None, last_days: int | None, customers: float, basket_order: bool):
        folder = SourceFolder(root, _HOLDS)
        self._purchases = folder.table("transactions_train.csv", _PURCHASES)
        self._articles = folder.table("articles.csv", dict.fromkeys(_ARTICLES, "string?") | {"article_id": "string"})
        told = dict.fromkeys(_CUSTOMERS, "string?")
        self._customers = folder.table("customers.csv", {"customer_id": "string", "age": "float64?"} | told)
        self._images = folder.pictures(images, self._names, "images") if images is not None else None
        self._last_days, self._share, self._basket_order = last_days, customers, basket_order
        features = [name for name in _ARTICLES if name not in ("article_id", "detail_desc")]
        self.columns = SourceColumns(
            user={"age": SourceColumn("number")} | {name: SourceColumn("id") for name in _CUSTOMERS},
            item={name: SourceColumn("id") for name in features},
            context={"sales_channel_id": SourceColumn("id")},
        )
        self.fingerprint = joined_fingerprint(["hm", _VERSION, last_days, customers, basket_order, images is None])
        self.pieces = {"transactions_train.csv": self._purchases.fingerprint}

    @cached_property
    def snapshot(self) -> str:
        """Of the articles, the customers and the list of photos."""
        images = self._images.fingerprint if self._images else ""
        return joined_fingerprint([self._articles.fingerprint, self._customers.fingerprint, images])

    def impressions(self, piece: str) -> Iterator[pa.RecordBatch]:
        """Yields the purchases of the days and customers that the recipe keeps."""
        for batch in self._purchases.batches():
            _check_ids(self._purchases, batch)
            day = batch["t_dat"].cast(pa.int32()).cast(pa.int64())
            rows = {
                "user": batch["customer_id"],
                "item": batch["article_id"],
                "time": pc.multiply(day, _DAY),
                "label": pa.repeat(pa.scalar(1.0, pa.float32()), len(batch)),
                "sales_channel_id": batch["sales_channel_id"],
            }
            made = pa.RecordBatch.from_pydict(rows | ({"order": batch["row"]} if self._basket_order else {}))
            kept = pc.and_(pc.greater_equal(day, self._first_day), self._of_sample(batch["customer_id"]))
            yield made.filter(kept)

    def items(self) -> Iterator[pa.RecordBatch]:
        """Yields every article with all its columns but the description."""
        for batch in self._articles.batches():
            _check_ids(self._articles, batch)
            item = batch["article_id"]
            picture = item if self._images else pa.nulls(len(item), pa.string())
            rows = {name: batch[name] for name in self.columns.item}
            yield pa.RecordBatch.from_pydict({"item": item, "picture": picture} | rows)

    def users(self) -> Iterator[pa.RecordBatch]:
        """Yields the customers of the sample."""
        for batch in self._customers.batches():
            rows = {"user": batch["customer_id"]} | {name: batch[name] for name in self.columns.user}
            yield pa.RecordBatch.from_pydict(rows).filter(self._of_sample(batch["customer_id"]))

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields the photos of articles."""
        return self._images.read(have) if self._images else iter(())

    @cached_property
    def _first_day(self) -> int:
        """Returns the first day that is kept, in days since 1970; the file is read once to find the last one."""
        if self._last_days is None:
            return 0
        last = max(pc.max(batch["t_dat"].cast(pa.int32())).as_py() or 0 for batch in self._purchases.batches("t_dat"))
        return last - self._last_days + 1

    def _of_sample(self, customers: pa.Array) -> pa.Array:
        if self._share == 1:
            return pa.repeat(pa.scalar(True), len(customers))
        coded = customers.dictionary_encode()
        limit = int(self._share * 2**64)
        kept = [_hash(customer) < limit for customer in coded.dictionary.to_pylist()]
        return pa.array(kept, pa.bool_()).take(coded.indices)

    def _names(self) -> Iterator[str]:
        for batch in self._articles.batches("article_id"):
            yield from batch["article_id"].to_pylist()


def _hash(customer: str) -> int:
    return int.from_bytes(hashlib.blake2b(customer.encode(), digest_size=8).digest(), "little")


def _check_ids(table: TextTable, batch: pa.RecordBatch) -> None:
    wrong = pc.invert(pc.match_substring_regex(batch["article_id"], r"^\d{10}$"))
    todo = "Zeros in front may be lost, as a spreadsheet or pandas loses them: take the file as Kaggle gives it."
    table.refuse(batch, wrong, "`article_id` is not of 10 digits", todo)


def build(config: HmConfig, shapes: None = None) -> Hm:
    """Returns the source that the config describes."""
    if not 0 < config.customers <= 1:
        raise FieldError("customers", f"is a share, above 0 and up to 1, got {config.customers}")
    if config.last_days is not None and config.last_days < 1:
        raise FieldError("last_days", f"must be at least 1, or null for all, got {config.last_days}")
    return Hm(config.root, config.images, config.last_days, config.customers, config.basket_order)


@hookimpl
def dicm_data_sources() -> list[Component[DataSource]]:
    """Returns the data source of this plugin."""
    return [Component(name="hm", config=HmConfig, build=build)]
