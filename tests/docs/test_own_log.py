"""docs/how_to/own_log.md, block by block, on a tiny log: from three files to a table."""

import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
import timm
import yaml
from little_log import DAY, tables, write_log, write_table
from safetensors.torch import save_file
from test_markdown import BLOCK

from dicm_kit import cli

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "own_log.md"
LOG = {"impressions": 3000, "users": 40, "items": 40, "days": 5}


def blocks() -> tuple[dict[str, str], list[str], list[str]]:
    """The files that are to be saved, the commands in order, and the other YAML blocks."""
    files, commands, others = {}, [], []
    text = PAGE.read_text()
    for match in BLOCK.finditer(text):
        kind, block = match.groups()
        said = re.findall(r"[Ss]ave it as `([\w.]+)`", text[: match.start()].rsplit("```", 1)[-1])
        if kind == "yaml" and said:
            files[said[-1]] = block
        elif kind == "yaml":
            others.append(block)
        elif kind == "bash":
            commands += block.splitlines()
    return files, commands, others


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the three files of the page and with the weights, as the current one."""
    write_log(tmp_path / "shop", **LOG)
    model = timm.create_model("mobilenetv3_small_100", pretrained=False)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_in_order(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, commands, (only_clicks,) = blocks()
    assert list(files) == ["shop.yaml", "worth.yaml"]
    assert [line.split()[1] for line in commands] == ["check", "prepare", "run", "compare", "test"]
    for name, block in files.items():
        (shop / name).write_text(block)
    outputs = {}
    for line in commands:
        words = shlex.split(line)
        assert words[0] == "dicm"
        if "--seeds" in words:
            words[-1] = "1"  # each seed of each row is a process; one shows as much
        assert cli.main(words[1:]) == 0, capsys.readouterr()
        outputs[words[1]] = capsys.readouterr().out
    assert "shop.yaml is in order" in outputs["check"]
    assert "leak" in outputs["prepare"].lower(), "the audit"
    assert json.loads((shop / "runs" / "shop" / "test.json").read_text())["test"]["gauc"] > 0, "the first metric"
    assert all(row in outputs["compare"] for row in ("no-pictures", "pictures", "shuffled"))
    assert "95 %" in outputs["test"]
    assert len(only_clicks) > 100


def test_the_next_day_is_one_more_file(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, *_ = blocks()
    log = tables(**LOG)["log"]
    day = log["timestamp"].to_numpy() // DAY
    for number, each in enumerate(sorted(set(day.tolist()))[:-1]):
        write_table(shop / "shop" / "log" / f"day-{number}.parquet", log.filter(pa.array(day == each)))
    recipe = files["shop.yaml"].replace("file: log.parquet", "file: log/day-*.parquet")
    (shop / "shop.yaml").write_text(recipe)
    assert cli.main(["prepare", "shop.yaml"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (shop / "data" / "shop" / "samples").rglob("*.parquet")}
    write_table(shop / "shop" / "log" / "day-9.parquet", log.filter(pa.array(day == day.max())))
    assert cli.main(["prepare", "shop.yaml"]) == 0, capsys.readouterr()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    description = yaml.safe_load((shop / "data" / "shop" / "dataset.yaml").read_text())
    assert len(description["splits"]["train"]["parts"]) == 2
    write_table(shop / "shop" / "log" / "day-1.parquet", log.slice(0, 10))
    assert cli.main(["prepare", "shop.yaml"]) == 1
    assert "the log changed since it was prepared: log/day-1.parquet" in capsys.readouterr().err


def test_clicks_alone(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, _, (only_clicks,) = blocks()
    log = tables(**LOG)["log"]
    write_table(shop / "shop" / "log.parquet", log.filter(pa.array(log["clicked"].to_numpy() == 1)).drop(["clicked"]))
    recipe, given = yaml.safe_load(files["shop.yaml"]), yaml.safe_load(only_clicks)
    recipe["data"] |= given["data"]
    recipe["features"].pop("context")
    (shop / "shop.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert cli.main(["prepare", "shop.yaml"]) == 0, capsys.readouterr()
    splits = yaml.safe_load((shop / "data" / "shop" / "dataset.yaml").read_text())["splits"]
    missing = yaml.safe_load((shop / "data" / "shop" / "dataset.yaml").read_text())["made"]["counts"][
        "negatives_missing"
    ]
    rows = sum(split["impressions"] for split in splits.values())
    assert rows + missing == 5 * sum(split["positives"] for split in splits.values())
