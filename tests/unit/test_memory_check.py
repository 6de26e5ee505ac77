"""Will it fit? The estimate of the debug recipe, and recipes that are stopped before anything is allocated."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from little_log import FIRST, write_table
from recipes.debug_runs import REPOSITORY, debug

from dicm_kit import cli, run
from dicm_kit.errors import RecipeError
from dicm_kit.memory_check import Machine, dataset_of, estimated, refuse_what_cannot_fit
from dicm_kit.recipe.load import LoadedRecipe, load
from dicm_kit.training.memory_parts import Estimate, Part

GB = 2**30
LARGE = REPOSITORY / "tests/benchmarks/large_table.yaml"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("debug")
    run.extract(debug(folder))
    return folder


@pytest.fixture
def log(tmp_path: Path) -> list[str]:
    """Overrides of the recipe with a hash table, whose log is small."""
    rows = np.arange(90)
    columns = {"user": rows % 7, "item": rows % 5, "time": rows * 4000 + FIRST, "clicked": rows % 2, "device": rows}
    write_table(tmp_path / "log.parquet", pa.table(columns))
    write_table(tmp_path / "items.parquet", {"item": np.arange(5)})
    return [f"data.root={tmp_path}", f"data.out={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}"]


def part(found: Estimate, name: str) -> Part:
    return next(each for each in [*found.held, *found.moments, *found.apart] if name in each.name)


def test_the_parts_of_the_debug_recipe(prepared: Path) -> None:
    loaded = debug(prepared)
    dataset = dataset_of(loaded)
    assert dataset is not None
    found, words = estimated(loaded, dataset, Machine(64 * GB))
    rows = dataset.user["user_id"].num_ids
    assert rows is not None
    assert part(found, "user.user_id").bytes == rows * (3 * 4 * 8 + 4)
    names = [each.name for each in found.held]
    assert sum(name.startswith("id table") for name in names) == 6  # those of the history are the target's
    assert part(found, "page cache").bytes == dataset.num_pictures * (2 * 128 + 8)
    assert part(found, "metrics").bytes == 1740 * max(dataset.splits[each].impressions for each in ("val", "test"))
    step = part(found, "training step")
    assert step.bytes > 2**20
    assert not found.unknown
    assert found.total() > sum(each.bytes for each in found.held)
    assert "this machine has 64.00 GiB" in words
    assert "warning" not in words


def test_more_ranks_and_a_store_in_memory(prepared: Path) -> None:
    alone, _ = estimated(debug(prepared, "images.store=memory"), dataset_of(debug(prepared)), Machine(64 * GB))
    options = ["images.store=memory", "trainer.devices=2", "trainer.strategy=image_server"]
    options += ["features.user.user_id.placement=sharded"]
    loaded = debug(prepared, *options)
    shared, words = estimated(loaded, dataset_of(loaded), Machine(64 * GB, ranks=2))
    for name in ("vectors of the pictures", "training step"):
        assert part(shared, name).bytes == pytest.approx(part(alone, name).bytes / 2, rel=0.1)
    rows = part(alone, "user.user_id").bytes // 100
    assert part(shared, "user.user_id").bytes == round(rows / 2) * (100 + 8)
    assert "this machine has 64.00 GiB for 2 ranks" in words


def test_adagrad_keeps_less(prepared: Path) -> None:
    loaded = debug(prepared, "optimizer.ids.name=lazy_adagrad")
    dataset = dataset_of(loaded)
    assert dataset is not None
    found, _ = estimated(loaded, dataset, Machine(64 * GB))
    rows = dataset.user["user_id"].num_ids
    assert rows is not None
    assert part(found, "user.user_id").bytes == rows * 2 * 4 * 8


def test_loader_workers_are_processes_of_their_own(prepared: Path) -> None:
    loaded = debug(prepared, "data.workers=2")
    found, words = estimated(loaded, dataset_of(loaded), Machine(64 * GB))
    assert not any("samples" in each.name for each in found.held)
    assert part(found, "2 loader workers").bytes > 2 * 4 * 128 * 8 * 10  # four batches of over ten columns each
    assert "beside it: 2 loader workers" in words


def test_a_trained_backbone(prepared: Path) -> None:
    loaded = debug(prepared, "images.backbone.trainable=all", "images.backbone.weights=pretrained")  # not downloaded
    found, _ = estimated(loaded, dataset_of(loaded), Machine(64 * GB))
    plain, _ = estimated(debug(prepared), dataset_of(loaded), Machine(64 * GB))
    assert part(found, "decoded pictures").bytes == dataset_of(loaded).num_pictures * 12 * 32 * 32  # type: ignore[union-attr]
    assert part(found, "training step").bytes > 2 * part(plain, "training step").bytes


def test_data_that_are_not_prepared(tmp_path: Path) -> None:
    found, words = estimated(debug(tmp_path), None, Machine(64 * GB))
    assert any("not prepared" in each for each in found.unknown)
    assert "not counted: vocabularies" in words
    assert part(found, "preparing").bytes == 256 * 2**20


def test_a_plugin_that_cannot_be_tried_is_said(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dicm_kit.nets.mlp import EmbeddingMlp

    def broken(*args: object) -> None:
        raise ValueError("no such weather")

    monkeypatch.setattr(EmbeddingMlp, "forward", broken)
    loaded = debug(prepared)
    found, _ = estimated(loaded, dataset_of(loaded), Machine(64 * GB))
    assert found.unknown == ["a step's vectors and gradients: trying one failed, ValueError: no such weather"]
    assert not any("training step" in each.name for each in found.moments)


def large(log: list[str], *overrides: str) -> LoadedRecipe:
    return load(LARGE, [*log, *overrides])


def test_a_table_that_does_not_fit_is_refused(log: list[str]) -> None:
    loaded = large(log, "features.context.device.buckets=100000000")  # 100 million rows of 196 bytes: 18.25 GiB
    with pytest.raises(RecipeError) as refused:
        refuse_what_cannot_fit(loaded, None, Machine(16 * GB))
    text = str(refused.value)
    assert "id table context.device 18.25 GiB" in text
    assert "this machine has 16.00 GiB" in text
    for word in ("features.context.device", "large_table.yaml:", "buckets", "placement: sharded", "data.min_count"):
        assert word in text
    refuse_what_cannot_fit(loaded, None, Machine(32 * GB))


def test_ranks_share_the_machine(log: list[str]) -> None:
    ranks = ["trainer.devices=2", "trainer.strategy=image_server", "features.context.device.buckets=100000000"]
    loaded = large(log, *ranks)
    with pytest.raises(RecipeError, match="for each of 2 ranks"):
        refuse_what_cannot_fit(loaded, None, Machine(32 * GB, ranks=2))
    refuse_what_cannot_fit(
        large(log, *ranks, "features.context.device.placement=sharded"), None, Machine(32 * GB, ranks=2)
    )


def test_a_gpu_holds_the_model(log: list[str]) -> None:
    loaded = large(log, "features.context.device.buckets=100000000")
    with pytest.raises(RecipeError, match=r"a GPU here has 16\.00 GiB"):
        refuse_what_cannot_fit(loaded, None, Machine(64 * GB, device=16 * GB))
    refuse_what_cannot_fit(loaded, None, Machine(8 * GB, device=32 * GB))


def test_a_vocabulary_that_does_not_fit_is_found_before_anything_is_made(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicm_kit.memory_model.memory_of_machine", lambda: 8 * GB)
    loaded = debug(prepared, "features.user.user_id.dim=20000000", run_dir="other")  # some sixty rows of 80 MB
    with pytest.raises(RecipeError, match=r"id table user\.user_id \d\d\.\d\d GiB"):
        run.run(loaded)


def test_what_is_only_likely_is_a_warning(log: list[str]) -> None:
    loaded = large(log, "features.context.device.buckets=60000000")  # 11 GiB, and 11 more for a moment
    _, words = estimated(loaded, None, Machine(16 * GB))
    assert "warning: that may be too much" in words
    assert "Change `features.context.device`, for id table context.device: fewer rows" in words


@pytest.mark.parametrize("command", ["check", "run"])
def test_the_command_line_stops(command: str, log: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [*log, "features.context.device.buckets=1000000000000"]
    assert cli.main([command, str(LARGE), *overrides]) == 2
    said = capsys.readouterr().err
    assert "id table context.device 182,539.22" in said
    assert "Change `features.context.device`" in said
    assert not Path(log[1].removeprefix("data.out=")).exists()
    assert not Path(log[2].removeprefix("run_dir=")).exists()
