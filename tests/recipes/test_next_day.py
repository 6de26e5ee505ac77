"""The debug recipe on a log that grows by a day: the next day's run starts from yesterday's, ids by value."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from recipes.debug_runs import alive, arguments, debug, start
from recipes.growing_shop import daily_recipe, write_shop

from dicm_kit import run
from dicm_kit.data.dataset import Dataset
from dicm_kit.errors import RunError
from dicm_kit.training.checkpoint_files import read_checkpoint
from dicm_kit.training.warm_start import WarmStart

TABLES = {
    "user.user_id": "user_id",
    "user.segment": "segment",
    "target.item_id": "item_id",
    "target.picture": "picture",
    "target.category": "category",
    "context.position": "position",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of days 1 to 4, and the log and the dataset of days 1 to 5."""
    folder = tmp_path_factory.mktemp("daily")
    torch.set_num_threads(1)
    days = write_shop(folder / "shop")
    assert len(days) == 5
    for number, table in enumerate(days[:4]):
        pq.write_table(table, folder / "shop/log" / f"day-{number}.parquet")
    daily(folder, "day-4")
    pq.write_table(days[4], folder / "shop/log/day-4.parquet")
    run.prepare(debug(folder, recipe=daily_recipe(folder)))
    return folder


def daily(folder: Path, name: str, *overrides: str, resume: bool = False) -> dict[str, Any]:
    return run.run(debug(folder, *overrides, recipe=daily_recipe(folder), run_dir=f"runs/{name}"), resume=resume)


def rows(folder: Path, state: dict[str, torch.Tensor], column: str, values: list) -> dict[Any, torch.Tensor]:
    """Returns the rows of a table by the raw ids, None for row 0."""
    side, name = column.split(".")
    table = state[f"encoders.{side}.{name}_of.table.rows.weight"]
    assert len(table) == len(values)
    return dict(zip(values, table, strict=True))


def values_of(dataset: Dataset, vocab: str) -> list:
    """Returns raw values by index, read from the dataset in another way than the program's."""
    table = pq.read_table(dataset.vocab_file(vocab)).to_pylist()
    return [None, *(row["value"] for row in sorted(table, key=lambda row: row["index"]) if row["index"])]


def test_the_first_run_starts_fresh(shop: Path) -> None:
    result = json.loads((shop / "runs/day-4/test.json").read_text())
    assert "warm_start" not in result
    assert {path.stem for path in (shop / "runs/day-4/vocab").iterdir()} == set(TABLES.values())


def test_the_next_day_starts_where_yesterday_ended(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_of, began = WarmStart.on_fit_start, {}

    def keeping(warm: WarmStart, trainer: Any, module: Any) -> None:
        fresh = {name: value.clone() for name, value in module.state_dict().items()}
        start_of(warm, trainer, module)
        began.update(fresh=fresh, warm={name: value.clone() for name, value in module.state_dict().items()})

    monkeypatch.setattr(WarmStart, "on_fit_start", keeping)
    result = daily(shop, "day-5", "trainer.max_steps=7", "checkpoint.every=5")
    said = capsys.readouterr().out
    assert f"Warm start from {shop}/runs/day-4/checkpoints/best.ckpt, step" in said
    old = read_checkpoint(shop / "runs/day-4/checkpoints/best.ckpt")["state_dict"]
    dataset, moved, new = Dataset.open(shop / "data"), 0, 0
    for column, vocab in TABLES.items():
        before = pq.read_table(shop / "runs/day-4/vocab" / f"{vocab}.parquet")["value"].to_pylist()
        now = values_of(dataset, vocab)
        there, fresh = rows(shop, old, column, before), rows(shop, began["fresh"], column, now)
        for value, row in rows(shop, began["warm"], column, now).items():
            assert torch.equal(row, there.get(value, fresh[value])), (column, value)
        known = len(set(now) & set(before)) - 1
        assert f"  ids: {known} of {len(now) - 1} rows of {column} known" in said
        moved += sum(value in before and before.index(value) != row for row, value in enumerate(now))
        new += len(set(now) - set(before))
    assert moved > 20, "the day has put ids into another order"
    assert new > 5, "and brought new ones"
    dense = [name for name in old if name.startswith(("server.", "interest.", "net.", "encoders.target.price_of"))]
    assert all(torch.equal(began["warm"][name], old[name]) for name in dense)
    assert result["warm_start"]["step"] > 0
    assert set(result["warm_start"]["taken"]) == {
        *TABLES,
        "target.price",
        "images",
        "interest.ids",
        "interest.images",
        "net",
    }
    assert result["warm_start"]["fresh"] == []


def test_a_resumed_run_does_not_start_warm_again(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yesterday = f"warm_start.run={shop / 'runs/day-4'}"
    daily(shop, "day-5-whole", yesterday, "trainer.max_steps=11")
    daily(shop, "day-5-cut", yesterday, "trainer.max_steps=7")
    capsys.readouterr()
    gone = f"warm_start.run={shop / 'runs/gone'}"
    result = daily(shop, "day-5-cut", gone, "trainer.max_steps=11", resume=True)
    assert "Warm start" not in capsys.readouterr().out
    mine, theirs = (read_checkpoint(shop / f"runs/day-5-{each}/checkpoints/last.ckpt") for each in ("cut", "whole"))
    assert mine["global_step"] == theirs["global_step"] == 11
    assert all(torch.equal(mine["state_dict"][name], value) for name, value in theirs["state_dict"].items())
    wanted = json.loads((shop / "runs/day-5-whole/test.json").read_text())
    assert result["warm_start"] == wanted["warm_start"]
    assert run.test(shop / "runs/day-5-cut")["warm_start"] == wanted["warm_start"]


def test_two_ranks_start_from_one(shop: Path) -> None:
    name, ranks = "day-5-ranks", ["trainer.devices=2", "trainer.strategy=image_server"]
    run_of = ["warm_start.run=" + str(shop / "runs/day-4"), "trainer.max_steps=6"]
    daily(shop, f"{name}-alone", *run_of)
    process = start("run", str(daily_recipe(shop)), *arguments(shop, *ranks, *run_of, run_dir=f"runs/{name}"))
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert alive(process.pid) == []
    assert out.count("Warm start from") == 1, "rank 0 alone says so"
    mine, theirs = (read_checkpoint(shop / f"runs/{each}/checkpoints/last.ckpt") for each in (name, f"{name}-alone"))
    assert mine["callbacks"]["WarmStart"] == theirs["callbacks"]["WarmStart"]
    for key, value in theirs["state_dict"].items():
        if value.is_floating_point():
            assert (mine["state_dict"][key] - value).norm() <= 1e-5 * value.norm(), key


def test_what_is_wrong_is_said_before_the_data_are_looked_at(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_prepared", lambda *_: pytest.fail("too late"))
    with pytest.raises(RunError, match=r"warm_start.run: .*/gone: there is no such run\n"):
        daily(shop, "never", "warm_start.run=" + str(shop / "runs/gone"))
    (shop / "runs/empty").mkdir()
    (shop / "runs/empty/recipe.yaml").write_text("dicm: 1\n")
    with pytest.raises(RunError, match=r"warm_start.run: .*/empty: has no checkpoint to start from"):
        daily(shop, "never", "warm_start.run=" + str(shop / "runs/empty"))
    assert not (shop / "runs/never").exists()


def test_another_model_is_refused_with_what_fits(shop: Path) -> None:
    overrides = ["features.user.user_id.dim=6", "net.hidden=[32, 8]", "features.target.price.dim=4"]
    with pytest.raises(RunError) as caught:
        daily(shop, "other", *overrides, "warm_start.run=" + str(shop / "runs/day-4"))
    text = str(caught.value)
    assert "\n  user.user_id: rows.weight is 8 wide there, 6 wide here\n" in text
    assert "\n  net: 0.weight is 32 x " in text
    assert "2.weight is 16 x 32 there, 8 x 32 here" in text
    assert "What fits: warm_start.parts=[images, interest.ids, interest.images, user.segment, target.item_id" in text
    assert {path.name for path in (shop / "runs/other").iterdir()} == {".lock", "recipe.yaml", "vocab"}
    what_fits = text.partition("What fits: ")[2].partition(". Or")[0]
    yesterday = f"warm_start.run={shop / 'runs/day-4'}"
    result = daily(shop, "other", *overrides, yesterday, what_fits, "trainer.max_steps=1")
    assert result["warm_start"]["fresh"] == ["net", "user.user_id"], "in the same folder: nothing had been trained"
