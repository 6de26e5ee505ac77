"""The sizes and inputs that each kind of component is tried with: tiny, and the same each time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from dicm_kit.interfaces import ColumnShape, DataSource, HistoryShapes, NetShapes
from dicm_kit.testing.check import Failed
from dicm_kit.testing.subject import Setting, Subject
from dicm_kit.testing.tensors import leaves, mapped
from dicm_kit.types import Bag, Encoded, Interest, Pictures

QUERY = {"image": 3, "target.item_id": 4, "target.tags": 2, "user.age": 2, "context.hour": 1}
HISTORY = {"image": 3, "item_id": 4, "tags": 2, "age": 1}
HISTORY_SHAPES = (
    HistoryShapes(QUERY, HISTORY, ("image",), 8),
    HistoryShapes(QUERY, HISTORY, ("item_id", "tags"), 8),
)
"""The slot of pictures and the slot of ids."""
NET_SHAPES = NetShapes(
    user={"user_id": 3},
    target={"item_id": 3, "tags": 2},
    context={"hour": 1},
    history={"item_id": 3},
    image=2,
    interest={"ids": 3, "images": 4},
)
NUM_IDS = 11
PICTURE_SIZES = ((40, 30), (17, 64))
"""Width and height of pictures that a backbone transforms."""


def settings_of(subject: Subject) -> list[Setting[Any]]:
    """Returns every setting of the subject's kind."""
    settings: dict[str, Callable[[Subject], list[Setting[Any]]]] = {
        "interest_aggregator": _aggregators,
        "feature_encoder": _encoders,
        "image_backbone": lambda each: [BackboneSetting(each)],
        "base_net": _base_nets,
        "data_source": lambda each: [SourceSetting(each)],
    }
    return settings[subject.kind](subject)


# --- aggregators ---


@dataclass(frozen=True)
class Histories:
    """What an aggregator is called with; `rows` examples."""

    query: dict[str, Tensor]
    history: dict[str, Tensor]
    mask_BL: Tensor


def histories(shapes: HistoryShapes, rows: int = 5, seed: int = 1, length: int = 6) -> Histories:
    """Returns `rows` histories of `length` slots, the same for the same seed.

    They have all lengths but 0, the first is full, some have a gap; empty slots hold random values, too.
    """
    g = torch.Generator().manual_seed(seed)
    filled_B = torch.tensor([length, max(length // 2, 1), min(length, 2), 1, max(length - 1, 1)]).repeat(rows // 5 + 1)[
        :rows
    ]
    mask_BL = torch.arange(length) < filled_B.unsqueeze(1)
    mask_BL[1::4, 1:2] = False  # a click without a picture
    history = {name: torch.randn(rows, length, width, generator=g) for name, width in shapes.history.items()}
    if "age" in history:
        history["age"] = history["age"].abs() * 3
    query = {name: torch.randn(rows, width, generator=g) for name, width in shapes.query.items()}
    return Histories(query, history, mask_BL)


class AggregatorSetting(Setting[Histories]):
    """A slot of the recipe."""

    shapes: HistoryShapes

    def inputs(self, rows: int = 5, seed: int = 1, length: int = 6) -> Histories:
        """Returns histories of all lengths but 0, the first full, some with a gap; what stands in empty slots is as
        random as the rest."""
        return histories(self.shapes, rows, seed, length)

    def run(self, module: Any, inputs: Histories, need_weights: bool = False) -> dict[str, Tensor]:
        """Returns what it gives, by name."""
        interest = module(inputs.query, inputs.history, inputs.mask_BL, need_weights=need_weights)
        return _of_interest(interest)

    def mixed(self, ours: Histories, theirs: Histories, rows: Tensor) -> Histories:
        """Returns inputs whose `rows` are ours and whose others are theirs."""
        return Histories(
            {name: chosen(rows, each, theirs.query[name]) for name, each in ours.query.items()},
            {name: chosen(rows, each, theirs.history[name]) for name, each in ours.history.items()},
            chosen(rows, ours.mask_BL, theirs.mask_BL),
        )


def _aggregators(subject: Subject) -> list[Setting[Any]]:
    shapes = subject.shapes or HISTORY_SHAPES
    return [AggregatorSetting(subject, f"slot of {', '.join(each.values)}", each) for each in shapes]


def _of_interest(interest: Any) -> dict[str, Tensor]:
    if not isinstance(interest, Interest):
        raise Failed(f"it returned a {type(interest).__name__}; return `Interest(vector, weights)`")
    return {"vector": interest.vector} | ({} if interest.weights is None else {"weights": interest.weights})


def chosen(rows: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns our rows where `rows` says so, and theirs elsewhere."""
    return torch.where(rows.view(-1, *[1] * (ours.ndim - 1)), ours, theirs)


# --- encoders ---


class EncoderSetting(Setting[Any]):
    """A kind of column."""

    shapes: ColumnShape

    def inputs(self, rows: int = 5, seed: int = 1) -> Any:
        """Returns a column [rows] of ordinary values; extreme ids and empty rows are for their own checks."""
        return self.column((rows,), seed)

    def column(self, shape: tuple[int, ...], seed: int = 1) -> Any:
        """Returns a column of this shape: a Bag for `ids`."""
        g = torch.Generator().manual_seed(seed)
        count = int(torch.tensor(shape).prod())
        if self.shapes.kind == "number":
            return torch.randn(shape, generator=g) * 3
        if self.shapes.kind == "hash":
            return torch.randint(-(2**62), 2**62, shape, generator=g)
        ids = torch.randint(1, NUM_IDS - 1, (count,) if self.shapes.kind == "id" else (3 * count,), generator=g)
        if self.shapes.kind == "id":
            return ids.view(shape)
        lengths = torch.randint(1, 4, (count,), generator=g)
        return bag(list(torch.split(ids[: int(lengths.sum())], lengths.tolist())), shape)

    def run(self, module: Any, inputs: Any) -> dict[str, Tensor]:
        """Returns what it gives, by name."""
        return {"vectors": module(inputs)}

    def mixed(self, ours: Any, theirs: Any, rows: Tensor) -> Any:
        """Returns inputs whose `rows` are ours and whose others are theirs."""
        if isinstance(ours, Tensor):
            return chosen(rows, ours, theirs)
        pairs = zip(rows.tolist(), rows_of(ours), rows_of(theirs), strict=True)
        return bag([mine if keep else other for keep, mine, other in pairs], ours.shape)

    def part(self, inputs: Any, first: int, end: int) -> Any:
        """Returns some rows of a column [rows]."""
        if isinstance(inputs, Tensor):
            return inputs[first:end]
        return bag(rows_of(inputs)[first:end], (end - first,))


def bag(rows: list[Tensor], shape: tuple[int, ...]) -> Bag:
    """Returns a Bag of these rows."""
    lengths = torch.tensor([0, *map(len, rows)], dtype=torch.int64)
    values = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64)
    return Bag(values, lengths.cumsum(0), shape)


def rows_of(column: Bag) -> list[Tensor]:
    """Returns the values of each row of a Bag."""
    return list(torch.split(column.values, column.offsets.diff().tolist()))


def _encoders(subject: Subject) -> list[Setting[Any]]:
    shapes = subject.shapes or (
        ColumnShape("id", NUM_IDS),
        ColumnShape("ids", NUM_IDS),
        ColumnShape("hash", None),
        ColumnShape("number", None),
    )
    return [EncoderSetting(subject, f"column of kind {each.kind}", each) for each in shapes]


# --- backbones ---


class BackboneSetting(Setting[Any]):
    """Pictures of several sizes."""

    def pictures(self, rows: int = 5, seed: int = 1) -> list[Any]:
        """Returns RGB pictures, wide and high ones."""
        import numpy as np
        from PIL import Image

        draw = np.random.default_rng(seed)
        sizes = [PICTURE_SIZES[index % 2] for index in range(rows)]
        return [Image.fromarray(draw.integers(0, 256, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]

    def inputs(self, rows: int = 5, seed: int = 1) -> Tensor:
        """Returns pixels [rows, 3, H, W], as the backbone's own transform makes them."""
        return self._pixels(self._backbone, rows, seed)

    def inputs_for(self, module: Any) -> Tensor:
        """Returns pixels as this one's transform makes them."""
        return self._pixels(module, 5, 1)

    def _pixels(self, module: Any, rows: int, seed: int) -> Tensor:
        return torch.stack([module.transform(each) for each in self.pictures(max(rows, 1), seed)])[:rows]

    @property
    def _backbone(self) -> Any:
        if not hasattr(self, "_made"):
            self._made = self.build()
        return self._made

    def run(self, module: Any, inputs: Tensor) -> dict[str, Tensor]:
        """Returns what it gives, by name."""
        return {"vectors": module(inputs)}

    def mixed(self, ours: Tensor, theirs: Tensor, rows: Tensor) -> Tensor:
        """Returns inputs whose `rows` are ours and whose others are theirs."""
        return chosen(rows, ours, theirs)


# --- base nets ---


@dataclass(frozen=True)
class NetInputs:
    """What a base net is called with."""

    encoded: Encoded
    pictures: Pictures | None
    interest: dict[str, Interest]


class NetSetting(Setting[NetInputs]):
    """What a recipe shows the net."""

    shapes: NetShapes

    def inputs(self, rows: int = 5, seed: int = 1, scale: float = 1.0) -> NetInputs:
        """Returns `rows` impressions, each its own group; history vectors of 3 slots."""
        g = torch.Generator().manual_seed(seed)

        def vectors(widths: Mapping[str, int], *lead: int) -> dict[str, Tensor]:
            return {name: torch.randn(*lead, width, generator=g) * scale for name, width in widths.items()}

        shapes = self.shapes
        encoded = Encoded(
            user=vectors(shapes.user, rows),
            target=vectors(shapes.target, rows),
            context=vectors(shapes.context, rows),
            history=vectors(shapes.history, rows, 3),
            group_N=torch.arange(rows),
        )
        pictures = None
        if shapes.image is not None:
            image = torch.randn(rows, shapes.image, generator=g) * scale
            pictures = Pictures(target_NI=image, history_GLI=None, mask_GL=torch.ones(rows, 3, dtype=torch.bool))
        interest = {name: Interest(each) for name, each in vectors(shapes.interest, rows).items()}
        return NetInputs(encoded, pictures, interest)

    def run(self, module: Any, inputs: NetInputs) -> dict[str, Tensor]:
        """Returns what it gives, by name."""
        return {"logit": module(inputs.encoded, inputs.pictures, inputs.interest)}

    def mixed(self, ours: NetInputs, theirs: NetInputs, rows: Tensor) -> NetInputs:
        """Returns inputs whose `rows` are ours and whose others are theirs."""
        others = iter([each for _, each in leaves(theirs)])
        return cast(NetInputs, mapped(ours, lambda mine: chosen(rows, mine, next(others))))

    def part(self, inputs: NetInputs, first: int, end: int) -> NetInputs:
        """Returns some impressions, each its own group."""
        part = super().part(inputs, first, end)
        return replace(part, encoded=replace(part.encoded, group_N=torch.arange(end - first)))


def _base_nets(subject: Subject) -> list[Setting[Any]]:
    if subject.shapes:
        return [NetSetting(subject, f"shapes {index}", each) for index, each in enumerate(subject.shapes)]
    whole = NET_SHAPES
    untargeted = getattr(subject.component.build(subject.config, whole), "requires_untargeted", False)
    if untargeted:  # no context columns: they belong to neither tower
        whole = replace(whole, context={})
    return [
        NetSetting(subject, "with pictures and interests", whole),
        NetSetting(subject, "without pictures", replace(whole, image=None, interest={"ids": 3})),
        NetSetting(subject, "without interests", replace(whole, interest={}, history={})),
    ]


# --- data sources ---


class SourceSetting(Setting[Any]):
    """A data source on the data that its config names."""

    def source(self) -> DataSource:
        """Returns the source, built anew."""
        made = self.build()
        assert isinstance(made, DataSource)
        return made

    def streams(self, source: DataSource) -> dict[str, Any]:
        """Returns all that it yields, whole: columns, pieces' impressions, items, users, pictures."""
        return {
            "columns": source.columns,
            **{f"impressions {piece}": rows(source.impressions(piece)) for piece in source.pieces},
            "items": rows(source.items()),
            "users": rows(source.users()),
            "pictures": list(source.pictures(())),
        }

    def inputs(self, rows: int = 5, seed: int = 1) -> Any:
        """Is not asked for."""
        raise AssertionError("a data source takes no inputs")

    runs = repeats = True  # its own checks tell

    def mixed(self, ours: Any, theirs: Any, rows: Tensor) -> Any:
        """Is not asked for."""
        raise AssertionError("a data source takes no inputs")

    def run(self, module: Any, inputs: Any) -> dict[str, Tensor]:
        """Is not asked for."""
        raise AssertionError("a data source is no module")


def rows(stream: Any) -> list[dict[str, Any]]:
    """Returns the rows of a stream of record batches; NaN as None, so that rows can be compared."""
    found = [row for batch in stream for row in batch.to_pylist()]
    return [{name: None if value != value else value for name, value in row.items()} for row in found]
