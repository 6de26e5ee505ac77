"""A loaded recipe -> its components; what they refuse is reported with the recipe's lines, all at once."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dicm_kit.errors import DicmError, FieldError, FieldsError, PluginError, did_you_mean, some
from dicm_kit.images.embedder import Embedder
from dicm_kit.interfaces import (
    BaseNet,
    ColumnShape,
    DataSource,
    FeatureEncoder,
    HistoryShapes,
    ImageBackbone,
    InterestAggregator,
    NetShapes,
    SourceColumn,
)
from dicm_kit.recipe.checks import query_names
from dicm_kit.recipe.load import LoadedRecipe
from dicm_kit.recipe.typed import Path, dotted

SIDES = ("user", "target", "context", "history")

Shapes = Mapping[str, Mapping[str, ColumnShape]]
"""Side -> column -> what its encoder must know."""


@dataclass(frozen=True)
class Parts:
    """The trained components of a recipe, but for a trained backbone."""

    encoders: dict[str, dict[str, FeatureEncoder]]
    """Side -> column -> encoder; a shared one is the same object in both places."""
    embedder: Embedder | None
    """None without pictures."""
    interest: dict[str, InterestAggregator]
    """By slot: `ids`, `images`."""
    net: BaseNet


def build_source(loaded: LoadedRecipe) -> DataSource:
    """Returns the data source.

    Raises:
        RecipeError: it refuses a key, or has no column that a feature is named after.
    """
    builder = _Builder(loaded)
    data = loaded.recipe.data
    source: DataSource | None = builder.component("data_source", ("data",), data.name, data.config, None)
    if source is not None:
        builder.problems += _column_problems(loaded, source)
    builder.finish()
    assert source is not None
    return source


def build_backbone(loaded: LoadedRecipe) -> ImageBackbone:
    """Returns the image backbone of a recipe with pictures."""
    assert loaded.recipe.images is not None
    section = loaded.recipe.images.backbone
    builder = _Builder(loaded)
    backbone = builder.component("image_backbone", ("images", "backbone"), section.name, section.config, None)
    builder.finish()
    assert isinstance(backbone, ImageBackbone)
    return backbone


def backbone_request(loaded: LoadedRecipe) -> dict[str, Any]:
    """Returns the recipe's `images.backbone` with every key: what a feature store was made for."""
    assert loaded.recipe.images is not None
    section = loaded.recipe.images.backbone
    return {"name": section.name, **asdict(section.config)}


def build_parts(loaded: LoadedRecipe, columns: Shapes, image_dim: int | None) -> Parts:
    """Returns encoders, embedder, aggregators and net for a dataset's columns.

    `columns` has the four sides (`history` columns have the shape of the item's); `image_dim` is the backbone's
    `out_dim`, C, or None without pictures.

    Raises:
        RecipeError: components refuse their keys, or do not fit each other.
    """
    recipe, builder = loaded.recipe, _Builder(loaded)
    images = recipe.images
    encoders = builder.encoders(columns)
    embedder = None
    if images is not None:
        assert image_dim is not None
        options = images.embedder
        embedder = Embedder(image_dim, tuple(options.hidden), options.dim, options.dropout, options.standardize)
    # An encoder with a problem counts as one wide, so that the others can still be judged.
    widths = {side: {name: each.out_dim if each else 1 for name, each in encoders[side].items()} for side in SIDES}
    picture = {"image": images.embedder.dim} if images else {}
    query = {
        name: picture["image"] if name == "image" else widths[name.split(".")[0]][name.split(".")[1]]
        for name in query_names(recipe)
    }
    longest = recipe.data.history.max_length
    aggregators, history_shapes = {}, {}
    for slot in ("ids", "images"):
        section = getattr(recipe.interest, slot)
        if section is not None:
            history = {**(picture if slot == "images" else {}), **widths["history"], "age": 1}
            values = ("image",) if slot == "images" else tuple(widths["history"])
            history_shapes[slot] = shapes = HistoryShapes(query, history, values, longest)
            path: Path = ("interest", slot)
            aggregators[slot] = builder.component("interest_aggregator", path, section.name, section.config, shapes)
    target_picture = images.embedder.dim if images and images.target else None
    interest = {slot: each.out_dim if each else 1 for slot, each in aggregators.items()}
    net_shapes = NetShapes(image=target_picture, interest=interest, **widths)
    net = builder.component("base_net", ("net",), recipe.net.name, recipe.net.config, net_shapes)
    builder.untargeted(net, aggregators, history_shapes)
    builder.finish()
    return Parts(encoders, embedder, aggregators, net)


def rehearse(loaded: LoadedRecipe) -> DataSource:
    """Builds everything but the backbone, small, so that what cannot be built is known before work begins.

    Returns the data source. Random numbers stay as they are.

    Raises:
        RecipeError: what `build_source` and `build_parts` refuse.
    """
    source = build_source(loaded)
    known = source_columns(source)
    columns = {
        side: {
            name: ColumnShape(kind := known[side][name].kind, 3 if kind in ("id", "ids") else None)
            for name in getattr(loaded.recipe.features, side)
        }
        for side in SIDES
    }
    image_dim = 8 if loaded.recipe.images else None
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # a hash table may be as large as memory
                build_parts(loaded, columns, image_dim)
        except Exception:  # it may only be that a component looks at values when it is built
            build_parts(loaded, columns, image_dim)
    return source


def source_columns(source: DataSource) -> dict[str, dict[str, SourceColumn]]:
    """Returns the columns that each side's features can name: the source's, and those that prepare adds."""
    item = {"item_id": SourceColumn("id"), "picture": SourceColumn("id"), **source.columns.item}
    user = {"user_id": SourceColumn("id"), **source.columns.user}
    return {"user": user, "target": item, "context": dict(source.columns.context), "history": item}


def _column_problems(loaded: LoadedRecipe, source: DataSource) -> Iterator[tuple[Path, str, str | None]]:
    known, name = source_columns(source), loaded.recipe.data.name
    for side in SIDES:
        noun = "item" if side in ("target", "history") else side
        for column, section in getattr(loaded.recipe.features, side).items():
            path: Path = ("features", side, column)
            if column not in known[side]:
                near = did_you_mean(column, known[side])
                listed = f"Columns here: {some(sorted(known[side]), 20) if known[side] else 'none'}."
                yield (
                    path,
                    f"data source `{name}` has no {noun} column `{column}`",
                    f"{f'{near} ' if near else ''}{listed}",
                )
                continue
            share = getattr(section, "share", None)
            other_side, _, other = (share or "").partition(".")
            if share and other in known[other_side]:
                ours, theirs = known[side][column], known[other_side][other]
                if (ours.vocab or column) != (theirs.vocab or other) or ours.kind != theirs.kind:
                    yield (
                        (*path, "share"),
                        f"`{dotted(path)}` cannot share `{share}`: their ids are of different vocabularies",
                        "Share the encoder of the same column.",
                    )


class _Builder:
    """Builds components and collects what they refuse."""

    def __init__(self, loaded: LoadedRecipe):
        self.problems: list[tuple[Path, str, str | None]] = []
        self._loaded = loaded
        self._cause: Exception | None = None

    def component(self, kind: str, path: Path, name: str, config: Any, shapes: Any) -> Any:
        """Returns the component, or None after noting why there is none."""
        try:
            return self._loaded.registry.build(kind, name, config, shapes)
        except FieldError as error:
            for each in error.errors if isinstance(error, FieldsError) else (error,):
                here = (*path, *each.field.split("."))
                self.problems.append((here, f"`{dotted(here)}`: {each.what}", each.todo))
            self._cause = error
        except PluginError as error:
            self.problems.append(((*path, "name"), error.what, error.todo))
            self._cause = error
        return None

    def encoders(self, columns: Shapes) -> dict[str, dict[str, Any]]:
        """Returns the encoders by side and column."""
        features = self._loaded.recipe.features
        encoders: dict[str, dict[str, Any]] = {}
        for side in SIDES:
            encoders[side] = {}
            for column, section in getattr(features, side).items():
                path: Path = ("features", side, column)
                share = getattr(section, "share", None)
                if share is not None:
                    other_side, other = share.split(".")
                    assert columns[side][column] == columns[other_side][other], "build_source has checked it"
                    encoders[side][column] = encoders[other_side][other]
                    continue
                shape = columns[side][column]
                encoders[side][column] = self.component("feature_encoder", path, section.name, section.config, shape)
        return encoders

    def untargeted(
        self,
        net: BaseNet | None,
        aggregators: Mapping[str, InterestAggregator | None],
        shapes: Mapping[str, HistoryShapes],
    ) -> None:
        """Notes what a net of two towers cannot have: aggregators that look at the target, and context columns."""
        if net is None or not net.requires_untargeted:
            return
        recipe, name = self._loaded.recipe, self._loaded.recipe.net.name
        for slot, aggregator in aggregators.items():
            if aggregator is not None and aggregator.uses_target:
                section = getattr(recipe.interest, slot)
                what = f"aggregator `{section.name}` looks at the target, which net `{name}` forbids"
                own = [query for query in shapes[slot].query if query.startswith("user.")]
                or_own = (
                    f"; or give it queries of the user alone: {some(own)}" if hasattr(section.config, "queries") else ""
                )
                blind = some((f"`{each}`" for each in self._blind(shapes[slot])), 20) or "none"
                todo = f"Its user vector must not depend on the item. These go: {blind}{or_own if own else ''}."
                self.problems.append((("interest", slot, "name"), what, todo))
        for column in recipe.features.context:
            what = f"context column `{column}` belongs to neither tower of net `{name}`"
            todo = "Neither vector may depend on the impression. Leave it out; without any: `features.context={}`."
            self.problems.append((("features", "context", column), what, todo))

    def _blind(self, shapes: HistoryShapes) -> Iterator[str]:
        """Yields the aggregators that, with no keys given, do not look at the target."""
        for each in self._loaded.registry.provided("interest_aggregator"):
            try:
                built = self._loaded.registry.build(
                    "interest_aggregator", each.component.name, each.component.config(), shapes
                )
            except (TypeError, DicmError):  # a key must be given, or the recipe has not what it needs
                continue
            if not built.uses_target:
                yield each.component.name

    def finish(self) -> None:
        """Raises the collected problems, if there are any."""
        if self.problems:
            raise self._loaded.errors(self.problems) from self._cause
