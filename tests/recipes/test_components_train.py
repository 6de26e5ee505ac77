"""Every aggregator and every net trains a few steps of the debug recipe, in float32 and in bf16."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from recipes.debug_runs import DEBUG, arguments, debug, start

from dicm_kit import run
from dicm_kit.registry import Registry
from dicm_kit.training.checkpoint_files import read_checkpoint

TOWERS = ("net={name: two_tower, hidden: [16], dim: 8}", "features.context={}")
SUMS = ("interest.ids={name: sum}", "interest.images={name: sum}")
VARIANTS = {
    **{
        name: (f"interest.ids={{name: {name}}}", f"interest.images={{name: {name}}}", "trainer.precision=bf16-mixed")
        for name in ("concat", "max", "mean", "sum")
    },
    "attention": ("interest.images={name: attention, softmax: true}",),
    "multi_query_attention": ("interest.ids={name: multi_query_attention, queries: [image, user.user_id]}",),
    "embedding_mlp": ("net.dropout=0.2",),
    "embedding_mlp, dice": ("net.activation=dice", "trainer.precision=bf16-mixed"),
    "lr": ("net={name: lr}",),
    "two_tower": (*TOWERS, *SUMS),
    "two_tower, without pictures": (*TOWERS, SUMS[0], "images=null", "interest.images=null"),
    "two_tower, bf16": (*TOWERS, *SUMS, "trainer.precision=bf16-mixed"),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("components")


def test_all_of_ours_are_here() -> None:
    for kind in ("interest_aggregator", "base_net"):
        for each in Registry().provided(kind):
            assert each.component.name in VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains(name: str, shop: Path) -> None:
    few = ("trainer.max_steps=6", "trainer.log_every=1")
    folder = f"run-{list(VARIANTS).index(name)}"
    run.run(debug(shop, *VARIANTS[name], *few, run_dir=folder))
    with (shop / folder / "metrics.csv").open() as file:
        losses = [float(line["train/loss"]) for line in csv.DictReader(file) if line["train/loss"]]
    assert len(losses) == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


def test_two_ranks_stop_early_together_and_the_best_checkpoint_counts(shop: Path) -> None:
    run.run(debug(shop, "trainer.max_steps=1", run_dir="prepares"))
    never_better = "trainer.early_stop={patience: 2, min_delta: 10}"
    given = arguments(
        shop, *TOWERS, *SUMS, "net.activation=dice", never_better, "trainer.validate_every=3", "trainer.devices=2",
        "trainer.strategy=image_server", run_dir="early",
    )  # fmt: skip
    process = start("run", str(DEBUG), *given)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, out + error
    assert "Stopping early: no better val/gauc in 2 validations" in out + error
    with (shop / "early/metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    gauc = {int(line["step"]): float(line["val/gauc"]) for line in lines if line["val/gauc"]}
    assert len(gauc) == 3
    last, best = (read_checkpoint(shop / f"early/checkpoints/{name}.ckpt")["global_step"] for name in ("last", "best"))
    assert last == 9
    assert best == 3 * (1 + max(range(3), key=lambda at: [*gauc.values()][at]))
    assert json.loads((shop / "early/test.json").read_text())["steps"] == best
