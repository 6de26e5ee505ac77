"""What a plugin author subclasses, and `Component`, which puts the result into recipes.

Every interface is abstract and holds no code to inherit; an implementation is not subclassed again. Components take
plain values in `__init__`; the config dataclass stops at `build`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from torch import Tensor, nn

from dicm_kit.errors import DicmError, FieldError, FieldsError
from dicm_kit.types import Column, Encoded, Interest, Pictures

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

T = TypeVar("T")

Kind = Literal["id", "ids", "hash", "number"]
"""What a column holds: one id, several ids, an id without a vocabulary (a 64-bit hash), a number."""


@dataclass(frozen=True, kw_only=True)
class Component(Generic[T]):
    """One named thing a recipe can ask for."""

    name: str
    """What the recipe writes after `name:`."""
    config: type
    """A dataclass; its fields are the recipe's keys, the docstrings under them the help text."""
    build: Callable[[Any, Any], T]
    """Makes the component from its config and the sizes known only at run time (`ColumnShape`, `HistoryShapes`,
    `NetShapes`; None for backbones and data sources)."""
    paper: str | None = None
    """"arXiv:1711.06505, section 5.2", or None when there is no paper."""
    examples: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    """Configs, as a recipe would write them, that the checks of `dicm_kit.testing` use: for keys that must be given,
    and for keys whose other values cannot be guessed."""
    no_effect: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Keys that need not change what the component does, each with the reason; for the checks."""
    exempt: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Checks by id that do not apply, each with the reason, which is shown."""


# --- sizes ---


@dataclass(frozen=True)
class ColumnShape:
    """What a feature encoder must know of its column."""

    kind: Kind
    """What it holds."""
    num_ids: int | None
    """Ids of the vocabulary, 0 (unknown) included; None for `hash` and `number` columns."""


@dataclass(frozen=True)
class HistoryShapes:
    """What an interest aggregator must know: the widths of what it gets."""

    query: dict[str, int]
    """Width of each vector it may use as a query: `image`, `target.item_id`, `user.age`, `context.hour`."""
    history: dict[str, int]
    """Width of each history vector: `image`, id columns by name, and `age` (days, width 1)."""
    values: tuple[str, ...]
    """Names in `history` that this slot pools: (`image`,) for pictures, the id columns for ids. The rest is side
    information, for example for attention weights."""
    max_length: int
    """Most history slots. A batch's L is at most this, and shorter where its histories are."""


@dataclass(frozen=True)
class NetShapes:
    """What a base net must know: the widths of what it gets."""

    user: dict[str, int]
    """Width of each user column's vector, by the column's name."""
    target: dict[str, int]
    """Of each target column's."""
    context: dict[str, int]
    """Of each context column's."""
    history: dict[str, int]
    """Of each history column's."""
    image: int | None
    """Width of the target's picture vector; None when the recipe shows the net no target picture."""
    interest: dict[str, int]
    """Width of each slot's interest vector (`ids`, `images`)."""


# --- the five interfaces ---


class FeatureEncoder(nn.Module, ABC):
    """Column values -> vectors."""

    out_dim: int
    """D, the width of the vectors."""

    @abstractmethod
    def forward(self, values: Column) -> Tensor:
        """Returns [..., D] for values [...]; a Bag's rows are pooled to one vector each."""


class ImageBackbone(nn.Module, ABC):
    """Pixels -> wide vectors. Usually frozen: then it runs once per picture, before training."""

    out_dim: int
    """C, the width of the vectors."""
    frozen: bool
    """True when no parameter is trained; the vectors then come from the feature store."""
    fingerprint: str
    """16 hex digits that change whenever the vectors could: model, weights, layer, transform."""

    @abstractmethod
    def transform(self, image: "Image") -> Tensor:
        """Returns pixels [3, H, W] float32 of an RGB picture; every picture gets the same H and W."""

    @abstractmethod
    def forward(self, pixels_U3HW: Tensor) -> Tensor:
        """Returns vectors [U, C]. A picture's vector does not depend on the other pictures of the batch."""


class InterestAggregator(nn.Module, ABC):
    """History vectors -> one interest vector.

    B is N when `uses_target` (one row per impression), else G (one row per sample group, computed once and repeated
    to impressions by `CtrModule`).
    """

    uses_target: bool
    """True when it looks at a `query` of the target or of the context."""
    uses_order: bool = False
    """True when it matters in which slot a click stands; otherwise slots may change places. To be set where it does."""
    out_dim: int
    """Width of the interest vector."""

    @abstractmethod
    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the interest, with weights [B, Q, L] when `need_weights` and there are any.

        `query` holds [B, d] and `history` [B, L, d] by name (see `HistoryShapes`), L is at least 1; a vector that is
        not asked for is not repeated to impressions. Slots where `mask_BL` is False are empty and must not change the
        result; a row without a filled slot gives a finite vector.
        """


@dataclass(kw_only=True)
class NestedAggregator:
    """An aggregator inside another one: the type of a config's field, `then: NestedAggregator`.

    In the recipe it is a section like `interest.images` itself: `then: {name: attention, hidden: [64]}`. The outer
    component's `build` makes it by `config.then.build(shapes)`. A field of this type has no default. It stands in the
    config itself, not in a section or list of it.
    """

    kind: ClassVar[str] = "interest_aggregator"
    """The kind of component."""

    name: str
    """The aggregator inside; `dicm ls interest_aggregator` lists them. Its own keys stand beside it."""
    config: Any = None
    """Its own keys, as its config dataclass."""

    def bind(self, key: str, make: Callable[[Any], Any]) -> None:
        """Called where the recipe is read: `key` is the field, `make` builds the component for shapes."""
        self._key, self._make = key, make

    def build(self, shapes: HistoryShapes) -> "InterestAggregator":
        """Returns the aggregator for these sizes: the outer one's own, or others.

        Raises:
            FieldError: it refuses a key; `field` is dotted, `then.hidden`, so that the recipe's line is shown.
            PluginError: its plugin failed, or built something else.
        """
        make = getattr(self, "_make", None)
        if make is None:
            raise DicmError(
                f"the config of `{self.name}` was not read from a recipe, so it cannot be built",
                todo="In Python, build the inner aggregator yourself and give it to the outer one's class.",
            )
        try:
            made: InterestAggregator = make(shapes)
        except FieldError as error:
            each = error.errors if isinstance(error, FieldsError) else (error,)
            raise FieldsError(
                FieldError(f"{self._key}.{one.field}", one.what, todo=one.todo) for one in each
            ) from error
        return made


class BaseNet(nn.Module, ABC):
    """All vectors -> the click's log-odds.

    A two-tower net also has `towers(encoded, pictures, interest) -> (user [G, D], item [N, D])`.
    """

    requires_untargeted: bool
    """True for two towers: interests must not look at the target, and there are no context columns, which belong to
    neither tower. The recipe check then refuses them."""
    uses_batch: bool = False
    """True when, while training, an impression's logit depends on the others of its rank's batch. Never afterwards."""

    @abstractmethod
    def forward(self, encoded: Encoded, pictures: Pictures | None, interest: dict[str, Interest]) -> Tensor:
        """Returns logits [N]. `encoded.user` and each interest's vector come repeated to impressions, [N, D]."""


@dataclass(frozen=True)
class SourceColumn:
    """A column that a data source provides."""

    kind: Kind
    """What it holds."""
    vocab: str | None = None
    """Name of the vocabulary, for columns that share one; None: its own, under the column's name."""


@dataclass(frozen=True)
class SourceColumns:
    """The feature columns of a data source's tables, beside the fixed ones of `DataSource`."""

    user: dict[str, SourceColumn] = field(default_factory=dict)
    """Columns of `users`, by name; `user_id` is there by itself."""
    item: dict[str, SourceColumn] = field(default_factory=dict)
    """Columns of `items`, by name; `item_id` and `picture` are there by themselves."""
    context: dict[str, SourceColumn] = field(default_factory=dict)
    """Columns of `impressions` that belong to the single impression, by name."""


class DataSource(ABC):
    """Logs and pictures as streams; `prepare` makes the dataset folder of them.

    Each method may be called more than once and yields the same each time. Nothing is sorted or held in memory.
    """

    columns: SourceColumns
    """What the tables have beside the fixed columns."""
    fingerprint: str
    """Of how the tables are read; a folder prepared with another one is refused, not overwritten."""
    pieces: dict[str, str]
    """The log in pieces, such as files, in a fixed order: name -> what changes when its content does. More may come
    later, with later days; a piece that is there does not change."""
    snapshot: str
    """Changes when the items, the users or the list of pictures do: they are read again then."""

    @abstractmethod
    def impressions(self, piece: str) -> "Iterator[pa.RecordBatch]":
        """Yields a piece's impressions: `user`, `item` (int64 or string, never null), `time` (int64 seconds), `label`
        (0 or 1), the context columns, and where the source has them `order` (int64, breaks ties of time), `weight`
        (float32), `split` (train, val or test), `history` (a list of items clicked before, newest first) with
        `history_time` (a list of int64), and `click_probability` (float64: the truth, of made-up data only).

        Impressions of one page must have the same `time` and `order`: histories hold the clicks before, in that order.
        """

    @abstractmethod
    def items(self) -> "Iterator[pa.RecordBatch]":
        """Yields every item once: `item`, `picture` (a name that `pictures` yields, or null), the item columns."""

    @abstractmethod
    def users(self) -> "Iterator[pa.RecordBatch]":
        """Yields every user once: `user` and the user columns. `user_id` is a column of its own, by itself."""

    @abstractmethod
    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields (name, bytes of a JPEG, PNG or WebP file) of each picture whose name is not in `have`, once.

        Text in the place of the bytes says why the picture is refused.
        """
