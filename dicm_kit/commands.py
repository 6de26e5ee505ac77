"""The commands: the arguments of each, and one small function that does it.

Only the standard library is imported at the top: `dicm --help` must not wait for torch.
"""

import argparse
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicm_kit.errors import PluginError, RecipeError
from dicm_kit.help_pages import PAGES


@dataclass(frozen=True)
class Command:
    """A command: what it does, its help page, its arguments, the function that does it."""

    summary: str
    page: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


# --- commands that work on a recipe ---


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", default=[])


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true")
    group.add_argument("--overwrite", action="store_true")


def _run(options: argparse.Namespace) -> None:
    from dicm_kit import run
    from dicm_kit.recipe.load import find_recipe, load

    loaded = load(find_recipe(options.recipe), options.overrides)
    run.run(loaded, resume=options.resume, overwrite=options.overwrite)


def _prepare(options: argparse.Namespace) -> None:
    from dicm_kit import run
    from dicm_kit.recipe.load import find_recipe, load

    run.prepare(load(find_recipe(options.recipe), options.overrides))


def _extract(options: argparse.Namespace) -> None:
    from dicm_kit import run
    from dicm_kit.recipe.load import find_recipe, load

    run.extract(load(find_recipe(options.recipe), options.overrides))


def _test_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", nargs="+")
    parser.add_argument("--against", nargs="+", action="extend", default=[])


def _test(options: argparse.Namespace) -> None:
    from dicm_kit import run

    given = [Path(each) for each in options.run_dir]
    if options.against:
        run.against(given, [Path(each) for each in options.against])
        return
    for each in given:
        run.test(each)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir")
    parser.add_argument("--against")


def _report(options: argparse.Namespace) -> None:
    from dicm_kit import run

    file = run.report(Path(options.run_dir), Path(options.against) if options.against else None)
    print(f"Report: {file}")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--markdown")
    parser.add_argument("--out")


def _compare(options: argparse.Namespace) -> None:
    recipes = [each for each in options.arguments if "=" not in each]
    overrides = [each for each in options.arguments if "=" in each]
    if not recipes:
        raise RecipeError("no recipe is given", where="command line", todo="See `dicm compare --help`.")
    if options.seeds < 1:
        raise RecipeError(f"--seeds must be at least 1, got {options.seeds}", where="command line")
    from dicm_kit import run
    from dicm_kit.recipe.load import find_recipe

    markdown = Path(options.markdown) if options.markdown else None
    out = Path(options.out) if options.out else None
    run.compare([find_recipe(each) for each in recipes], overrides, options.seeds, markdown, out)


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument("--steps", type=int, default=100)


def _bench(options: argparse.Namespace) -> None:
    if options.steps < 8:
        raise RecipeError(f"--steps must be at least 8, got {options.steps}", where="command line")
    from dicm_kit import run
    from dicm_kit.recipe.load import find_recipe, load

    run.bench(load(find_recipe(options.recipe), options.overrides), options.steps)


def _cp_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe")
    parser.add_argument("file")
    parser.add_argument("--force", action="store_true")


def _cp(options: argparse.Namespace) -> None:
    from dicm_kit.recipe.copy import copy_recipe
    from dicm_kit.recipe.load import find_recipe

    copied = copy_recipe(find_recipe(options.recipe), Path(options.file), force=options.force)
    print(f"Wrote {copied}.\n\nNext: dicm check {copied}")


# --- check ---


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what")
    parser.add_argument("overrides", nargs="*", default=[])
    parser.add_argument("--timeout", type=float, default=60.0)


def _check(options: argparse.Namespace) -> int | None:
    what = options.what
    if what.endswith((".yaml", ".yml")) or Path("recipes", f"{what}.yaml").is_file():
        _check_recipe(what, options.overrides)
        return None
    if Path(what).is_dir() and not _means_plugin(what):
        if options.overrides:
            raise RecipeError("a dataset folder takes no overrides", where="command line")
        return _check_dataset(Path(what))
    return _check_plugin(what, options.overrides, options.timeout)


def _means_plugin(what: str) -> bool:
    """Says whether a word that is a folder's name, too, is a plugin's: one is called so, and it is no dataset."""
    from dicm_kit.data.dataset import DATASET_FILE
    from dicm_kit.plugin_modules import file_called, installed_as

    if what == "dicm_kit":
        return True
    return not Path(what, DATASET_FILE).exists() and bool(installed_as(what) or file_called(what, Path()))


def _check_recipe(name: str, overrides: Sequence[str]) -> None:
    from dicm_kit.artifacts.run_folder import held_by
    from dicm_kit.memory_check import dataset_of, estimated
    from dicm_kit.recipe.build import rehearse
    from dicm_kit.recipe.comparison import is_comparison, load_comparison
    from dicm_kit.recipe.describe import plan
    from dicm_kit.recipe.load import find_recipe, load

    path = find_recipe(name)
    if is_comparison(path):
        comparison = load_comparison(path, overrides)
        for row in comparison.rows:
            rehearse(row.loaded)
        print(f"{path} is in order.\n\n{comparison}\n\nNext: dicm compare {shlex.join([str(path), *overrides])}")
        return
    loaded = load(path, overrides)
    rehearse(loaded)
    _, memory = estimated(loaded, dataset_of(loaded))
    print(f"{loaded.path} is in order.\n\n{plan(loaded)}\n\n{memory}\n")
    held, other = held_by(Path(loaded.recipe.run_dir)), []
    if held:
        print(f"{loaded.recipe.run_dir} holds {held}: give --overwrite, --resume, or run_dir=OTHER.\n")
        other = [*(each for each in overrides if not each.startswith("run_dir=")), "run_dir=OTHER"]
    print(f"Next: dicm run {shlex.join([str(loaded.path), *(other or overrides)])}")


def _check_dataset(folder: Path) -> int:
    from dicm_kit.data.audit import audit, text
    from dicm_kit.data.dataset import Dataset

    found = audit(Dataset.open(folder))
    print(text(found), end="")
    return 1 if found.problems else 0


def _check_plugin(name: str, overrides: Sequence[str], timeout: float) -> int:
    if not timeout > 0:
        raise RecipeError(f"--timeout must be above 0, got {timeout:g}", where="command line")
    from functools import partial

    from dicm_kit.testing.checking import check_plugin

    return 0 if check_plugin(name, overrides, timeout, partial(print, flush=True)) else 1


# --- new ---


def _new_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what")
    parser.add_argument("name")
    parser.add_argument("--kind", action="append", default=[])
    parser.add_argument("--name", dest="component")
    parser.add_argument("--out")


def _new(options: argparse.Namespace) -> None:
    if options.what != "plugin":
        todo = "Write `dicm new plugin NAME --kind KIND`."
        raise RecipeError(f"there is no new `{options.what}` to be had", where="command line", todo=todo)
    from dicm_kit.scaffold.new_plugin import new_plugin

    print(new_plugin(options.name, options.kind, options.component, Path(options.out) if options.out else None))


# --- ls, explain, plugins ---


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?")


def _ls(options: argparse.Namespace) -> None:
    from dicm_kit.recipe.describe import kind_named, listing
    from dicm_kit.registry import Registry, unlisted

    kind = kind_named(options.kind) if options.kind else None
    print(listing([Registry(), *unlisted([])], kind))
    print(f"\nNext: dicm explain {kind.name if kind else 'KIND'} NAME")


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what")
    parser.add_argument("name", nargs="?")


def _explain(options: argparse.Namespace) -> None:
    from dicm_kit.plugin_modules import installed_as, is_file
    from dicm_kit.recipe.describe import explained, explained_plugin, explained_section, kind_named
    from dicm_kit.registry import Registry, unlisted

    if options.name is None:
        is_plugin = is_file(options.what) or installed_as(options.what)
        print(explained_plugin(options.what) if is_plugin else explained_section(options.what))
        return
    kind = kind_named(options.what)
    for registry in (Registry(), *unlisted([])):
        for provided in registry.provided(kind.name):
            if provided.component.name == options.name:
                print(explained(provided))
                return
    Registry().find(kind.name, options.name)  # raises, with the nearest names


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def _plugins(options: argparse.Namespace) -> None:
    from dicm_kit.plugin_modules import installed
    from dicm_kit.recipe.describe import listing, one_line
    from dicm_kit.registry import BUILTIN, Registry

    print(f"{BUILTIN} is always there; `dicm ls` lists its components.")
    for name, dist in sorted(installed().items()):
        registry = Registry()
        try:
            registry.add(name)
        except PluginError as error:
            print(f"\n{dist.name} {dist.version} does not load: {one_line(error)}")
            continue
        plugin = registry.plugins[-1]
        print(f"\n{plugin}\n{_indented(listing([registry], None, plugin))}")
    if not installed():
        print("No plugin is installed. Known plugins: docs/plugins/directory.md.")
    print(_foreign_lightning() or "", end="")
    print("\nNext: list what a recipe needs under its `plugins:`, by name")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def _foreign_lightning() -> str | None:
    """Returns a warning when the `lightning` on the path is another package's: the last one installed owns the file."""
    from shutil import which

    found = which("lightning")
    if found is None:
        return "\nwarning: there is no `lightning` command on the path. `dicm run` does the same.\n"
    if b"dicm_kit" in Path(found).read_bytes():
        return None
    return f"\nwarning: `lightning` on the path is another package's ({found}). `dicm run` always works.\n"


COMMANDS = {
    "run": Command(*PAGES["run"], _run_arguments, _run),
    "check": Command(*PAGES["check"], _check_arguments, _check),
    "ls": Command(*PAGES["ls"], _ls_arguments, _ls),
    "explain": Command(*PAGES["explain"], _explain_arguments, _explain),
    "cp": Command(*PAGES["cp"], _cp_arguments, _cp),
    "plugins": Command(*PAGES["plugins"], _no_arguments, _plugins),
    "new": Command(*PAGES["new"], _new_arguments, _new),
    "prepare": Command(*PAGES["prepare"], _recipe_arguments, _prepare),
    "extract": Command(*PAGES["extract"], _recipe_arguments, _extract),
    "test": Command(*PAGES["test"], _test_arguments, _test),
    "report": Command(*PAGES["report"], _report_arguments, _report),
    "compare": Command(*PAGES["compare"], _compare_arguments, _compare),
    "bench": Command(*PAGES["bench"], _bench_arguments, _bench),
}
