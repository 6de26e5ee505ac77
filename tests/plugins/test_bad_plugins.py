"""Plugins that strangers bring: whatever is wrong, the message names plugin, version and file, and says what to do."""

import re
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from dicm_kit import cli

GOOD = (Path(__file__).parents[2] / "plugins/example_aggregator/dicm_example_aggregator.py").read_text()
FORWARD = '        """Returns the mean; zeros for an empty history."""\n'
BUILD = "    return Recency("


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Puts a distribution with one plugin module on the path, as pip would; returns its file."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def within(group: str) -> list[EntryPoint]:
        return [each for each in entry_points(group=group) if str(each.dist.locate_file("")).startswith(str(tmp_path))]

    monkeypatch.setattr("dicm_kit.plugin_modules.entry_points", within)

    def write(name: str, text: str, version: str = "0.7") -> str:
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(text)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[dicm_kit]\nmain = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        return str(site / f"{module}.py")

    return write


@pytest.fixture(autouse=True)
def not_imported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that looks at the import takes seconds; test_zoo.py has it."""
    monkeypatch.setattr("dicm_kit.testing.quiet_import.begin", lambda component: None)
    monkeypatch.setattr(
        "dicm_kit.testing.quiet_import.watched", lambda name, file: {"found": [], "wall": 0.0, "cpu": 0.0}
    )


def said(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Returns what `dicm check` prints, which ends with this exit code and no traceback of ours."""
    assert cli.main(["check", *arguments]) == code
    output = capsys.readouterr()
    return output.out + output.err


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


LOADING = {
    "raises at import": ("raise RuntimeError('no licence')\n", "RuntimeError: no licence", "Repair its installation"),
    "another API version": (changed("dicm_api = 1", "dicm_api = 2"), "written for plugin API 2", "Upgrade dicm_kit"),
    "a name of ours": (
        changed('name="recency"', 'name="sum"'),
        "two plugins provide the aggregator `sum`",
        "Rename it",
    ),
    "a hook of the wrong type": (
        changed("return [Component", "return (Component").replace("build=build)]", "build=build),)"),
        "must return a list",
        "Write `return [Component",
    ),
    "hangs at import": ("while True:\n    pass\n", "has not been imported after 2 s", "Do nothing at import"),
}


@pytest.mark.parametrize("case", LOADING)
def test_what_does_not_load(case: str, install: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    text, what, todo = LOADING[case]
    file = install("dicm-stranger", text)
    told = said(capsys, 2, "dicm-stranger", "--timeout", "2")
    assert f"dicm-stranger 0.7 ({file})" in told
    assert what in told
    assert todo in told


def test_two_plugins_with_one_name_name_both_files(
    install: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [install("dicm-stranger", GOOD), install("dicm-other", GOOD, "1.2")]
    recipe = (Path(__file__).parents[2] / "plugins/example_aggregator/recipe.yaml").read_text()
    listed = "  - dicm-stranger\n  - dicm-other\n"
    (tmp_path / "recipe.yaml").write_text(
        "".join(line if "dicm_example_aggregator.py" not in line else listed for line in recipe.splitlines(True))
    )
    told = said(capsys, 2, str(tmp_path / "recipe.yaml"))
    assert f"dicm-stranger 0.7 ({files[0]}) and dicm-other 1.2 ({files[1]})" in told
    assert "list only one under `plugins:`" in told


COMPONENTS = {
    "builds the wrong type": (
        changed(BUILD, "    return 3  # ("),
        "`build` returned a int, no InterestAggregator",
        "subclass",
    ),
    "returns the wrong type": (
        changed("return Interest(vector_BD, ", "return (vector_BD, "),
        "it returned a tuple",
        "return `Interest(",
    ),
    "mutates its input": (
        changed(FORWARD, FORWARD + '        with torch.no_grad():\n            history["age"].clamp_(max=1.0)\n'),
        "it changed its input history.age in place",
        "work on a copy",
    ),
    "raises in forward": (changed(FORWARD, FORWARD + "        1 / 0\n"), "it raised ZeroDivisionError", "1 / 0"),
    "hangs in forward": (
        changed(FORWARD, FORWARD + "        while True:\n            pass\n"),
        "no end after 6 s",
        "--timeout SECONDS",
    ),
    "hangs in build": (
        changed(BUILD, "    while True:\n        pass\n" + BUILD),
        "no end after 6 s",
        "Mend what it waits for",
    ),
}


@pytest.mark.parametrize("case", COMPONENTS)
def test_what_fails_in_a_check(case: str, install: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    text, what, todo = COMPONENTS[case]
    file = install("dicm-stranger", text)
    told = said(capsys, 1, "dicm-stranger", *(("--timeout", "6") if "hangs" in case else ()))
    assert f"dicm-stranger 0.7 ({file})" in told
    assert what in told
    assert todo in told
    if "hangs" in case:
        assert f'File "{file}", line ' in told, told


@pytest.mark.parametrize("case", ["returns the wrong type", "raises in forward"])
def test_what_cannot_be_called_fails_one_check(
    case: str, install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    install("dicm-stranger", COMPONENTS[case][0])
    told = said(capsys, 1, "dicm-stranger")
    assert told.count("\nFAILED ") == 1
    assert "\n  check `runs`: " in told
    assert re.search(r" FAILED  1 failed, [5-9] passed, 2\d left out ", told)
    assert told.count("1 failed.\n") == 1


def test_failures_with_one_text_are_told_once(install: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    file = install("dicm-stranger", changed(FORWARD, FORWARD + "        assert not need_weights, 'none here'\n"))
    told = said(capsys, 1, "dicm-stranger")
    assert told.count("AssertionError: none here") == told.count("\nFAILED ") == told.count(f"{file}:") == 1
    checks = "`weights_only_when_asked`, `weights_are_zero_in_empty_slots`, `empty_history_is_finite`"
    assert f"\n  3 checks say so: {checks}\n  plugin dicm-stranger 0.7 ({file})\n" in told
    assert " FAILED  3 failed, " in told
    assert ": 3 failed.\n" in told


def test_keys_that_must_be_given_are_named_in_a_command(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    must = changed("    half_life: float = 3.0\n", "    half_life: float\n").replace(
        '    """Days in which', '    """Half."""\n    top: int\n    """Days in which', 1
    )
    install("dicm-stranger", must)
    told = said(capsys, 1, "dicm-stranger")
    assert "`half_life` is missing" in told
    assert "\n\n  Say what must be given: dicm check dicm-stranger half_life=... top=...\n" in told
    told = said(capsys, 1, "dicm-stranger", "half_life=2")
    assert "\n\n  Say what must be given: dicm check dicm-stranger half_life=2 top=...\n" in told
    assert "Say what must be given" not in said(capsys, 1, "dicm-stranger", "half_life=x", "top=1")


def test_a_rank_that_hangs_is_shown_with_its_stack(
    install: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    wait = "    import time, torch.distributed\n"
    wait += "    while torch.distributed.is_initialized():\n        time.sleep(1)\n"
    file = install("dicm-hanger", changed(BUILD, wait + BUILD))
    told = said(capsys, 1, "dicm-hanger", "--timeout", "20")
    assert "two ranks could not do it" in told
    assert f'File "{file}", line ' in told
