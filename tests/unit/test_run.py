"""What run.py adds to its parts: compare, the machine's threads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.debug_runs import debug

from dicm_kit import run
from dicm_kit.artifacts.run_folder import write_result
from dicm_kit.errors import RecipeError, RunError
from dicm_kit.recipe.load import dump, load
from dicm_kit.whole_file import write_whole

# --- compare ---


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Puts a process that only writes the folder's recipe and result in the place of a training; notes its command."""
    monkeypatch.setenv("COLUMNS", "200")
    commands: list[list[str]] = []

    def finish(command: list[str], check: bool) -> Any:
        arguments = command[command.index("run") + 1 :]
        overrides = [each for each in arguments[1:] if not each.startswith("--")]
        loaded = load(Path(arguments[0]), overrides)
        folder = Path(loaded.recipe.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "recipe.yaml", dump(loaded.recipe, base=loaded.path.parent))
        gauc = 0.6 + loaded.recipe.seed / 100
        write_result(
            folder, {"test": {"gauc": gauc, "auc": gauc}, "impressions_per_second": 10.0, "oracle": {"gauc": 0.9}}
        )
        commands.append(arguments)
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(run.subprocess, "run", finish)
    return commands


def recipe(folder: Path) -> Path:
    write_whole(folder / "tiny.yaml", dump(debug(folder).recipe))
    return folder / "tiny.yaml"


def test_compare_runs_each_seed_in_a_folder_of_its_own(
    tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = run.compare([recipe(tmp_path)], ["seed=3"], seeds=2)
    assert [each["gauc"] for each in row.results] == pytest.approx([0.63, 0.64])
    assert [command[-1] for command in started] == [f"run_dir={tmp_path}/run/seed-{seed}" for seed in (3, 4)]
    text = capsys.readouterr().out
    assert "0.6350 ±.0071" in text
    assert "0.9000" in text


def test_compare_takes_finished_runs_as_they_are(tmp_path: Path, started: list[list[str]]) -> None:
    first = run.compare([recipe(tmp_path)], [], seeds=1)
    assert len(started) == 1
    assert run.compare([recipe(tmp_path)], [], seeds=1) == first
    assert len(started) == 1


def test_compare_goes_on_with_a_run_that_was_cut_off(
    tmp_path: Path, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.compare([recipe(tmp_path)], [], seeds=1)
    (tmp_path / "run/test.json").unlink()
    run.compare([recipe(tmp_path)], [], seeds=1)
    (tmp_path / "run/test.json").unlink()
    monkeypatch.setattr(run, "find_resumable", lambda folder: folder / "checkpoints/last.ckpt")
    run.compare([recipe(tmp_path)], [], seeds=1)
    assert [[each for each in command if each.startswith("--")] for command in started] == [
        [],
        ["--overwrite"],  # cut off before its first checkpoint
        ["--resume"],
    ]


def test_compare_refuses_the_run_of_another_recipe(tmp_path: Path, started: list[list[str]]) -> None:
    run.compare([recipe(tmp_path)], [], seeds=1)
    with pytest.raises(RunError, match="holds a run of another recipe") as caught:
        run.compare([recipe(tmp_path)], ["batch_size=64"], seeds=1)
    assert str(tmp_path / "run") in str(caught.value)
    assert len(started) == 1


def test_compare_refuses_to_go_on_with_the_unfinished_run_of_another_recipe(
    tmp_path: Path, started: list[list[str]]
) -> None:
    run.compare([recipe(tmp_path)], [], seeds=1)
    (tmp_path / "run/test.json").unlink()
    with pytest.raises(RunError, match="holds a run of another recipe"):
        run.compare([recipe(tmp_path)], ["batch_size=64"], seeds=1)
    assert len(started) == 1


def test_two_recipes_of_one_comparison_need_two_folders(tmp_path: Path, started: list[list[str]]) -> None:
    one = recipe(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text(one.read_text().replace("batch_size: 128", "batch_size: 64"))
    with pytest.raises(RunError, match="holds a run of another recipe"):
        run.compare([one, other], [], seeds=1)


def test_compare_stops_at_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.subprocess, "run", lambda command, check: type("Ended", (), {"returncode": 3}))
    with pytest.raises(RunError, match="ended with exit code 3"):
        run.compare([recipe(tmp_path)], [], seeds=1)


# --- the machine ---


@pytest.mark.parametrize(
    ("overrides", "threads"), [((), 8), (("trainer.devices=4",), 2), (("trainer.devices=16", "data.lanes=16"), 1)]
)
def test_ranks_share_the_processor(
    overrides: tuple[str, ...], threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.os, "cpu_count", lambda: 8)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    run._use_machine(debug(tmp_path, "trainer.threads=null", *overrides).recipe)
    run._use_machine(debug(tmp_path, "trainer.threads=3", *overrides).recipe)
    assert asked == [threads, 3]


def test_extract_of_a_recipe_without_pictures_is_refused(tmp_path: Path) -> None:
    loaded = debug(tmp_path)
    loaded.recipe.images = None
    with pytest.raises(RecipeError, match="there is nothing to extract"):
        run.extract(loaded)


def test_prepare_and_extract_say_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = debug(tmp_path)
    dataset = run.prepare(loaded)
    out = capsys.readouterr().out
    assert str(dataset.folder) in out
    assert "Next: dicm run" in out
    folder = run.extract(loaded)
    assert folder is not None
    assert folder.parent == dataset.features_folder
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run.extract(loaded) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == files, "once is enough"
    assert json.dumps(sorted(path.name for path in dataset.features_folder.iterdir())).count(folder.name) == 1
    trained = debug(tmp_path, "images.backbone.trainable=all")
    assert run.extract(trained) is None
    assert "nothing to extract" in capsys.readouterr().out
