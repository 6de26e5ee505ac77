"""`dicm compare`: which runs are started, with which overrides, and what the table says of them."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from recipes.debug_runs import debug
from unit.artifacts.predicted import rows

from dicm_kit import compare as module
from dicm_kit import run as run_module
from dicm_kit.artifacts.predictions import in_order, write_predictions
from dicm_kit.artifacts.run_folder import write_plugins, write_result
from dicm_kit.errors import RecipeError, RunError
from dicm_kit.recipe.load import dump, load
from dicm_kit.run import compare
from dicm_kit.training.checkpoint_files import CHECKPOINTS
from dicm_kit.whole_file import write_whole

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Puts a process that only writes recipe, predictions and result in the place of a training; notes its command.

    The model gets better with the seed and with `batch_size`.
    """
    monkeypatch.setenv("COLUMNS", "200")
    commands: list[list[str]] = []

    def finish(command: list[str], check: bool) -> Any:
        arguments = command[command.index("run") + 1 :]
        overrides = [each for each in arguments[1:] if not each.startswith("--")]
        loaded = load(Path(arguments[0]), overrides)
        folder = Path(loaded.recipe.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "recipe.yaml", dump(loaded.recipe, base=loaded.path.parent))
        write_plugins(folder, loaded.registry.plugins)
        gauc = 0.6 + loaded.recipe.seed / 100
        skill = loaded.recipe.seed / 10 + loaded.recipe.batch_size / 100
        write_predictions(folder, in_order(rows(skill)), str(loaded.recipe.data.out))
        write_result(
            folder,
            {
                "test": {"gauc": gauc, "auc": gauc},
                "impressions_per_second": 10.0,
                "oracle": {"gauc": 0.9},
                "parameters": 1000,
                "training_seconds": 3.0 + loaded.recipe.seed,
            },
        )
        commands.append(arguments)
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(module.subprocess, "run", finish)
    monkeypatch.setattr(run_module, "_fingerprint", lambda loaded: str(loaded.recipe.data.out))
    return commands


def recipe(folder: Path) -> Path:
    write_whole(folder / "tiny.yaml", dump(debug(folder).recipe))
    return folder / "tiny.yaml"


def test_compare_runs_each_seed_in_a_folder_of_its_own(
    tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = compare([recipe(tmp_path)], ["seed=3"], seeds=2)
    assert [each["gauc"] for each in row.results] == pytest.approx([0.63, 0.64])
    assert [command[-1] for command in started] == [f"run_dir={tmp_path}/run/seed-{seed}" for seed in (3, 4)]
    text = capsys.readouterr().out
    assert "0.6350 ±.0071" in text
    assert "0.9000" in text


def test_compare_takes_finished_runs_as_they_are(tmp_path: Path, started: list[list[str]]) -> None:
    first = compare([recipe(tmp_path)], [], seeds=1)
    assert len(started) == 1
    assert compare([recipe(tmp_path)], [], seeds=1) == first
    assert len(started) == 1


def test_compare_goes_on_with_a_run_that_was_cut_off(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compare([recipe(tmp_path)], [], seeds=1)
    (tmp_path / "run/test.json").unlink()
    compare([recipe(tmp_path)], [], seeds=1)
    (tmp_path / "run/test.json").unlink()
    monkeypatch.setattr(module, "find_resumable", lambda folder: folder / "checkpoints/last.ckpt")
    compare([recipe(tmp_path)], [], seeds=1)
    assert [[each for each in command if each.startswith("--")] for command in started] == [
        [],
        ["--overwrite"],  # cut off before its first checkpoint
        ["--resume"],
    ]


def test_compare_refuses_the_run_of_another_recipe(tmp_path: Path, started: list[list[str]]) -> None:
    compare([recipe(tmp_path)], [], seeds=1)
    with pytest.raises(RunError, match="holds a run of another recipe") as caught:
        compare([recipe(tmp_path)], ["batch_size=64"], seeds=1)
    assert str(tmp_path / "run") in str(caught.value)
    assert len(started) == 1


def test_compare_refuses_the_run_of_a_plugin_that_was_edited(tmp_path: Path, started: list[list[str]]) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text((PLUGINS / "example_aggregator/dicm_example_aggregator.py").read_text())
    given = [recipe(tmp_path)], [f"plugins=[{plugin}]"], 1
    compare(*given)
    compare(*given)
    assert len(started) == 1
    with plugin.open("a") as file:
        file.write("# another formula\n")
    with pytest.raises(RunError, match=r"made with other code of /.*/mine.py than there is now") as caught:
        compare(*given)
    assert "Delete it, and it is trained again" in str(caught.value)
    (tmp_path / "run/plugins.json").unlink()  # a run that does not say what it was made with
    with pytest.raises(RunError, match="made with other code"):
        compare(*given)


def test_compare_refuses_to_go_on_with_the_unfinished_run_of_another_recipe(
    tmp_path: Path, started: list[list[str]]
) -> None:
    compare([recipe(tmp_path)], [], seeds=1)
    (tmp_path / "run/test.json").unlink()
    with pytest.raises(RunError, match="holds a run of another recipe"):
        compare([recipe(tmp_path)], ["batch_size=64"], seeds=1)
    assert len(started) == 1


def test_two_recipes_of_one_comparison_need_two_folders(tmp_path: Path, started: list[list[str]]) -> None:
    one = recipe(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(one.read_text().replace("batch_size: 128", "batch_size: 64"))
    with pytest.raises(RunError, match="`tiny` and `other` are two recipes with one `run_dir`"):
        compare([one, other], [], seeds=1)
    assert started == []


def test_compare_stops_at_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.subprocess, "run", lambda command, check: type("Ended", (), {"returncode": 3}))
    with pytest.raises(RunError, match="ended with exit code 3"):
        compare([recipe(tmp_path)], [], seeds=1)


# --- comparison files ---


def comparison(folder: Path, rows: str, *more: str) -> Path:
    recipe(folder)
    lines = ["compare: 1", "base: ./tiny.yaml", *more, "rows:", *(f"  {line}" for line in rows.splitlines())]
    (folder / "table.yaml").write_text("\n".join(lines) + "\n")
    return folder / "table.yaml"


ROWS = "small: []\nlarge: [batch_size=256]"


def test_rows_run_in_folders_of_their_names_and_seeds(tmp_path: Path, started: list[list[str]]) -> None:
    found = compare([comparison(tmp_path, ROWS)], ["trainer.max_steps=3"], seeds=2)
    assert [row.name for row in found] == ["small", "large"]
    assert [command[1:] for command in started] == [
        ["trainer.max_steps=3", "seed=7", f"run_dir={tmp_path}/run/small/seed-7"],
        ["trainer.max_steps=3", "seed=8", f"run_dir={tmp_path}/run/small/seed-8"],
        ["batch_size=256", "trainer.max_steps=3", "seed=7", f"run_dir={tmp_path}/run/large/seed-7"],
        ["batch_size=256", "trainer.max_steps=3", "seed=8", f"run_dir={tmp_path}/run/large/seed-8"],
    ]
    assert compare([tmp_path / "table.yaml"], ["trainer.max_steps=3"], seeds=2) == found
    assert len(started) == 4, "finished runs are taken as they are"
    compare([tmp_path / "table.yaml"], ["trainer.max_steps=3"], seeds=3)
    assert [command[-2] for command in started[4:]] == ["seed=9", "seed=9"]


def test_the_table_says_differences_to_the_first_row(
    tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = compare([comparison(tmp_path, ROWS)], [], seeds=1, markdown=tmp_path / "table.md")
    assert small.differences == {}
    gauc = large.differences["gauc"]
    assert gauc.interval is not None
    assert 0 < gauc.interval[0] < gauc.value < gauc.interval[1]
    out = capsys.readouterr().out
    assert "difference to small" in out
    assert f"{gauc.value:+.4f}".replace("0.", ".") in out
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| recipe |")
    assert f"{gauc.value:+.4f}".replace("0.", ".") in lines[3]


def test_differences_are_to_the_row_that_is_named(tmp_path: Path, started: list[list[str]]) -> None:
    small, large = compare([comparison(tmp_path, ROWS, "against: large")], [], seeds=1)
    assert large.differences == {}
    assert small.differences["gauc"].value < 0
    assert "large" in started[0][-1], "it runs first"


def test_a_row_may_have_a_recipe_and_a_folder_of_its_own(tmp_path: Path, started: list[list[str]]) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more/own.yaml").write_text(dump(debug(tmp_path, "batch_size=64").recipe))
    text = f"small: []\nown: {{recipe: ./more/own.yaml, overrides: [run_dir={tmp_path}/mine]}}\nthird:"
    compare([comparison(tmp_path, text)], [], seeds=1)
    assert [Path(command[0]).name for command in started] == ["tiny.yaml", "own.yaml", "tiny.yaml"]
    assert started[1][-1] == f"run_dir={tmp_path}/mine/seed-7"


def test_the_command_line_has_the_last_word(tmp_path: Path, started: list[list[str]]) -> None:
    compare([comparison(tmp_path, ROWS)], ["batch_size=64", f"run_dir={tmp_path}/elsewhere"], seeds=1)
    recipes = [load(tmp_path / "elsewhere" / name / "seed-7/recipe.yaml").recipe for name in ("small", "large")]
    assert [each.batch_size for each in recipes] == [64, 64]


BEFORE = """\
compare: 1
base: ./tiny.yaml
before:
  yesterday: [batch_size=64]
rows:
  none: []
  partial: {after: yesterday}
  full: {after: yesterday, overrides: [warm_start.parts=all]}
"""


def test_rows_start_from_the_run_before_them_with_the_same_seed(tmp_path: Path, started: list[list[str]]) -> None:
    recipe(tmp_path)
    write_whole(tmp_path / "table.yaml", BEFORE)
    rows = compare([tmp_path / "table.yaml"], [], seeds=2)
    assert [row.name for row in rows] == ["none", "partial", "full"]
    folders = [next(each for each in reversed(command) if each.startswith("run_dir=")) for command in started]
    names = ["none", "none", "yesterday", "partial", "yesterday", "partial", "full", "full"]
    seeds = [7, 8, 7, 7, 8, 8, 7, 8]
    wanted = [f"run_dir={tmp_path}/run/{name}/seed-{seed}" for name, seed in zip(names, seeds, strict=True)]
    assert folders == wanted
    for command, name, seed in zip(started, names, seeds, strict=True):
        own = [each for each in command if each.startswith("warm_start.run=")]
        assert own[-1:] == (
            [f"warm_start.run={tmp_path}/run/yesterday/seed-{seed}"] if name in ("partial", "full") else []
        )


def test_the_table_as_files(tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    rows = compare([comparison(tmp_path, ROWS)], [], seeds=2, out=tmp_path / "out")
    out = capsys.readouterr().out
    assert "a run costs" in out
    (small, large) = csv.DictReader((tmp_path / "out/table.csv").read_text().splitlines())
    assert (small["row"], small["gauc_difference"], large["against"]) == ("small", "", "small")
    found = rows[1].differences["gauc"]
    assert float(large["gauc_difference"]) == pytest.approx(found.value)
    assert float(large["gauc_difference_low"]) == pytest.approx(found.interval[0])
    assert float(large["gauc_difference_with_seeds_high"]) == pytest.approx(found.interval_with_seeds[1])
    assert float(large["gauc"]) == pytest.approx(0.675)  # seeds 7 and 8
    assert (large["parameters"], large["training_seconds"], large["pictures_embedded"]) == ("1000.0", "10.5", "")
    assert (tmp_path / "out/table.md").read_text().startswith("| recipe |")
    with Image.open(tmp_path / "out/table.png") as picture:
        picture.load()
        assert picture.width > 1000


def test_a_picture_without_matplotlib_is_an_error_that_names_the_extra(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RunError, match="needs matplotlib") as caught:
        compare([comparison(tmp_path, ROWS)], [], seeds=1, out=tmp_path / "out")
    assert "dicm_kit[report]" in caught.value.todo
    assert (tmp_path / "out/table.csv").is_file()


def test_runs_on_other_data_are_refused(tmp_path: Path, started: list[list[str]]) -> None:
    file = comparison(tmp_path, f"small: []\nother: [data.out={tmp_path}/data2]")
    with pytest.raises(RunError, match="was not tested on the impressions of") as caught:
        compare([file], [], seeds=1)
    assert f"data.out: {tmp_path}/data2, there {tmp_path}/data" in str(caught.value)


def test_nothing_runs_when_a_row_is_wrong(tmp_path: Path, started: list[list[str]]) -> None:
    with pytest.raises(RecipeError, match="2 of 3 rows cannot be run"):
        compare([comparison(tmp_path, "small: []\nlarge: [batch_sise=1]\nother: [net.name=lrr]")], [], seeds=1)
    with pytest.raises(RecipeError, match=r"target\.x"):
        compare([comparison(tmp_path, "small: []\nlarge: ['interest.images.queries=[target.x]']")], [], seeds=1)
    assert started == []


def test_a_comparison_file_is_given_alone(tmp_path: Path) -> None:
    file = comparison(tmp_path, ROWS)
    with pytest.raises(RecipeError, match="a comparison file is given alone"):
        compare([file, tmp_path / "tiny.yaml"], [], seeds=1)


def test_a_finished_run_on_data_that_have_grown_is_not_taken(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path)
    compare([path], [], seeds=2)
    compare([path], [], seeds=2)
    assert len(started) == 2, "finished runs are taken as they are"
    monkeypatch.setattr(run_module, "_fingerprint", lambda loaded: "grown")
    with pytest.raises(RunError, match=r"2 finished runs were tested on .*seed-7.*seed-8") as caught:
        compare([path], [], seeds=3)
    assert "run_dir=OTHER" in caught.value.todo
    assert len(started) == 2, "nothing is trained first"


def test_a_run_that_was_cut_off_on_data_that_have_grown_is_not_taken(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path)
    compare([path], [], seeds=2)
    for seed in (7, 8):
        folder = tmp_path / f"run/seed-{seed}"
        (folder / CHECKPOINTS).mkdir()
        data = {"CtrDataModule": {"dataset": str(tmp_path / "data")}}
        torch.save({"global_step": 3, "dicm": {}, **data}, folder / CHECKPOINTS / "last.ckpt")
    (tmp_path / "run/seed-8/test.json").unlink()
    compare([path], [], seeds=2)
    assert started[2:] == [[str(path), "seed=8", f"run_dir={tmp_path}/run/seed-8", "--resume"]], "it goes on"
    (tmp_path / "run/seed-8/test.json").unlink()
    monkeypatch.setattr(run_module, "_fingerprint", lambda loaded: "grown")
    both = r"1 finished runs were tested on .* and 1 runs that were cut off were trained on .* grown .*seed-7.*seed-8"
    with pytest.raises(RunError, match=both):
        compare([path], [], seeds=2)
    (tmp_path / "run/seed-7/test.json").unlink()
    with pytest.raises(RunError, match=r"compare: 2 runs that were cut off were trained on .* grown .*seed-7.*seed-8"):
        compare([path], [], seeds=3)
    assert len(started) == 3, "nothing is trained first"
