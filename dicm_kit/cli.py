"""The command line: `dicm COMMAND ...` and `lightning run RECIPE ...`; what each command does is in `commands.py`.

Only the standard library is imported at the top: `dicm --help` must not wait for torch.
"""

import argparse
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dicm_kit import __version__
from dicm_kit.commands import COMMANDS
from dicm_kit.errors import DicmError, RecipeError, did_you_mean
from dicm_kit.help_pages import OVERVIEW, REFERENCE_HEAD


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
        code = _dispatch(arguments[0], arguments[1:]) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `dicm ... | head` has read enough
        if not _nobody_reads():
            raise
        return 141  # what a shell says of a program that such a pipe ends
    except DicmError as error:
        if "--traceback" in arguments:
            raise
        sys.stderr.write(f"{type(error).__name__}: {error}\n")  # in one piece: ranks share the terminal
        return error.exit_code
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _nobody_reads() -> bool:
    """Says whether standard output leads to a closed pipe; if so, what is still to be written goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


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
    return OVERVIEW.format(version=__version__, commands=commands)


def reference() -> str:
    """Returns docs/reference/command_line.md: the help pages, one after the other."""
    pages = [("dicm", overview().replace(__version__, "VERSION"))]
    pages += [(f"dicm {name}", command.page.strip("\n") + "\n") for name, command in COMMANDS.items()]
    blocks = "\n".join(f"## `{name}`\n\n```text\n{page}```\n" for name, page in pages)
    return f"{REFERENCE_HEAD}\n{blocks}"
