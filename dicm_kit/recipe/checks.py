"""What must fit together between the sections of a recipe: queries and features, pictures and interests, sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path as FilePath
from typing import Any

from dicm_kit.errors import did_you_mean, some
from dicm_kit.recipe.schema import WARM_PARTS, AggregatorSection, Recipe
from dicm_kit.recipe.typed import Path, dotted


@dataclass(frozen=True)
class Finding:
    """Something that does not fit, at the key to change."""

    path: Path
    what: str
    todo: str | None = None


def findings(recipe: Recipe, bad: set[Path]) -> Iterator[Finding]:
    """Yields everything that does not fit; what hangs on a value at a path in `bad` is not judged."""

    def good(*names: str) -> bool:
        paths = [tuple(name.split(".")) for name in names]
        return not any(each[: len(path)] == path or path[: len(each)] == each for each in bad for path in paths)

    yield from _at_least(recipe, bad)
    yield from _sizes(recipe, good)
    yield from _ids_rule(recipe, good)
    yield from _sharing(recipe, bad)
    yield from _pictures(recipe, good)
    yield from _standardized(recipe, good)
    yield from _queries(recipe, bad)
    yield from _warm_start(recipe, good)


# Smallest value of each number; a value that may be null is only judged when it is given.
_LEAST: dict[str, float] = {
    "seed": 0,
    "data.workers": 0,
    "data.group.session_minutes": 1,
    "data.history.max_length": 1,
    "data.split.test": 0,
    "data.split.validation": 0,
    "data.lanes": 1,
    "data.partitions": 1,
    "data.min_count": 1,
    "data.forget_after_days": 1,
    "data.memory_mb": 64,
    "data.negatives.per_positive": 1,
    "data.negatives.power": 0,
    "data.negatives.seed": 0,
    "batch_size": 1,
    "images.shuffle": 0,
    "images.max_distinct": 1,
    "images.embedder.dim": 1,
    "trainer.max_epochs": 1,
    "trainer.max_steps": 1,
    "trainer.num_nodes": 1,
    "trainer.log_every": 1,
    "trainer.validate_every": 1,
    "trainer.threads": 1,
    "trainer.timeout": 1,
    "trainer.early_stop.patience": 1,
    "trainer.early_stop.min_delta": 0,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "optimizer.dense.weight_decay": 0,
    "optimizer.ids.l2": 0,
    "optimizer.ids.initial_accumulator": 0,
    "optimizer.decay.every": 1,
}
_ABOVE_ZERO = (
    "data.history.max_age_days",
    "optimizer.dense.lr",
    "optimizer.ids.lr",
    "optimizer.ids.eps",
    "optimizer.backbone.lr",
    "optimizer.decay.factor",
    "trainer.gradient_clip",
    "checkpoint.every_minutes",
)


def _at_least(recipe: Recipe, bad: set[Path]) -> Iterator[Finding]:
    # `not a >= b` and not `a < b`: nan fits nowhere
    for name, least in _LEAST.items():
        path, value = tuple(name.split(".")), _at(recipe, name)
        if value is not None and path not in bad and not value >= least:
            yield Finding(path, f"`{name}` must be at least {least}, got {value}")
    for name in _ABOVE_ZERO:
        path, value = tuple(name.split(".")), _at(recipe, name)
        if value is not None and path not in bad and not 0 < value < float("inf"):
            yield Finding(path, f"`{name}` must be above 0, got {value}")
    embedder = recipe.images.embedder if recipe.images else None
    if embedder and embedder.hidden is not None and any(width < 1 for width in embedder.hidden):
        path = ("images", "embedder", "hidden")
        yield Finding(path, f"widths in `images.embedder.hidden` must be at least 1, got {embedder.hidden}")
    if embedder and ("images", "embedder", "dropout") not in bad and not 0 <= embedder.dropout < 1:
        path = ("images", "embedder", "dropout")
        yield Finding(path, f"`images.embedder.dropout` must be from 0 to below 1, got {embedder.dropout}")


def _at(recipe: Recipe, name: str) -> Any:
    value: Any = recipe
    for step in name.split("."):
        value = getattr(value, step, None)
    return value


def _sizes(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    trainer, data = recipe.trainer, recipe.data
    if good("batch_size", "data.lanes") and data.lanes >= 1 and recipe.batch_size % data.lanes:
        near = max(1, round(recipe.batch_size / data.lanes)) * data.lanes
        yield Finding(
            ("batch_size",),
            f"`batch_size` must be a multiple of `data.lanes`, got {recipe.batch_size} with {data.lanes} lanes",
            f"Every lane gives each batch the same share. The nearest is {near}.",
        )
    if good("trainer.devices") and trainer.devices != -1 and trainer.devices < 1:
        yield Finding(
            ("trainer", "devices"), f"`trainer.devices` must be at least 1, or -1 for all, got {trainer.devices}"
        )
    elif (
        good("trainer.devices", "trainer.num_nodes", "data.lanes") and trainer.devices * trainer.num_nodes > data.lanes
    ):
        ranks = trainer.devices * trainer.num_nodes
        yield Finding(
            ("trainer", "devices"),
            f"{ranks} ranks cannot share {data.lanes} lanes",
            f"Set `data.lanes` to {ranks} or a multiple, or train on fewer ranks.",
        )
    yield from _shared_out(recipe, good)
    yield from _sharded(recipe, good)
    if good("data.lanes") and data.lanes > 256:
        yield Finding(("data", "lanes"), f"`data.lanes` may be 256 at most, got {data.lanes}: each is an open file")
    if good("data.split", "data.forget_after_days") and data.forget_after_days and data.split.by != "time":
        yield Finding(
            ("data", "forget_after_days"),
            f"`data.split.by: {data.split.by}` gives training no last day that all users share, to count back from",
            "Set `data.forget_after_days: null`, or `data.split.by: time`.",
        )
    if good("data.split", "checkpoint.monitor") and data.split.validation == 0 and recipe.checkpoint.monitor:
        yield Finding(
            ("data", "split", "validation"),
            f"`checkpoint.monitor: {recipe.checkpoint.monitor}` needs a validation split",
            "Set `data.split.validation` to 1 or more, or `checkpoint.monitor: null`.",
        )
    if good("trainer.early_stop", "checkpoint.monitor") and trainer.early_stop and not recipe.checkpoint.monitor:
        yield Finding(
            ("trainer", "early_stop"),
            "`trainer.early_stop` goes by `checkpoint.monitor`, which is null",
            "Name a metric there, such as `val/gauc`, or leave `early_stop` out.",
        )
    if good("trainer.max_epochs", "trainer.max_steps") and trainer.max_epochs is None and trainer.max_steps is None:
        yield Finding(("trainer", "max_epochs"), "training would never end: `max_epochs` and `max_steps` are both null")


def _shared_out(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    """What the image server needs where ranks share the pictures."""
    if recipe.images is None or not good("trainer.strategy", "images.transport", "data.partitions"):
        return
    trainer, images, partitions = recipe.trainer, recipe.images, recipe.data.partitions
    ranks = trainer.devices * trainer.num_nodes if good("trainer.devices", "trainer.num_nodes") else 1
    if trainer.strategy == "image_server" and ranks > partitions >= 1:
        yield Finding(
            ("trainer", "devices"),
            f"{ranks} ranks cannot share {partitions} partitions of the pictures",
            f"Set `data.partitions` to {ranks} or more, or train on fewer ranks.",
        )
    if images.transport != "vectors" and trainer.strategy != "image_server":
        yield Finding(
            ("images", "transport"),
            f"`trainer.strategy: {trainer.strategy}` sends no pictures between ranks",
            "Leave `images.transport` out, or set `trainer.strategy: image_server`.",
        )


def _sharded(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    """What sharded id tables need."""
    if not good("features", "trainer.strategy", "trainer.devices", "trainer.num_nodes"):
        return
    trainer = recipe.trainer
    for side in ("user", "target", "context", "history"):
        for column, section in getattr(recipe.features, side).items():
            if getattr(getattr(section, "config", None), "placement", "") != "sharded":
                continue
            path = ("features", side, column, "placement")
            if trainer.devices * trainer.num_nodes != 1 and trainer.strategy != "image_server":
                yield Finding(
                    path,
                    f"`{'.'.join(path)}: sharded` cannot be trained on several ranks with `{trainer.strategy}`",
                    "Write `trainer.strategy: image_server`, or `placement: replicated`.",
                )


def _ids_rule(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    """A key that the rule does not look at."""
    if good("optimizer") and recipe.optimizer.ids.name != "lazy_adagrad" and recipe.optimizer.ids.initial_accumulator:
        yield Finding(
            ("optimizer", "ids", "initial_accumulator"),
            f"`initial_accumulator` has no effect with `{recipe.optimizer.ids.name}`",
            "Leave it out, or write `optimizer.ids.name: lazy_adagrad`.",
        )


def _sharing(recipe: Recipe, bad: set[Path]) -> Iterator[Finding]:
    features = recipe.features
    if features is None:
        return
    known = {f"{side}.{name}" for side in ("user", "target", "context") for name in getattr(features, side) or {}}
    for name, section in (features.history or {}).items():
        path: Path = ("features", "history", name)
        share = getattr(section, "share", None)
        if share is None or (*path, "share") in bad:
            continue
        other_path = ("features", *share.split("."))
        if any(each == other_path[: len(each)] or each[: len(other_path)] == other_path for each in bad):
            continue  # it has a problem of its own
        if share not in known:
            near = did_you_mean(share, known) or "Write it like `share: target.item_id`."
            listed = f" Features: {some(sorted(known), 20)}." if known else ""
            yield Finding((*path, "share"), f"`share` names no feature: `{share}`", near + listed)
            continue
        side, column = share.split(".")
        other = getattr(features, side)[column]
        if section.name is not None and other.name is not None and section.name != other.name:
            yield Finding(
                (*path, "name"),
                f"`{dotted(path)}` has name `{section.name}`, but `{share}`, which it shares, has `{other.name}`",
                f"Write `{{share: {share}}}` alone.",
            )


def _pictures(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    images, interest = recipe.images, recipe.interest
    if images is not None and good("images.target", "images.history") and not (images.target or images.history):
        yield Finding(
            ("images",),
            "`images` is given, but neither the target's picture nor the history's is used",
            "Set `target: true` or `history: true` in it, or leave the section out.",
        )
    if interest is None:
        return
    has_history = images is not None and bool(images.history)
    if interest.images is not None and not has_history and good("images.history"):
        todo = "Set `images.history: true`, or do without: `interest.images=null`."
        yield Finding(("interest", "images"), "`interest.images` has no pictures to pool", todo)
    if interest.ids is not None and recipe.features and not recipe.features.history and good("features.history"):
        todo = "Give `features.history` a column, or leave `interest.ids` out."
        yield Finding(("interest", "ids"), "`interest.ids` has no columns to pool", todo)
    features = recipe.features
    sides = (features.user, features.target, features.context, features.history) if features else ()
    if images is None and not any(sides) and good("features", "images"):
        yield Finding(("features",), "there is nothing to learn from: no features and no pictures")


def _standardized(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    """A config field called `trainable` says whether a backbone is trained, of a plugin too."""
    images = recipe.images
    if images is None or not good("images.backbone", "images.embedder") or not images.embedder.standardize:
        return
    if getattr(images.backbone.config, "trainable", None) not in (None, False, "none"):
        yield Finding(
            ("images", "embedder", "standardize"),
            "`standardize` goes by fixed statistics, and the vectors of a trained backbone have none",
            "Leave it out, or train nothing of the backbone (`images.backbone.trainable`).",
        )


def query_names(recipe: Recipe) -> list[str]:
    """Returns what an aggregator of this recipe can use as a query."""
    names = ["image"] if recipe.images and recipe.images.target else []
    for side in ("target", "user", "context"):
        names += [f"{side}.{column}" for column in getattr(recipe.features, side) or {}]
    return names


def _queries(recipe: Recipe, bad: set[Path]) -> Iterator[Finding]:
    """A config field called `queries` holds query names; that is how any aggregator, of a plugin too, says so."""
    if recipe.interest is None or recipe.features is None:
        return
    broken = {".".join(str(step) for step in path[1:3]) for path in bad if path[:1] == ("features",)}
    if ("images", "target") in bad or ("images",) in bad:
        broken.add("image")
    known = query_names(recipe)
    for slot in (each.name for each in fields(recipe.interest)):
        section: AggregatorSection | None = getattr(recipe.interest, slot)
        queries = getattr(section.config, "queries", None) if section and section.config else None
        for index, query in enumerate(queries or []):
            if query in known or query in broken or str(query).partition(".")[0] in broken:
                continue
            others = [each for each in queries or [] if each in known]
            todo = _query_help(query, known, f"interest.{slot}.queries=[{', '.join(others)}]" if others else None)
            yield Finding(("interest", slot, "queries", index), f"the query `{query}` names no feature", todo)


def _query_help(query: str, known: list[str], without: str | None) -> str:
    """`without`: the override that keeps only the queries that are good."""
    if query == "image":
        return f"Set `images.target: true`, or drop the query{f': `{without}`' if without else ''}."
    near = did_you_mean(query, known)
    return f"{f'{near} ' if near else ''}Queries here: {some(known, 20) if known else 'none'}."


def _warm_start(recipe: Recipe, good: Callable[..., bool]) -> Iterator[Finding]:
    start, path = recipe.warm_start, ("warm_start", "parts")
    if start.run is not None and good("warm_start.run", "run_dir"):
        given, own = FilePath(start.run).resolve(), FilePath(recipe.run_dir).resolve()
        if own in (given, given.parent.parent if given.suffix == ".ckpt" else None):
            todo = "Give this run a folder of its own: `run_dir=OTHER`."
            yield Finding(("warm_start", "run"), "`warm_start.run` is this run's own folder, `run_dir`", todo)
    if start.parts == "all" or not good("warm_start.parts", "features", "interest"):
        return
    if start.run is not None and not start.parts:
        todo = "Name what to take over, or start fresh: `warm_start.run=null`."
        yield Finding(path, "`warm_start.parts` is empty, so `warm_start.run` has no effect", todo)
    single = [f"interest.{slot}" for slot in ("ids", "images") if getattr(recipe.interest, slot)]
    for side in ("user", "target", "context", "history"):
        single += [f"{side}.{column}" for column in getattr(recipe.features, side) or {}]
    for index, part in enumerate(start.parts):
        if part not in (*WARM_PARTS, *single):
            near = did_you_mean(part, [*WARM_PARTS, *single])
            listed = (
                f"Parts: {', '.join(WARM_PARTS)}, or `warm_start.parts=all`; here also {some(single, 20) or 'none'}."
            )
            yield Finding((*path, index), f"`{part}` is no part of this model", f"{f'{near} ' if near else ''}{listed}")
