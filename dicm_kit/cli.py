"""The command line: `dicm COMMAND ...` and `lightning run RECIPE ...`. One small function per command.

Only the standard library is imported at the top: `dicm --help` must not wait for torch.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dicm_kit import __version__
from dicm_kit.errors import DicmError, PluginError, RecipeError, did_you_mean


@dataclass(frozen=True)
class Command:
    """A command: what it does, its help page, its arguments, the function that does it."""

    summary: str
    page: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


class _Parser(argparse.ArgumentParser):
    """Prints our own page as help, the same in every version of Python, and raises instead of ending the process."""

    page = ""

    def format_help(self) -> str:
        return self.page

    def error(self, message: str) -> NoReturn:
        raise RecipeError(message, where="command line", todo=f"See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 1 for a failed run, 2 for a wrong recipe or command line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"dicm_kit {__version__}")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:]) or 0
    except DicmError as error:
        if "--traceback" in arguments:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def lightning_main() -> int:
    """The `lightning` command: `lightning run RECIPE ...` is `dicm run`, all else is lightning_sdk's."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"] and _is_ours(arguments[1:]):
        return main(arguments)
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        # Asked of this distribution by name: litserve installs a command of the same name that installs packages.
        points = distribution("lightning-sdk").entry_points.select(group="console_scripts", name="lightning")
    except PackageNotFoundError:
        points = None
    for point in points or ():
        return point.load()() or 0
    print(
        "lightning: here this command runs recipes: `lightning run RECIPE [KEY=VALUE ...]`\n\n"
        "  Its other uses belong to lightning-sdk, which is not installed. See `dicm --help`.",
        file=sys.stderr,
    )
    return 2


def _is_ours(arguments: Sequence[str]) -> bool:
    """Returns whether `lightning run ...` means a recipe; lightning_sdk has a `run` too (`lightning run job`)."""
    first = next((each for each in arguments if not each.startswith("-")), None)
    return first is None or first.endswith((".yaml", ".yml")) or Path("recipes", f"{first}.yaml").is_file()


def _dispatch(name: str, arguments: Sequence[str]) -> int | None:
    command = COMMANDS.get(name)
    if command is None:
        near = did_you_mean(name, COMMANDS)
        raise RecipeError(
            f"there is no command `{name}`",
            where="command line",
            todo=f"{f'{near} ' if near else ''}Commands: {', '.join(COMMANDS)}.",
        )
    parser = _parser(name)
    return command.run(parser.parse_intermixed_args(arguments))


def _parser(name: str) -> _Parser:
    parser = _Parser(prog=f"dicm {name}", add_help=True, allow_abbrev=False)
    parser.page = f"{COMMANDS[name].page.strip()}\n"
    parser.add_argument("--traceback", action="store_true")
    COMMANDS[name].arguments(parser)
    return parser


def overview() -> str:
    """Returns the page of `dicm --help`."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return f"""dicm {__version__}: click-through-rate models that look at pictures

Usage: dicm COMMAND [ARGUMENTS]

{commands}

Every command takes --help, and --traceback to see where an error comes from.
Exit codes: 0 done, 1 the run failed, 2 the recipe or the command line is wrong.

Examples:
  lightning run recipes/quickstart.yaml          the same as dicm run
  dicm run recipes/quickstart.yaml trainer.max_epochs=2
  dicm explain interest_aggregator multi_query_attention

Next: dicm check recipes/quickstart.yaml
"""


def reference() -> str:
    """Returns docs/reference/command_line.md: the help pages, one after the other."""
    pages = [("dicm", overview().replace(__version__, "VERSION"))]
    pages += [(f"dicm {name}", command.page.strip("\n") + "\n") for name, command in COMMANDS.items()]
    blocks = "\n".join(f"## `{name}`\n\n```text\n{page}```\n" for name, page in pages)
    return f"{_REFERENCE_HEAD}\n{blocks}"


_REFERENCE_HEAD = """# The command line

The pages that `dicm COMMAND --help` prints, made from the code; a test keeps this page current.

`lightning run RECIPE ...` is `dicm run RECIPE ...`. Every other call of `lightning` is handed to lightning-sdk where
that is installed. Several packages bring a command of that name, and the last one installed owns it: `dicm plugins`
says when it is not ours, and `dicm run` always works.
"""


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


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--markdown")


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
    run.compare([find_recipe(each) for each in recipes], overrides, options.seeds, markdown)


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


def _check(options: argparse.Namespace) -> int | None:
    what = options.what
    if what.endswith((".yaml", ".yml")) or Path("recipes", f"{what}.yaml").is_file():
        _check_recipe(what, options.overrides)
    elif options.overrides:
        raise RecipeError("only a recipe takes overrides", where="command line")
    elif Path(what).is_dir():
        return _check_dataset(Path(what))
    else:
        _check_plugin(what)
    return None


def _check_recipe(name: str, overrides: Sequence[str]) -> None:
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
    print(f"{loaded.path} is in order.\n\n{plan(loaded)}\n")
    print(f"Next: dicm run {shlex.join([str(loaded.path), *overrides])}")


def _check_dataset(folder: Path) -> int:
    from dicm_kit.data.audit import audit, text
    from dicm_kit.data.dataset import Dataset

    found = audit(Dataset.open(folder))
    print(text(found), end="")
    return 1 if found.problems else 0


def _check_plugin(name: str) -> None:
    from dicm_kit.recipe.describe import listing
    from dicm_kit.registry import Registry

    registry = Registry(Path())
    registry.add(name)
    plugin = registry.plugins[-1]
    print(f"plugin {plugin} is in order.\n\n{listing([registry], None, plugin)}\n")
    print(f"Next: list it in a recipe:  plugins: [{name}]")


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
    from dicm_kit.recipe.describe import explained, explained_section, kind_named
    from dicm_kit.registry import Registry, unlisted

    if options.name is None:
        print(explained_section(options.what))
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
    from dicm_kit.recipe.describe import listing, one_line
    from dicm_kit.registry import BUILTIN, Registry, installed

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
    "run": Command(
        "prepare and extract what is missing, train, test",
        """
Usage: dicm run RECIPE [KEY=VALUE ...] [--resume | --overwrite]

Prepares the dataset and extracts picture vectors where they are missing, trains, tests, and writes everything into
the recipe's run_dir. `lightning run RECIPE ...` is the same.

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --resume     go on from the last checkpoint in run_dir
  --overwrite  delete run_dir and start again
  --traceback  show where an error comes from

Examples:
  dicm run recipes/quickstart.yaml
  dicm run recipes/quickstart.yaml trainer.max_steps=100 interest.images.name=sum
  dicm run recipes/quickstart.yaml --resume

Next: dicm test RUN_DIR
""",
        _run_arguments,
        _run,
    ),
    "check": Command(
        "say what a recipe will do, or what is wrong with it; also for plugins and dataset folders",
        """
Usage: dicm check RECIPE|COMPARISON [KEY=VALUE ...]
       dicm check PLUGIN
       dicm check DATASET

Of a recipe: reports every problem at once, or says in a few lines what running it will do. Nothing is written.
Of a comparison file: the same, for each of its rows.
Of a plugin, a file or the name of an installed one: loads it and lists its components.
Of a dataset folder, whoever wrote it: audits it. Says what it holds, looks for errors of format and for leakage, and
warns of what matters (docs/reference/audit.md). The exit code is 1 when something must be mended.

  KEY=VALUE    overrides any key of the recipe
  --traceback  show where an error comes from

Examples:
  dicm check recipes/quickstart.yaml trainer.devices=2
  dicm check ./my_aggregator.py
  dicm check data/quickstart

Next: dicm run RECIPE
""",
        _check_arguments,
        _check,
    ),
    "ls": Command(
        "list components",
        """
Usage: dicm ls [KIND]

Lists the components that a recipe can choose by `name:`, those of installed plugins too.

  KIND         feature_encoder, image_backbone, interest_aggregator, base_net or data_source
  --traceback  show where an error comes from

Examples:
  dicm ls
  dicm ls interest_aggregator

Next: dicm explain KIND NAME
""",
        _ls_arguments,
        _ls,
    ),
    "explain": Command(
        "explain a component or a section of the recipe, key by key",
        """
Usage: dicm explain KIND NAME
       dicm explain SECTION

Explains a component, or a section of the recipe: each key with its type, its default and what it does.

  KIND         feature_encoder, image_backbone, interest_aggregator, base_net or data_source
  NAME         the component's name; `dicm ls KIND` lists them
  SECTION      recipe (the whole), or a section such as trainer or optimizer.ids
  --traceback  show where an error comes from

Examples:
  dicm explain interest_aggregator multi_query_attention
  dicm explain trainer

Next: dicm cp RECIPE FILE
""",
        _explain_arguments,
        _explain,
    ),
    "cp": Command(
        "copy a recipe to change it",
        """
Usage: dicm cp RECIPE FILE [--force]

Copies a recipe, comments and all. Plugin files it lists are still found: their paths are rewritten.

  RECIPE       a YAML file, or its name below recipes/
  FILE         the copy, or a folder for it
  --force      write over an existing file
  --traceback  show where an error comes from

Examples:
  dicm cp recipes/quickstart.yaml my_recipe.yaml

Next: dicm check FILE
""",
        _cp_arguments,
        _cp,
    ),
    "plugins": Command(
        "list installed plugins",
        """
Usage: dicm plugins

Lists the installed plugins with what they provide, and what is wrong with those that do not load.

  --traceback  show where an error comes from

Examples:
  dicm plugins
  DICM_TRACE_PLUGINS=1 dicm check RECIPE    says what is loaded from where

Next: dicm ls
""",
        _no_arguments,
        _plugins,
    ),
    "prepare": Command(
        "make the dataset folder of a recipe",
        """
Usage: dicm prepare RECIPE [KEY=VALUE ...]

Makes the dataset folder (data.out) that the recipe trains on. It goes on where it was interrupted, adds days that are
new, and does nothing when all is there already. `dicm run` does this by itself. It ends with an audit, which is kept in
audit.txt in the folder: what is in it, leakage, warnings (docs/reference/audit.md).

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --traceback  show where an error comes from

Examples:
  dicm prepare recipes/quickstart.yaml
  dicm prepare recipes/quickstart.yaml data.out=/scratch/shop

Next: dicm extract RECIPE
""",
        _recipe_arguments,
        _prepare,
    ),
    "extract": Command(
        "compute the picture vectors of a recipe's frozen backbone",
        """
Usage: dicm extract RECIPE [KEY=VALUE ...]

Runs the recipe's frozen backbone over every picture that an item of the dataset has, once, and keeps the vectors
there. When pictures are added, only those are computed; it says how many, and how many vectors it took over. It goes on
where it was interrupted. `dicm run` does this by itself.

  RECIPE       a YAML file, or its name below recipes/
  KEY=VALUE    overrides any key of the recipe
  --traceback  show where an error comes from

Examples:
  dicm extract recipes/quickstart.yaml

Next: dicm run RECIPE
""",
        _recipe_arguments,
        _extract,
    ),
    "test": Command(
        "test a trained run again, or compare it with others",
        """
Usage: dicm test RUN_DIR [RUN_DIR ...] [--against RUN_DIR [RUN_DIR ...]]

Tests the best checkpoint of each run on the test split, prints the table and writes test.json and
test_predictions.parquet into the run folder.

With --against, prints the difference of every metric to another run, with 95 % intervals over users, and writes it to
against-OTHER.json in the first run folder. Nothing is trained or tested: the predictions of both are all it needs.

  RUN_DIR      the run folder of a training
  --against    the runs to compare with; on both sides a folder may also hold seed-* runs, as `dicm compare` makes
               them: seeds are then compared in pairs
  --traceback  show where an error comes from

Examples:
  dicm test runs/quickstart
  dicm test runs/dicm --against runs/baseline
  dicm test runs/dicm/seed-7 runs/dicm/seed-8 --against runs/baseline/seed-7 runs/baseline/seed-8

Next: dicm compare RECIPE RECIPE
""",
        _test_arguments,
        _test,
    ),
    "compare": Command(
        "run several recipes and put their results into one table",
        """
Usage: dicm compare RECIPE [RECIPE ...] [--seeds N] [--markdown FILE] [KEY=VALUE ...]
       dicm compare COMPARISON          [--seeds N] [--markdown FILE] [KEY=VALUE ...]

Runs the recipes, or the rows of a comparison file, one after the other, each with N seeds, and prints one table of
their test results, with the differences to the first. Runs that are done already are not done again; one that was
cut off goes on.

  RECIPE           a YAML file, or its name below recipes/
  COMPARISON       a YAML file with rows of overrides (docs/reference/comparison.md), or its name below recipes/
  KEY=VALUE        overrides any key, in every row
  --seeds N        runs of each row, with seeds seed, seed + 1, ...; default 1
  --markdown FILE  writes the table as Markdown, too
  --traceback      show where an error comes from

Examples:
  dicm compare recipes/quickstart.yaml recipes/quickstart_ids.yaml
  dicm compare recipes/quickstart.yaml recipes/quickstart_ids.yaml --seeds 3 trainer.max_epochs=2
  dicm compare recipes/quickstart/compare.yaml --seeds 3 --markdown table.md

Next: dicm test RUN_DIR --against RUN_DIR
""",
        _compare_arguments,
        _compare,
    ),
}
