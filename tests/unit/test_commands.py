"""The commands that look and tell, and start no run: check, ls, explain, cp, plugins."""

import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from dicm_kit import cli
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = "plugins/example_aggregator/recipe.yaml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("dicm_kit.plugin_modules.entry_points", lambda group: [])  # whatever is installed here


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
