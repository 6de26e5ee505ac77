"""Bad input, each kind once from the command line: the exit code, and a message that says where, what, what to do."""

import errno
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from recipes.debug_runs import DEBUG, arguments

from dicm_kit import cli
from dicm_kit.artifacts.run_folder import claimed
from dicm_kit.data.dataset import Dataset
from dicm_kit.shards import list_shards

Dicm = Callable[..., tuple[int, str]]

SPOILT = '''
"""The made-up shop with something wrong in its log or its pictures."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dicm_kit import Component, DataSource, hookimpl
from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic

dicm_api = 1


@dataclass
class SpoiltConfig:
    """A shop with something wrong."""

    damage: str = ""
    """What is wrong."""
    picture: str = ""
    """A file that stands for the first picture."""


class Spoilt(DataSource):
    def __init__(self, damage, picture):
        self.damage, self.picture = damage, picture
        self.shop = build_synthetic(SyntheticConfig(users=60, items=80, impressions=4000, days=4, picture_size=32))
        self.columns, self.fingerprint = self.shop.columns, f"spoilt {damage} {picture}"
        self.pieces, self.snapshot = self.shop.pieces, self.shop.snapshot

    def users(self):
        return self.shop.users()

    def items(self):
        for batch in self.shop.items():
            columns = {name: batch[name].to_pylist() for name in batch.schema.names}
            if self.damage == "no_picture":
                columns["picture"] = [name if row % 2 else None for row, name in enumerate(columns["picture"])]
            if self.damage == "no_picture_at_all":
                columns["picture"] = pa.nulls(len(batch), pa.string())
            if self.damage == "infinite":
                columns["price"][7] = float("inf")
            yield pa.RecordBatch.from_pydict(columns)

    def impressions(self, piece):
        for batch in self.shop.impressions(piece):
            columns = {name: batch[name].to_numpy(zero_copy_only=False).copy() for name in batch.schema.names}
            if self.damage == "labels":
                columns["label"][[5, 8]] = [2, -1]
            if self.damage == "no_positives":
                columns["label"][columns["time"] >= columns["time"].max() // 86400 * 86400] = 0
            if self.damage == "no_history":
                columns["label"][columns["user"] == 3] = 0
            yield pa.RecordBatch.from_pydict(columns)

    def pictures(self, have):
        if self.damage == "no_picture_at_all":
            return
        for number, (name, data) in enumerate(self.shop.pictures(have)):
            if number == 0 and self.picture:
                data = Path(self.picture).read_bytes()
            yield name, data[: len(data) // 2] if number == 0 and self.damage == "truncated" else data


@hookimpl
def dicm_data_sources():
    return [Component(name="spoilt", config=SpoiltConfig, build=lambda config, shapes: Spoilt(**vars(config)))]
'''


@pytest.fixture
def dicm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Dicm:
    """Runs a command on the debug recipe; returns the exit code and what it wrote to stderr."""

    def call(command: str, *overrides: str, recipe: Path = DEBUG) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main([command, str(recipe), *arguments(tmp_path, *overrides)])
        errors = capsys.readouterr().err
        assert "Traceback" not in errors
        return code, errors.lstrip()  # a progress bar ends with an empty line

    return call


@pytest.fixture
def spoilt(tmp_path: Path, dicm: Dicm) -> Dicm:
    """Runs a command on the debug recipe with a spoilt shop; takes what is wrong first."""
    shop = "  name: synthetic\n  users: 60\n  items: 80\n  impressions: 4000\n  days: 4\n  picture_size: 32\n"
    text = DEBUG.read_text()
    assert text.count(shop) == 1
    (tmp_path / "spoilt.py").write_text(SPOILT)
    recipe = tmp_path / "spoilt.yaml"
    recipe.write_text(text.replace(shop, "  name: spoilt\n").replace("seed: 7\n", "seed: 7\nplugins: [./spoilt.py]\n"))

    def call(command: str, damage: str, *overrides: str) -> tuple[int, str]:
        return dicm(command, f"data.damage={damage}", *overrides, recipe=recipe)

    return call


def test_a_spoilt_shop_with_nothing_wrong_trains(spoilt: Dicm, tmp_path: Path) -> None:
    code, errors = spoilt("run", "nothing", "trainer.max_epochs=1")
    assert code == 0, errors
    assert json.loads((tmp_path / "run/test.json").read_text())["test"]["impressions"] > 0


# --- recipes ---


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["net.hiden=[3]"], "unknown key `hiden`"),
        (["trainer.max_steps=many"], "trainer.max_steps=many"),
        (["interest.ids.name=atention"], "Did you mean `attention`?"),
        (["plugins=[dicm-nowhere]"], "dicm-nowhere"),
        (["plugins=[./nowhere.py]"], "nowhere.py"),
        (["interest.images.queries=[image, target.item]"], "target.item_id"),
    ],
)
def test_a_recipe_that_cannot_be_run(overrides: list[str], says: str, dicm: Dicm, tmp_path: Path) -> None:
    code, errors = dicm("run", *overrides)
    assert (code, errors.split(":")[0]) == (2, "RecipeError")
    assert says in errors
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


# --- logs ---


def test_labels_that_are_not_0_or_1(spoilt: Dicm) -> None:
    code, errors = spoilt("run", "labels")
    assert code == 1
    assert "`label` is neither 0 nor 1 in 2 rows (row 5: 2, row 8: -1)" in errors.replace("2.0", "2").replace(
        "1.0", "1"
    )


def test_no_positives_in_a_split(spoilt: Dicm) -> None:
    code, errors = spoilt("run", "no_positives")
    assert code == 1
    assert "the test split has no positives in" in errors
    assert "split.test" in errors


def test_no_test_split_is_refused_before_training(dicm: Dicm, tmp_path: Path) -> None:
    code, errors = dicm("run", "data.split.test=0")
    assert code == 1
    assert "the test split is empty, and a run ends with a test" in errors
    assert "Set `data.split.test` above 0" in errors
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_user_without_history(spoilt: Dicm, tmp_path: Path) -> None:
    code, errors = spoilt("run", "no_history")
    assert code == 0, errors
    folder = tmp_path / "data/samples"
    rows = [row for file in sorted(folder.rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    user = {row["user"] for row in rows} - {row["user"] for row in rows if row["history_item"]}
    assert 3 in user, "she is read and trained on"


def test_a_column_that_is_not_finite(spoilt: Dicm) -> None:
    code, errors = spoilt("run", "infinite")
    assert code == 1
    assert "items: 1 infinite numbers in `price`" in errors


# --- pictures ---


def test_items_without_a_picture(spoilt: Dicm, tmp_path: Path) -> None:
    code, errors = spoilt("run", "no_picture", "trainer.max_epochs=1")
    assert code == 0, errors
    keys = Dataset.open(tmp_path / "data").items["picture_key"].to_pylist()
    assert 0.45 < sum(key == 0 for key in keys) / len(keys) < 0.6


def test_a_shop_without_any_picture(spoilt: Dicm) -> None:
    code, errors = spoilt("run", "no_picture_at_all", "trainer.max_epochs=1")
    assert (code, "picture" in errors.lower()) in ((0, False), (1, True)), errors


def test_a_truncated_jpeg_counts_as_missing(spoilt: Dicm, tmp_path: Path) -> None:
    code, errors = spoilt("run", "truncated", "trainer.max_epochs=1")
    assert code == 0, errors
    (rejected,) = pq.read_table(tmp_path / "data/images/rejected.parquet").to_pylist()
    assert "cut" in rejected["reason"] or "truncated" in rejected["reason"]


def test_a_picture_of_fifty_thousand_pixels_square_counts_as_missing(spoilt: Dicm, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    code, errors = spoilt("run", "bomb", f"data.picture={tmp_path / 'bomb.png'}", "trainer.max_epochs=1")
    assert code == 0, errors
    (rejected,) = pq.read_table(tmp_path / "data/images/rejected.parquet").to_pylist()
    assert "50000 x 50000" in rejected["reason"].replace(",", "").replace("x", " x ").replace("  ", " ")


@pytest.mark.parametrize("command", ["extract", "run"])
@pytest.mark.parametrize("trainable", ["none", "all"])
def test_a_shard_cut_in_the_middle(command: str, trainable: str, dicm: Dicm, tmp_path: Path) -> None:
    assert dicm("prepare")[0] == 0
    shard = list_shards(tmp_path / "data/images")[-1].path
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    code, errors = dicm(command, f"images.backbone.trainable={trainable}")
    if (command, trainable) == ("extract", "all"):
        assert code == 0, "nothing is extracted"
        return
    assert code == 1
    assert f"{shard.name}: the shard is cut; the last good picture is" in errors


# --- folders ---


def test_a_dataset_folder_of_another_version(dicm: Dicm, tmp_path: Path) -> None:
    assert dicm("prepare")[0] == 0
    file = tmp_path / "data/dataset.yaml"
    file.write_text(file.read_text().replace("dicm_dataset: 2", "dicm_dataset: 99"))
    code, errors = dicm("run")
    assert code == 1
    assert "dataset folder of version 99; this program reads version 2" in errors
    file.write_text(file.read_text().replace("dicm_dataset: 99", "dicm_dataset: 2"))
    assert dicm("run", "trainer.max_steps=2")[0] == 0, "the run that could not begin is not in the way"


def test_a_full_disk_during_prepare(dicm: Dicm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dicm_kit.data.lanes._LaneWriter._write", full)
        code, errors = dicm("run")
    assert code == 1
    assert "the disk is full" in errors
    code, errors = dicm("run")
    assert code == 0, errors


def test_two_runs_into_one_folder(dicm: Dicm, tmp_path: Path) -> None:
    with claimed(tmp_path / "run", resume=False, overwrite=False):
        code, errors = dicm("run")
        assert code == 1
        assert "another run is in this folder now" in errors
        assert "run_dir=OTHER" in errors
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_a_second_run_overwrites_nothing_unasked(dicm: Dicm, tmp_path: Path) -> None:
    assert dicm("run", "trainer.max_steps=2")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    code, errors = dicm("run", "trainer.max_steps=3")
    assert code == 1
    assert "holds a finished run" in errors
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()} == before
    assert dicm("run", "trainer.max_steps=3", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "run/test.json").read_text())["steps"] == 3


# --- losses ---


def test_a_loss_that_becomes_nan(dicm: Dicm, tmp_path: Path) -> None:
    code, errors = dicm("run", "optimizer.dense.lr=1e30", "optimizer.ids.lr=1e30")
    assert code == 1
    assert errors.startswith("TrainingError: step ")
    assert "the loss is" in errors
    assert "lower the learning rate" in errors
    assert not (tmp_path / "run/test.json").exists()


def test_a_column_that_drives_the_loss_to_nan_is_named(dicm: Dicm) -> None:
    code, errors = dicm("run", "features.target.price.scale=1e-39", "features.target.price.transform=none")
    assert code == 1
    assert errors.startswith("TrainingError: step 1: the loss is")
    assert "vectors of target.price" in errors
