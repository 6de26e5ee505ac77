"""The command line: exit codes, help pages, what each command hands on, and that it starts quickly."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dicm_kit
from dicm_kit import __version__, cli
from dicm_kit.errors import TrainingError

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = "plugins/example_aggregator/recipe.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("dicm_kit.plugin_modules.entry_points", lambda group: [])  # whatever is installed here


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Puts a recorder in the place of run.py and returns what it was called with."""
    made: list[tuple[Any, ...]] = []
    fake = ModuleType("dicm_kit.run")
    for name in ("run", "prepare", "extract", "test", "against", "report", "compare", "bench"):
        setattr(fake, name, lambda *values, _name=name, **named: made.append((_name, *values, named)))
    monkeypatch.setitem(sys.modules, "dicm_kit.run", fake)
    monkeypatch.setattr(dicm_kit, "run", fake, raising=False)
    return made


def test_help_imports_nothing_heavy() -> None:
    """A time would depend on the machine; what it imports does not."""
    code = (
        "import sys\nfrom dicm_kit.cli import main\n"
        "for name in ('--help', '--version'):\n    main([name])\n"
        "from dicm_kit.cli import COMMANDS, _parser\n"
        "for name in COMMANDS:\n    _parser(name).print_help()\n"
        "heavy = {'torch', 'lightning', 'omegaconf', 'pluggy', 'numpy', 'pyarrow', 'rich', 'yaml', 'timm', 'duckdb'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "dicm_kit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"dicm_kit {__version__}\n"


def test_help_pages(golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    golden("help/dicm.txt", capsys.readouterr().out.replace(__version__, "VERSION"))
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit) as ended:
            cli.main([name, "--help"])
        assert ended.value.code == 0
        golden(f"help/{name}.txt", capsys.readouterr().out)


def test_every_help_page_names_its_options_gives_examples_and_the_next_command() -> None:
    for name, command in cli.COMMANDS.items():
        for action in cli._parser(name)._actions:
            for option in action.option_strings:
                assert option in (*command.page.split(), "-h", "--help"), (name, option)
        assert f"Examples:\n  dicm {name}" in command.page
        assert "\nNext: dicm " in command.page
        assert max(map(len, command.page.splitlines())) <= 120


def test_the_command_line_page_is_current(request: pytest.FixtureRequest) -> None:
    page = REPOSITORY / "docs/reference/command_line.md"
    if request.config.getoption("--update-golden"):
        page.write_text(cli.reference(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == cli.reference(), "docs/reference/command_line.md: --update-golden"


def test_run_hands_on_the_recipe_and_how_to_start(calls: list[tuple[Any, ...]]) -> None:
    assert cli.main(["run", EXAMPLE, "--resume", "trainer.max_steps=3"]) == 0
    name, loaded, named = calls[0]
    assert (name, named) == ("run", {"resume": True, "overwrite": False})
    assert (str(loaded.path), loaded.recipe.trainer.max_steps) == (EXAMPLE, 3)


@pytest.mark.parametrize("command", ["prepare", "extract"])
def test_prepare_and_extract_hand_on_the_recipe(command: str, calls: list[tuple[Any, ...]]) -> None:
    assert cli.main([command, EXAMPLE, "batch_size=64"]) == 0
    assert calls[0][0] == command
    assert calls[0][1].recipe.batch_size == 64


def test_bench_hands_on_the_recipe_and_the_steps(
    calls: list[tuple[Any, ...]], golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", EXAMPLE, "--steps", "20", "batch_size=64"]) == 0
    name, loaded, steps, _ = calls[0]
    assert (name, loaded.recipe.batch_size, steps) == ("bench", 64, 20)
    assert cli.main(["bench", EXAMPLE, "--steps", "7"]) == 2
    golden("errors/command_line_bench_few_steps.txt", capsys.readouterr().err)
    assert len(calls) == 1


def test_test_and_compare(calls: list[tuple[Any, ...]]) -> None:
    assert cli.main(["test", "runs/x"]) == 0
    assert cli.main(["compare", EXAMPLE, "trainer.max_steps=3", "--seeds", "2", EXAMPLE, "batch_size=64"]) == 0
    assert cli.main(["compare", "quickstart/compare.yaml", "--markdown", "table.md", "--out", "table"]) == 0
    assert calls == [
        ("test", Path("runs/x"), {}),
        ("compare", [Path(EXAMPLE), Path(EXAMPLE)], ["trainer.max_steps=3", "batch_size=64"], 2, None, None, {}),
        ("compare", [Path("recipes/quickstart/compare.yaml")], [], 1, Path("table.md"), Path("table"), {}),
    ]


def test_runs_are_tested_or_compared_with_others(calls: list[tuple[Any, ...]]) -> None:
    assert cli.main(["test", "runs/x", "runs/y"]) == 0
    assert cli.main(["test", "runs/x", "runs/y", "--against", "runs/a", "--against", "runs/b"]) == 0
    assert cli.main(["test", "runs/x", "--against", "runs/a", "runs/b"]) == 0
    x, y, a, b = (Path(f"runs/{name}") for name in "xyab")
    assert calls == [("test", x, {}), ("test", y, {}), ("against", [x, y], [a, b], {}), ("against", [x], [a, b], {})]


def test_report_hands_on_the_runs(calls: list[tuple[Any, ...]]) -> None:
    assert cli.main(["report", "runs/x"]) == 0
    assert cli.main(["report", "runs/x", "--against", "runs/a"]) == 0
    assert calls == [("report", Path("runs/x"), None, {}), ("report", Path("runs/x"), Path("runs/a"), {})]


WRONG = {
    "unknown_command": ["rnu", "recipe.yaml"],
    "no_recipe": ["run"],
    "unknown_option": ["run", EXAMPLE, "--foo"],
    "resume_and_overwrite": ["run", EXAMPLE, "--resume", "--overwrite"],
    "wrong_recipe": ["run", EXAMPLE, "trainer.devices=two"],
    "no_such_recipe": ["run", "plugins/example_aggregator/recpe.yaml"],
    "compare_without_recipe": ["compare", "trainer.max_steps=3"],
    "run_a_comparison": ["run", "recipes/quickstart/compare.yaml"],
    "against_nothing": ["test", "runs/x", "--against"],
    "compare_seeds": ["compare", EXAMPLE, "--seeds", "0"],
    "check_no_plugin": ["check", "dicm-nowhere"],
    "check_override_of_a_plugin": ["check", "plugins/example_aggregator/dicm_example_aggregator.py", "half_lief=1"],
    "check_override_of_a_dataset": ["check", "tests", "a=1"],
    "check_timeout": ["check", "dicm_kit", "--timeout", "0"],
    "new_something_else": ["new", "recipe", "mine"],
    "new_no_kind": ["new", "plugin", "dicm-mine"],
    "new_two_kinds": ["new", "plugin", "dicm-mine", "--kind", "encoder", "--kind", "backbone"],
    "new_unknown_kind": ["new", "plugin", "dicm-mine", "--kind", "agregator"],
    "new_bad_name": ["new", "plugin", "my interest", "--kind", "aggregator"],
    "new_taken_module": ["new", "plugin", "json", "--kind", "aggregator"],
    "new_name_of_ours": ["new", "plugin", "dicm-multi-query-attention", "--kind", "aggregator"],
    "new_folder_is_there": ["new", "plugin", "dicm-mine", "--kind", "aggregator", "--out", "plugins"],
    "ls_unknown_kind": ["ls", "base_nte"],
    "explain_unknown": ["explain", "aggregator", "atention"],
    "explain_unknown_section": ["explain", "trainr"],
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_command_line_ends_with_2_and_no_traceback(
    case: str, calls: list[tuple[Any, ...]], golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(WRONG[case]) == 2
    assert calls == []
    text = capsys.readouterr().err
    assert "Traceback" not in text
    golden(f"errors/command_line_{case}.txt", text)


def test_a_failed_run_ends_with_1_and_shows_a_traceback_only_when_asked(
    calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(run_dir: Path) -> None:
        raise TrainingError("the loss is nan", where="step 3", todo="Lower the learning rate.")

    monkeypatch.setattr(sys.modules["dicm_kit.run"], "test", fail)
    assert cli.main(["test", "runs/x"]) == 1
    assert capsys.readouterr().err == "TrainingError: step 3: the loss is nan\n\n  Lower the learning rate.\n"
    with pytest.raises(TrainingError):
        cli.main(["test", "runs/x", "--traceback"])


def test_our_own_mistakes_keep_their_traceback(calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["dicm_kit.run"], "test", lambda run_dir: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["test", "runs/x"])


def test_no_arguments_show_the_overview_and_end_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out == cli.overview()


class _Sdk:
    """A lightning-sdk distribution whose command notes that it was called."""

    def __init__(self, called: list[str]):
        point = EntryPoint("lightning", "tests:main", "console_scripts")
        self.entry_points = self
        self._point, self._called = point, called

    def select(self, **wanted: str) -> list[Any]:
        assert wanted == {"group": "console_scripts", "name": "lightning"}
        return [self]

    def load(self) -> Callable[[], None]:
        return lambda: self._called.append("sdk")


@pytest.mark.parametrize(
    ("arguments", "ours"),
    [
        (["run", EXAMPLE], True),
        (["run", "--resume", EXAMPLE], True),
        (["run"], True),
        (["run", "job", "--name", "x"], False),
        (["login"], False),
        ([], False),
    ],
)
def test_lightning_run_is_ours_and_all_else_lightning_sdks(
    arguments: list[str], ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: {"lightning-sdk": _Sdk(called)}[name])
    monkeypatch.setattr(cli, "main", lambda argv: called.append("dicm") or 0)
    monkeypatch.setattr(sys, "argv", ["lightning", *arguments])
    assert cli.lightning_main() == 0
    assert called == ["dicm" if ours else "sdk"]


def test_lightning_without_lightning_sdk_says_what_it_is(
    monkeypatch: pytest.MonkeyPatch, golden: Callable[[str, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning", "login"])
    assert cli.lightning_main() == 2
    golden("errors/command_line_lightning_alone.txt", capsys.readouterr().err)


def test_every_recipe_that_a_help_page_names_is_there() -> None:
    root = Path(__file__).parents[2]
    text = cli.overview() + "".join(command.page for command in cli.COMMANDS.values())
    named = set(re.findall(r"recipes/[\w/]+\.yaml", text))
    assert len(named) >= 3
    assert [name for name in sorted(named) if not (root / name).is_file()] == []


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    """As `dicm ls | head -1`: no traceback, and the exit code that shells give to it."""
    code = "import sys, time; time.sleep(1); from dicm_kit.cli import main; sys.exit(main(['ls']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert errors == ""
