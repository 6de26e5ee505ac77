"""Runs with sharded id tables in fresh processes: stopped and resumed, on as many ranks and on others."""

import json
from pathlib import Path

import pytest
import torch
from recipes.debug_runs import DEBUG, arguments, start
from safetensors.torch import load_file

from dicm_kit.training.checkpoint_files import read_checkpoint

SHARDED = [
    "features.user.user_id.placement=sharded",
    "features.target.item_id.placement=sharded",
    "trainer.strategy=image_server",
    "checkpoint.every=5",
]


@pytest.fixture(scope="module")
def shop_with_run(shop: Path) -> Path:
    """The shop, with an undisturbed run of two ranks in it."""
    ran(shop, "whole", 2)
    return shop


def ran(folder: Path, run_dir: str, ranks: int, *more: str) -> None:
    overrides = arguments(folder, *SHARDED, f"trainer.devices={ranks}", run_dir=run_dir)
    process = start("run", str(DEBUG), *overrides, *more)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err


def state(folder: Path, run_dir: str) -> dict[str, torch.Tensor]:
    """Returns every tensor of the run's last checkpoint, rows of sharded tables by table and in order."""
    path = folder / run_dir / "checkpoints/last.ckpt"
    checkpoint = read_checkpoint(path)
    tensors = dict(checkpoint["state_dict"])
    tables = checkpoint["dicm"]["tables"]
    assert tables["sizes"]
    for name in tables["sizes"]:
        parts = [load_file(each) for each in sorted((path.parent / tables["folder"] / name).iterdir())]
        joined = {key: torch.cat([part[key] for part in parts if key in part]) for key in parts[0]}
        order = joined.pop("row").argsort()
        tensors |= {f"{name}.{key}": value[order] for key, value in joined.items()}
    return tensors


def apart(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], bound: float) -> list[str]:
    assert got.keys() == wanted.keys()
    return [name for name, value in wanted.items() if (got[name] - value).norm() > bound * value.norm()]


def test_on_as_many_ranks_it_ends_with_the_same_bits(shop_with_run: Path) -> None:
    ran(shop_with_run, "stopped", 2, "trainer.max_steps=17")
    ran(shop_with_run, "stopped", 2, "--resume")
    assert apart(state(shop_with_run, "stopped"), state(shop_with_run, "whole"), 0.0) == []
    whole, stopped = (
        json.loads((shop_with_run / each / "test.json").read_text())["test"] for each in ("whole", "stopped")
    )
    assert whole == stopped
    folders = {each.name for each in (shop_with_run / "stopped/checkpoints").iterdir()}
    kept = {each.removesuffix(".ckpt") for each in folders if each.endswith(".ckpt")}
    assert {each.rpartition("-")[0] for each in folders if each.endswith(".tables")} == kept  # no folder is left over


def test_on_another_number_of_ranks_it_ends_nearly_the_same(shop_with_run: Path) -> None:
    ran(shop_with_run, "moved", 2, "trainer.max_steps=17")
    ran(shop_with_run, "moved", 3, "--resume")
    assert apart(state(shop_with_run, "moved"), state(shop_with_run, "whole"), 1e-4) == []


def test_a_checkpoint_without_all_its_partitions_is_passed_over(shop_with_run: Path) -> None:
    ran(shop_with_run, "broken", 1, "trainer.max_steps=17")
    checkpoints = shop_with_run / "broken/checkpoints"
    (folder,) = checkpoints.glob("last-*.tables")
    next(folder.rglob("part-0003.safetensors")).unlink()
    process = start("run", str(DEBUG), *arguments(shop_with_run, *SHARDED, run_dir="broken"), "--resume")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert f"Going on from {checkpoints / 'best.ckpt'}" in out  # of step 16
