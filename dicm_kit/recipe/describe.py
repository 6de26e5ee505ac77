"""Recipes and components in words: what `dicm ls`, `dicm explain` and `dicm check` say, and the reference page.

All of it comes from the dataclasses and the docstrings under their fields.
"""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from dicm_kit.errors import DicmError, RecipeError, did_you_mean
from dicm_kit.plugin_modules import Plugin
from dicm_kit.recipe.keys import Key, docs_of, keys_of, type_text, without_null
from dicm_kit.recipe.load import LoadedRecipe
from dicm_kit.recipe.schema import Recipe
from dicm_kit.registry import KINDS, Kind, Provided, Registry

_SECTION_OF = {
    "feature_encoder": "features.target.item_id",
    "image_backbone": "images.backbone",
    "interest_aggregator": "interest.images",
    "base_net": "net",
    "data_source": "data",
}


# --- ls and explain ---


def kind_named(word: str) -> Kind:
    """Returns the kind of component that a person means: `base_net`, `net`, `aggregators`."""
    wanted = word.lower().replace("-", "_").removesuffix("s")
    meant = [kind for kind in KINDS.values() if wanted and wanted in (kind.name, *kind.name.split("_"), kind.noun)]
    if len(meant) != 1:
        near = did_you_mean(word, KINDS)
        raise RecipeError(
            f"no kind of component is called `{word}`", todo=f"{f'{near} ' if near else ''}Kinds: {', '.join(KINDS)}."
        )
    return meant[0]


def listing(registries: Sequence[Registry], kind: Kind | None, plugin: Plugin | None = None) -> str:
    """Returns the components of a kind or of all, of a plugin or of all: name, what it is, the plugin it comes from."""
    found = {
        (each.kind.name, each.component.name, each.plugin): each
        for one in registries
        for each in one.provided()
        if plugin in (None, each.plugin)
    }
    parts = []
    for each_kind in [kind] if kind else KINDS.values():
        rows = [
            (each.component.name, summary(each), str(each.plugin) if len(registries) > 1 else "")
            for each in found.values()
            if each.kind == each_kind
        ]
        if rows or plugin is None:
            parts.append("\n".join([each_kind.name, *_table(rows)]))
    return "\n\n".join(parts)


def summary(provided: Provided) -> str:
    """Returns the first sentence of the config's docstring, with the paper."""
    doc = docs_of(provided.component.config)[""].split("\n\n")[0]
    text = " ".join(doc.split())
    return f"{text} ({provided.component.paper})" if provided.component.paper else text


def explained(provided: Provided) -> str:
    """Returns what a component is and each of its keys."""
    component = provided.component
    docs = docs_of(component.config)
    source = f"From {provided.plugin}." + (f" Paper: {component.paper}." if component.paper else "")
    section = _SECTION_OF[provided.kind.name]
    required = "".join(f", {key.name}: ..." for key in keys_of(component.config).values() if key.required)
    example = f"Recipe:\n  {section}: {{name: {component.name}{required}}}"
    head = f"{provided.kind.noun} `{component.name}`"
    nested = [
        f"{path}\n\n{_indented(docs_of(each)[''])}\n\n{_keys_text(each)}" for path, each in _below(component.config)
    ]
    return "\n\n".join([head, _indented(docs[""]), _keys_text(component.config), *nested, f"{source}\n{example}"])


def explained_plugin(listed: str) -> str:
    """Returns what each component of a plugin is, and its keys; `listed` is a file or the name of an installed one.

    Raises:
        PluginError: it cannot be loaded.
    """
    registry = Registry()
    registry.add(listed)
    found = [explained(each) for each in registry.provided() if each.plugin == registry.plugins[-1]]
    return "\n\n\n".join(found) or f"Plugin {registry.plugins[-1].told} provides no component."


def _below(section: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Yields path and dataclass of the sections in a component's config."""
    for key in keys_of(section).values():
        inner = without_null(key.type)[0]
        if is_dataclass(inner):
            here = f"{path}.{key.name}".removeprefix(".")
            yield here, inner  # type: ignore[misc]
            yield from _below(inner, here)  # type: ignore[arg-type]


def explained_section(path: str) -> str:
    """Returns what a section of the recipe is for and each of its keys; `recipe` is the whole."""
    section: Any = Recipe
    for step in () if path == "recipe" else path.split("."):
        keys = keys_of(section)
        key = keys.get(step)
        inner = without_null(key.type)[0] if key else None
        if not is_dataclass(inner):
            sections = [name for name, each in keys.items() if is_dataclass(without_null(each.type)[0])]
            near = did_you_mean(step, sections)
            plugin = "" if "." in path else " and no installed plugin"
            raise RecipeError(
                f"no section of a recipe{plugin} is called `{path}`",
                todo=f"{f'{near} ' if near else ''}Sections here: {', '.join(sections) or 'none'}.",
            )
        section = inner
    parts = [path, _indented(docs_of(section)[""]), _keys_text(section)]
    if kind := getattr(section, "kind", None):
        parts.append(f"The keys of the chosen {KINDS[kind].noun} stand beside these; `dicm ls {kind}` lists them.")
    return "\n\n".join(parts)


def _keys_text(section: type) -> str:
    docs = docs_of(section)
    lines = []
    for key in keys_of(section).values():
        lines.append(f"  {key.name}: {type_text(key.type)}{_default_text(key)}")
        if docs.get(key.name):
            lines.append(f"      {docs[key.name]}")
    return "\n".join(lines) or "  It has no keys."


def _default_text(key: Key) -> str:
    if key.required:
        return ", must be given"
    return "" if _is_section(key) else f", default {_literal(key.default)}"


def _is_section(key: Key) -> bool:
    return is_dataclass(key.default) or is_dataclass((get_args(key.type) or (None,))[-1])


def _literal(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    if not rows:
        return ["  none"]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


# --- check ---


def plan(loaded: LoadedRecipe) -> str:
    """Returns in a few lines what running the recipe will do."""
    recipe, trainer = loaded.recipe, loaded.recipe.trainer
    data = recipe.data
    there = "there already" if Path(data.out, "dataset.yaml").is_file() else "to be prepared"
    steps = f", at most {trainer.max_steps} steps" if trainer.max_steps else ""
    length = _counted(trainer.max_epochs, "epoch") if trainer.max_epochs else "no limit of epochs"
    rows = [
        ("data", f"{data.name} -> {data.out} ({there}); histories of {data.history.max_length}, {data.lanes} lanes"),
        ("features", "; ".join(_features(recipe)) or "none"),
        ("pictures", _pictures(recipe)),
        ("interest", "; ".join(_interest(recipe)) or "none"),
        ("net", recipe.net.name),
        ("training", f"{length}{steps}, batches of {recipe.batch_size}, {_where(recipe)}, {trainer.precision}"),
        ("run", f"{recipe.run_dir}{' (there already)' if Path(recipe.run_dir).exists() else ''}"),
    ]
    if recipe.warm_start.run is not None:
        parts = recipe.warm_start.parts
        taken = parts if isinstance(parts, str) else ", ".join(parts)
        rows.insert(-1, ("warm start", f"{taken} of {recipe.warm_start.run}"))
    if recipe.plugins:
        rows.insert(0, ("plugins", ", ".join(str(each) for each in loaded.registry.plugins[1:])))
    return "\n".join([*_table(rows), *(f"  note: {note}" for note in loaded.notes)])


def _features(recipe: Recipe) -> Iterator[str]:
    for side in ("user", "target", "context", "history"):
        columns = getattr(recipe.features, side)
        texts = [
            f"{column} (as {share})" if (share := getattr(section, "share", None)) else f"{column} ({section.name})"
            for column, section in columns.items()
        ]
        if texts:
            yield f"{side}: {', '.join(texts)}"


def _pictures(recipe: Recipe) -> str:
    images = recipe.images
    if images is None:
        return "none: the id-only baseline"
    sides = " and ".join(side for side in ("target", "history") if getattr(images, side))
    model = getattr(images.backbone.config, "model", None)
    backbone = f"{images.backbone.name} {model}" if model else images.backbone.name
    widths = "-".join(str(width) for width in [*images.embedder.hidden, images.embedder.dim])
    control = "" if images.shuffle is None else f"; a control: shuffled by seed {images.shuffle}"
    return f"{sides}; {backbone}, embedder {widths}{control}"


def _interest(recipe: Recipe) -> Iterator[str]:
    for slot in ("ids", "images"):
        section = getattr(recipe.interest, slot)
        if section is not None:
            queries = getattr(section.config, "queries", None)
            asked = f" of {', '.join(queries)}" if queries else ""
            yield f"{slot}: {section.name}{asked}"


def _where(recipe: Recipe) -> str:
    trainer = recipe.trainer
    devices = "all devices" if trainer.devices == -1 else _counted(trainer.devices, "rank")
    nodes = f" on each of {trainer.num_nodes} machines" if trainer.num_nodes > 1 else ""
    return f"{devices}{nodes} ({trainer.strategy}, {trainer.accelerator})"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# --- the reference page ---

_HEAD = """# Recipe keys

Every key of a recipe, made from the code (`python -m dicm_kit.recipe.describe > docs/reference/recipe.md`). A recipe
is one YAML file, complete in itself. `KEY=VALUE` on the command line overrides any key: `trainer.max_steps=100`,
`features.user.user_id.dim=8`, `interest.images.queries=[image]`, `images=null`.

- Values are plain YAML 1.2: `no` is a string, `1e-3` a number. No tags, no aliases, no duplicate keys.
- `${oc.env:NAME}` and `${oc.env:NAME,default}` stand for environment variables. There is no other interpolation.
- `???` marks a value that must be given on the command line.
- A section with `name` chooses a component; the component's keys (below) stand beside the section's own. An override
  of `name` drops the keys that only the component before it had.
- Plugin files are looked up from the recipe's folder; all other paths from the current folder.
"""


def reference() -> str:
    """Returns docs/reference/recipe.md."""
    registry = Registry()
    parts = [_HEAD, *_section_pages("", Recipe)]
    parts.append("# Components\n\nThe built-in ones. `dicm ls` also lists those of installed plugins.\n")
    for provided in registry.provided():
        paper = f"\n\nPaper: {provided.component.paper}." if provided.component.paper else ""
        head = f"## {provided.kind.noun} `{provided.component.name}`\n\n{docs_of(provided.component.config)['']}{paper}"
        parts.append(f"{head}\n\n{_markdown_keys(provided.component.config)}")
        for path, section in _below(provided.component.config):
            parts.append(f"### `{path}`\n\n{docs_of(section)['']}\n\n{_markdown_keys(section)}")
    return "\n".join(parts)


def _section_pages(path: str, section: type) -> Iterator[str]:
    """Yields the section's part of the page, then those of the sections in it."""
    title = f"## `{path}`" if path else "## The recipe"
    beside = ""
    if kind := getattr(section, "kind", None):
        beside = f"\n\nThe keys of the chosen {KINDS[kind].noun} stand beside these."
    yield f"{title}\n\n{docs_of(section)['']}{beside}\n\n{_markdown_keys(section)}"
    for key in keys_of(section).values():
        inner = without_null(key.type)[0]
        arguments = get_args(inner)
        below = f"{path}.{key.name}".removeprefix(".")
        if is_dataclass(inner):
            yield from _section_pages(below, inner)  # type: ignore[arg-type]
        elif arguments and is_dataclass(arguments[-1]):
            yield from _section_pages(f"{below}.COLUMN", arguments[-1])  # type: ignore[arg-type]


def _markdown_keys(section: type) -> str:
    docs = docs_of(section)
    rows = [
        f"| `{key.name}` | {type_text(key.type)} | {_markdown_default(key)} | {docs.get(key.name, '')} |".replace(
            "``", "` `"
        )
        for key in keys_of(section).values()
    ]
    if not rows:
        return "It has no keys.\n"
    return "\n".join(["| key | type | default | |", "| --- | --- | --- | --- |", *rows, ""])


def _markdown_default(key: Key) -> str:
    if key.required:
        return "must be given"
    return "" if _is_section(key) and key.default is not None else f"`{_literal(key.default)}`"


def one_line(error: DicmError) -> str:
    """Returns an error in one line, for lists of what does not load."""
    return " ".join(str(error).split())


if __name__ == "__main__":
    print(reference(), end="")
