"""The command line: exit codes, help pages, what each command hands on, and that it starts quickly."""

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import dicm_kit
from dicm_kit import __version__, cli
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic
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


def test_check_of_a_comparison_lists_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "recipes/quickstart/compare.yaml", "trainer.max_epochs=1"]) == 0
    text = capsys.readouterr().out
    assert "5 rows, differences to baseline:" in text
    assert "shuffled     recipes/quickstart/dicm.yaml images.shuffle=1 trainer.max_epochs=1" in text
    assert "Next: dicm compare recipes/quickstart/compare.yaml trainer.max_epochs=1" in text


@pytest.mark.parametrize(
    ("overrides", "pictures", "interest"),
    [
        ((), "target and history; ", "images: multi_query_attention of image, target.item_id"),
        (("images.shuffle=1",), "; a control: shuffled by seed 1", "images: multi_query_attention"),
        (("images.history=false", "interest.images=null"), "target; ", "ids: attention\n"),
        (("images.target=false", "interest.images.queries=[target.item_id]"), "history; ", "of target.item_id"),
        (("images=null", "interest.images=null"), "none: the id-only baseline", "ids: attention\n"),
    ],
)
def test_controls_are_one_line(
    overrides: tuple[str, ...], pictures: str, interest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(REPOSITORY / "recipes/quickstart/dicm.yaml"), *overrides]) == 0
    text = capsys.readouterr().out
    assert pictures in text
    assert interest in text


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


def test_check_says_what_a_recipe_will_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", EXAMPLE, "run_dir=runs/a b"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{EXAMPLE} is in order.\n\n  plugins   ./dicm_example_aggregator.py\n  data      synthetic")
    assert text.endswith(f"Next: dicm run {EXAMPLE} 'run_dir=runs/a b'\n")


@pytest.mark.parametrize(
    ("files", "held"),
    [
        (["recipe.yaml", "checkpoints", "test.json"], "a finished run"),
        (["recipe.yaml", "checkpoints"], "a run that was not finished"),
        (["recipe.yaml"], None),
        ([], None),
    ],
)
def test_check_says_that_run_would_refuse_the_run_folder(
    files: list[str], held: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert cli.main(["check", EXAMPLE, f"run_dir={tmp_path}", "seed=3"]) == 0
    text = capsys.readouterr().out
    if held is None:
        assert " holds " not in text
        assert text.endswith(f"Next: dicm run {EXAMPLE} run_dir={tmp_path} seed=3\n")
    else:
        assert f"\n{tmp_path} holds {held}: give --overwrite, --resume, or run_dir=OTHER.\n" in text
        assert text.endswith(f"Next: dicm run {EXAMPLE} seed=3 run_dir=OTHER\n")


def test_check_of_a_plugin_runs_its_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "plugins/example_aggregator/dicm_example_aggregator.py", "half_life=2"]) == 0
    text = capsys.readouterr().out
    assert "interest_aggregator\n  recency  Averages the history; newer clicks weigh more.\n" in text
    assert "base_net" not in text
    assert re.search(r"\n  aggregator recency +ok +\d\d passed, \d do not apply +[\d.]+ s\n", text)
    assert re.search(r"\n\d\d checks in [\d.]+ s: all in order.\n", text)


def test_check_says_what_is_in_a_dataset_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = SyntheticConfig(users=20, items=40, impressions=400, days=4, picture_size=8)
    prepare(build_synthetic(shop), PrepareOptions(lanes=2, partitions=2), tmp_path / "shop", progress=False)
    assert cli.main(["check", str(tmp_path / "shop")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'shop'}: dataset folder, format 2, ")
    assert [line for line in lines if line.startswith("40 items: ")]
    assert [line for line in lines if line.startswith("warning: test has ")]
    (tmp_path / "shop" / "items.parquet").write_bytes(b"")
    assert cli.main(["check", str(tmp_path / "shop")]) == 1
    assert "PROBLEM: items.parquet: cannot be read" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert cli.main(["check", str(tmp_path / "empty")]) == 1
    assert capsys.readouterr().err.startswith(f"DataError: {tmp_path / 'empty'}")


def test_ls_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls"]) == 0
    text = capsys.readouterr().out
    assert all(f"{kind}\n" in text for kind in ("feature_encoder", "image_backbone", "base_net", "data_source"))
    assert cli.main(["ls", "aggregators"]) == 0
    assert capsys.readouterr().out.startswith("interest_aggregator\n  attention")
    assert cli.main(["explain", "aggregator", "sum"]) == 0
    assert capsys.readouterr().out.startswith("aggregator `sum`\n")
    assert cli.main(["explain", "trainer"]) == 0
    assert "precision: one of '32-true', '16-mixed', 'bf16-mixed', default 32-true" in capsys.readouterr().out


def test_explain_of_a_plugin_shows_each_of_its_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = Path("plugins/example_aggregator/dicm_example_aggregator.py").read_text()
    own = plugin[plugin.index("[Component(") + 1 : plugin.rindex("]")]
    two = plugin.replace(own, f"{own}, {own.replace('recency', 'recency_too')}")
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(two)
    assert cli.main(["explain", "./two.py"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("aggregator `recency`\n\n  Averages the history; newer clicks weigh more.\n\n  half_life: ")
    assert "\n\n\naggregator `recency_too`\n" in text
    assert text.count("From ./two.py.") == 2
    assert "multi_query_attention" not in text
    Path("broken.py").write_text("import nothing_of_the_kind\n")
    assert cli.main(["explain", "./broken.py"]) == 2
    assert "./broken.py failed while it was imported: ModuleNotFoundError" in capsys.readouterr().err
    assert cli.main(["explain", "./tow.py"]) == 2
    assert "plugin file `./tow.py` does not exist\n\n  Did you mean `./two.py`?" in capsys.readouterr().err


def test_explain_of_an_installed_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install_example(tmp_path, monkeypatch)
    assert cli.main(["explain", "dicm-explained"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("aggregator `recency`\n")
    assert "From dicm-explained 1.0." in text


def _install_example(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the example plugin where Python finds it as the distribution dicm-explained."""
    module = Path("plugins/example_aggregator/dicm_example_aggregator.py").read_text()
    (site / "dicm_explained.py").write_text(module)
    info = site / "dicm_explained-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dicm-explained\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dicm_kit]\nmain = dicm_explained\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr("dicm_kit.plugin_modules.entry_points", entry_points)  # this file's other tests see none
    monkeypatch.delitem(sys.modules, "dicm_explained", raising=False)


def test_check_of_a_plugin_that_lies_here_and_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dicm-cosine-fade").mkdir()
    Path("dicm-cosine-fade/dicm_cosine_fade.py").touch()
    assert cli.main(["check", "dicm-cosine-fade"]) == 2  # a folder, but no dataset
    assert capsys.readouterr().err == (
        "PluginError: plugin `dicm-cosine-fade` is not installed\n\n  Its file is here: name that, "
        "`./dicm-cosine-fade/dicm_cosine_fade.py`; or install it: `pip install -e dicm-cosine-fade`.\n"
    )
    monkeypatch.chdir("dicm-cosine-fade")
    assert cli.main(["check", "dicm-cosine-fade"]) == 2
    assert "name that, `./dicm_cosine_fade.py`; or install it: `pip install -e .`." in capsys.readouterr().err


def test_cp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "mine.yaml"
    assert cli.main(["cp", EXAMPLE, str(target)]) == 0
    assert cli.main(["check", str(target)]) == 0
    assert cli.main(["cp", EXAMPLE, str(target)]) == 2
    assert "there is a file already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "warns"),
    [
        ("#!python\nfrom dicm_kit.cli import lightning_main\n", False),
        ("#!python\nfrom litserve.cli import main\n", True),
        (None, True),
    ],
)
def test_plugins_warns_of_a_foreign_lightning_command(
    script: str | None,
    warns: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "lightning").write_text(script)
        (tmp_path / "lightning").chmod(0o755)
    assert cli.main(["plugins"]) == 0
    assert ("warning: " in capsys.readouterr().out) == warns


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
