"""docs/how_to/daily_training.md: its recipe and its commands, two days running, on a tiny log."""

import json
import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from little_log import DAY, FIRST, write_log
from test_markdown import BLOCK

from dicm_kit import cli

HOW_TO = Path(__file__).parents[2] / "docs" / "how_to"
QUICK = ["images=null", "interest.images=null", "trainer.max_epochs=1", "trainer.threads=1", "batch_size=128"]


def blocks(page: str, kind: str) -> list[str]:
    return [block for each, block in BLOCK.findall((HOW_TO / page).read_text()) if each == kind]


def test_two_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "shop", impressions=1500, users=40, items=40, days=6)
    days = pq.read_table("shop/log.parquet")
    Path("shop/log.parquet").unlink()
    Path("shop/log").mkdir()

    def add(day: int, number: int) -> None:
        """Writes the part of the log that ends with this day."""
        time = days["timestamp"].to_numpy()
        part = (time < FIRST + (day + 1) * DAY) & (time >= (FIRST + day * DAY if number else 0))
        pq.write_table(days.filter(part), f"shop/log/day-{day}.parquet")

    recipe = blocks("own_log.md", "yaml")[0].replace("file: log.parquet", "file: log")
    warm_start, comparison, forgetting = blocks("daily_training.md", "yaml")
    Path("shop.yaml").write_text(recipe + warm_start)
    daily, named, _shown = (
        shlex.split(block.replace("$(date +\\%F)", "DATE")) for block in blocks("daily_training.md", "bash")
    )
    said = []
    for number, date in enumerate(("2026-11-23", "2026-11-24")):
        add(4 + number, number)
        assert cli.main([word.replace("DATE", date) for word in daily[1:]] + QUICK) == 0
        said.append(capsys.readouterr().out)
    first, second = said
    assert "No run in runs/daily has finished before 2026-11-23: everything starts fresh." in first
    assert "Warm start from runs/daily/2026-11-23/checkpoints/best.ckpt, step" in second
    kept = json.loads(Path("runs/daily/2026-11-24/test.json").read_text())["warm_start"]
    assert list(kept["taken"]) == ["interest.ids", "net"]
    assert "user.user_id" in kept["fresh"]
    again = [word.replace("DATE", "2026-11-25").replace("2026-11-20", "2026-11-23") for word in named[1:]]
    assert cli.main([*again, "warm_start.parts=all", *QUICK]) == 0
    assert re.search(r"ids: \d+ of \d+ rows of user.user_id known", capsys.readouterr().out)
    Path("warm.yaml").write_text(comparison)
    assert cli.main(["check", "warm.yaml"]) == 0
    forget = [f"data.{name}={value}" for name, value in yaml.safe_load(forgetting)["data"].items()]
    assert len(forget) == 2
    assert cli.main(["check", "shop.yaml", "data.out=data/forgetful", *forget]) == 0


def test_two_days_of_the_made_up_shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same on a shop that grows; the second day adds its pictures and samples, and starts from the first's run."""
    monkeypatch.chdir(tmp_path)
    small = [*QUICK, "data.users=40", "data.items=60", "data.impressions=3000", "data.min_count=3"]
    commands = blocks("daily_training.md", "bash")[2].splitlines()
    assert len(commands) == 2
    said = []
    for command in commands:
        words = command.replace("recipes/", f"{HOW_TO.parents[1]}/recipes/").split()
        assert words[0] == "dicm"
        assert cli.main([*words[1:], *small]) == 0
        said.append(capsys.readouterr().out)
    assert "everything starts fresh" in said[0]
    assert "Warm start from runs/daily/day-10/checkpoints/best.ckpt" in said[1]
    parts = yaml.safe_load((tmp_path / "data/quickstart-daily/dataset.yaml").read_text())["parts"]
    assert len(parts) == 4, "the first eight days, and three that came or moved one by one"
