"""A run that is resumed after its log or its dataset folder has changed."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from recipes.debug_runs import arguments, debug
from recipes.growing_shop import daily_recipe, write_shop

from dicm_kit import cli, run
from dicm_kit.data.dataset import Dataset
from dicm_kit.training.checkpoint_files import read_checkpoint

SHORT = ["trainer.max_steps=4", "checkpoint.monitor=null", "warm_start.run=null"]
LONG = [*SHORT, "trainer.max_steps=7"]


@pytest.fixture
def cut_off(tmp_path: Path) -> tuple[Path, pa.Table]:
    """A folder with a run of seven steps on four days, one of the same that ended after four; and the fifth day."""
    torch.set_num_threads(1)
    *days, fifth = write_shop(tmp_path / "shop")
    for number, table in enumerate(days):
        pq.write_table(table, tmp_path / "shop/log" / f"day-{number}.parquet")
    recipe = daily_recipe(tmp_path)
    run.run(debug(tmp_path, *LONG, recipe=recipe, run_dir="runs/whole"))
    run.run(debug(tmp_path, *SHORT, recipe=recipe, run_dir="runs/cut"))
    return tmp_path, fifth


def resumed(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    capsys.readouterr()
    overrides = arguments(folder, *LONG, *more, run_dir="runs/cut")
    code = cli.main(["run", str(folder / "daily.yaml"), *overrides, "--resume"])
    return code, capsys.readouterr().err


def assert_as_whole(folder: Path) -> None:
    mine, theirs = (read_checkpoint(folder / f"runs/{each}/checkpoints/last.ckpt") for each in ("cut", "whole"))
    assert mine["global_step"] == theirs["global_step"] == 7
    assert [
        name for name, value in theirs["state_dict"].items() if not torch.equal(mine["state_dict"][name], value)
    ] == []


def test_a_day_that_the_log_has_got_since(cut_off: tuple[Path, pa.Table], capsys: pytest.CaptureFixture[str]) -> None:
    folder, fifth = cut_off
    pq.write_table(fifth, folder / "shop/log/day-4.parquet")
    before = Dataset.open(folder / "data")
    code, errors = resumed(folder, capsys)
    assert code == 0, errors
    assert_as_whole(folder)
    assert Dataset.open(folder / "data") == before, "the next run takes it in"

    # That run has come and gone, and the one before is resumed once more.
    now = run.prepare(debug(folder, recipe=folder / "daily.yaml"))
    code, errors = resumed(folder, capsys, "trainer.max_steps=9")
    assert code == 1
    path = folder / "runs/cut/checkpoints/last.ckpt"
    assert errors.startswith(f"RunError: {path}: was trained on other data than the dataset folder holds now:\n")
    said = "  {}: {:,} in the checkpoint, {:,} in the dataset folder\n"
    for split in ("train", "test"):
        counts = before.splits[split].impressions, now.splits[split].impressions
        assert said.format(f"{split} impressions", *counts).replace(",", "") in errors.replace(",", "")
        assert counts[0] != counts[1]
    ids = before.item["item_id"].num_ids, now.item["item_id"].num_ids
    assert ids[0] != ids[1]
    assert said.format("ids of item_id", *ids).replace(",", "") in errors.replace(",", "")
    assert f"  fingerprint: {before.fingerprint} in the checkpoint, {now.fingerprint} in the dataset folder\n" in errors
    assert "last day: " in errors
    assert "`data.out` must lead to them" in errors
    assert "max_steps: 7" in (folder / "runs/cut/recipe.yaml").read_text(), "left as it was"


def test_a_dataset_folder_that_is_prepared_anew(
    cut_off: tuple[Path, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = cut_off
    shutil.rmtree(folder / "data")
    run.prepare(debug(folder, recipe=folder / "daily.yaml"))
    (folder / "data").rename(folder / "elsewhere")
    code, errors = resumed(folder, capsys, f"data.out={folder / 'elsewhere'}")
    assert code == 0, errors
    assert_as_whole(folder)


def test_ids_in_another_order(cut_off: tuple[Path, pa.Table], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = cut_off
    file = Dataset.open(folder / "data").vocab_file("category")
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.set_column(0, "value", table["value"].take(pa.array(range(len(table))[::-1]))), file)
    code, errors = resumed(folder, capsys)
    assert code == 1
    assert "  other ids, or ids in another order: category\n" in errors
