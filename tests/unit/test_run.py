"""What run.py adds to its parts: `--against`, the machine's threads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from recipes.debug_runs import debug
from unit.artifacts.predicted import rows, run_folder

from dicm_kit import run
from dicm_kit.errors import DataError, RecipeError, RunError

# --- against ---


def test_runs_with_seeds_against_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (9, 10):
        run_folder(tmp_path / f"dicm/seed-{seed}", rows(2.0, noise=seed))
        run_folder(tmp_path / f"base/seed-{seed - 3}", rows(1.0, noise=seed))
    found = run.against([tmp_path / "dicm"], [tmp_path / "base"])
    content = json.loads((tmp_path / "dicm/against-base.json").read_text())
    assert content["run"] == [str(tmp_path / f"dicm/seed-{seed}") for seed in (9, 10)]
    assert content["against"] == [str(tmp_path / f"base/seed-{seed}") for seed in (6, 7)]
    assert content["differences"]["gauc"]["difference"] == found["gauc"].value > 0
    assert content["differences"]["gauc"]["interval"] == list(found["gauc"].interval or ())
    out = capsys.readouterr().out
    assert f"{found['gauc'].value:+.4f}".replace("0.", ".") in out
    assert "against-base.json" in out
    # The same runs, named one by one.
    sides = [[tmp_path / each for each in names] for names in (("dicm/seed-9", "dicm/seed-10"), ("base",))]
    assert run.against(*sides) == found
    run.against([tmp_path / "dicm/seed-9"], [tmp_path / "base/seed-7"])
    assert (tmp_path / "dicm/seed-9/against-base-seed-7.json").is_file()


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no run folder"):
        run.against([run_folder(tmp_path / "a")], [tmp_path])


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


def test_prepare_ends_with_an_audit_and_fails_for_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = debug(tmp_path)
    dataset = run.prepare(loaded)
    written = (dataset.folder / "audit.txt").read_text()
    assert written in capsys.readouterr().out
    shutil.rmtree(dataset.images_folder)
    dataset.images_folder.mkdir()
    with pytest.raises(DataError, match="the audit found 1 problems"):
        run.prepare(loaded)
    assert "PROBLEM: images/shards.yaml: no such file" in capsys.readouterr().out
    assert "PROBLEM: images/shards.yaml" in (dataset.folder / "audit.txt").read_text()


def test_run_prints_the_warnings_of_what_it_prepared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class BegunError(Exception):
        """The session begins."""

    monkeypatch.setattr(run, "Session", lambda *_: (_ for _ in ()).throw(BegunError))
    with pytest.raises(BegunError):
        run.run(debug(tmp_path))
    out = capsys.readouterr().out
    assert out.startswith("warning: ")
    assert out.endswith(f"The whole audit: {tmp_path / 'data/audit.txt'}\n")
    assert "\ntrain" not in out
    with pytest.raises(BegunError):
        run.run(debug(tmp_path, run_dir="again"))
    assert capsys.readouterr().out == ""
    plugin = tmp_path / "mine.py"
    plugin.write_text(SHOP_AGAIN)
    state = tmp_path / "data/state/log.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"code": "another"}))
    with pytest.raises(BegunError):
        run.run(debug(tmp_path, f"plugins=[{plugin}]", "data.name=again", run_dir="third"))
    assert capsys.readouterr().out.startswith(f"The code of plugin {plugin} has changed since ")


def test_other_code_of_a_source_is_said_and_nothing_is_prepared_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(SHOP_AGAIN)
    overrides = (f"plugins=[{plugin}]", "data.name=again")
    said = f"The code of plugin {plugin} has changed since {tmp_path / 'data'} was prepared. If the tables"
    before = run.prepare(debug(tmp_path, *overrides))
    assert said not in capsys.readouterr().out
    plugin.write_text(SHOP_AGAIN.replace("# as it was", "# no more"))
    assert run.prepare(debug(tmp_path, *overrides)) == before
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("The code of plugin"))
    assert line.startswith(said)
    assert line.endswith("raise the version in its `fingerprint`, or delete the folder.")
    plugin.write_text(SHOP_AGAIN)
    run.prepare(debug(tmp_path, *overrides))
    assert said not in capsys.readouterr().out


SHOP_AGAIN = """
from dataclasses import replace
from dicm_kit import builtin, hookimpl

dicm_api = 1

@hookimpl
def dicm_data_sources():  # as it was
    return [replace(each, name="again") for each in builtin.dicm_data_sources() if each.name == "synthetic"]
"""


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
