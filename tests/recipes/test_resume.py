"""`dicm run RECIPE --resume` where something is in the way: another recipe, other data, broken files, two at once."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from recipes.debug_runs import DEBUG, alive, debug, start
from safetensors.torch import load_file

from dicm_kit import cli, run, session
from dicm_kit.training.checkpoint_files import read_checkpoint
from dicm_kit.training.table_files import table_file

SHORT = ["trainer.max_steps=5", "checkpoint.every=2", "checkpoint.keep=3", "checkpoint.monitor=null"]
SHARDED = "features.user.user_id.placement=sharded"
Resume = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a run of five steps, and one whose table of users is sharded."""
    folder = tmp_path_factory.mktemp("resume")
    torch.set_num_threads(1)
    run.run(debug(folder, *SHORT, run_dir="plain"))
    run.run(debug(folder, *SHORT, SHARDED, run_dir="sharded"))
    return folder


@pytest.fixture
def resume(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Resume:
    """Resumes a copy of one of the runs, in tmp_path/run; returns exit code, output and errors."""

    def call(*overrides: str, of: str = "plain", data: Path | None = None) -> tuple[int, str, str]:
        if not (tmp_path / "run").exists():
            shutil.copytree(shop / of, tmp_path / "run")
        capsys.readouterr()
        folders = [f"data.out={data or shop / 'data'}", f"run_dir={tmp_path / 'run'}", "trainer.threads=1"]
        wanted = [SHARDED] if of == "sharded" else []
        code = cli.main(["run", str(DEBUG), *folders, *SHORT, *wanted, *overrides, "--resume"])
        out, errors = capsys.readouterr()
        assert "Traceback" not in errors
        return code, out, errors

    return call


# --- another recipe ---


@pytest.mark.parametrize(
    ("overrides", "differs"),
    [
        (["features.user.user_id.dim=16"], ["features.user.user_id.dim: 8 in the checkpoint, 16 in the recipe"]),
        ([SHARDED], ["features.user.user_id.placement: replicated in the checkpoint, sharded in the recipe"]),
        (["data.users=70"], ["data.users: 60 in the checkpoint, 70 in the recipe"]),
        (["net.hidden=[64]"], ["net.hidden: [32, 16] in the checkpoint, [64] in the recipe"]),
        (
            ["interest.ids={name: sum}"],
            ["interest.ids.name: attention in the checkpoint, sum in the recipe"],
        ),
        (
            ["optimizer.ids.lr=1e-2", "optimizer.decay={every: 3, factor: 0.5}"],
            [
                "optimizer.ids.lr: 0.003 in the checkpoint, 0.01 in the recipe",
                "optimizer.decay: null in the checkpoint, {every: 3, factor: 0.5} in the recipe",
            ],
        ),
        (
            ["batch_size=64", "seed=8", "data.lanes=8"],
            [
                "seed: 7 in the checkpoint, 8 in the recipe",
                "data.lanes: 4 in the checkpoint, 8 in the recipe",
                "batch_size: 128 in the checkpoint, 64 in the recipe",
            ],
        ),
    ],
)
def test_another_recipe(overrides: list[str], differs: list[str], resume: Resume, shop: Path, tmp_path: Path) -> None:
    code, _, errors = resume(*overrides)
    path = tmp_path / "run/checkpoints/last.ckpt"
    assert code == 1
    assert errors.startswith(f"RunError: {path}: was written by another recipe:\n  " + "\n  ".join(differs) + "\n\n")
    assert "what may change is run_dir, plugins, warm_start, checkpoint, trainer, data.root" in errors
    assert f"warm_start.run={path} warm_start.parts=all" in errors
    assert (tmp_path / "run/recipe.yaml").read_text() == (shop / "plain/recipe.yaml").read_text(), "as it was"
    assert not (tmp_path / "data").exists()


def test_columns_that_one_recipe_has_and_more_than_five_differences(resume: Resume, shop: Path, tmp_path: Path) -> None:
    text = DEBUG.read_text()
    for old, new in [
        ("    segment: {name: id, dim: 4}\n", ""),
        ("dim: 8}\n    picture", "dim: 9}\n    picture"),
        ("{hidden: [32], dim: 8}", "{hidden: [16], dim: 9}"),
        ("hidden: [32, 16]}", "hidden: [32]}"),
        ("image_size: 32", "image_size: 16"),
    ]:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / "other.yaml").write_text(text)
    shutil.copytree(shop / "plain", tmp_path / "run")
    overrides = [f"data.out={shop / 'data'}", f"run_dir={tmp_path / 'run'}", *SHORT]
    with pytest.raises(run.RunError) as caught:
        run.run(run.load(tmp_path / "other.yaml", overrides), resume=True)
    assert caught.value.what.splitlines()[1:] == [
        "  features.user.segment: {name: id, dim: 4, init_std: 0.01, placement: replicated} in the checkpoint, "
        "not in the recipe",
        "  features.target.item_id.dim: 8 in the checkpoint, 9 in the recipe",
        "  images.backbone.image_size: 32 in the checkpoint, 16 in the recipe",
        "  images.embedder.hidden: [32] in the checkpoint, [16] in the recipe",
        "  images.embedder.dim: 8 in the checkpoint, 9 in the recipe",
        "  and 1 more",
    ]


def test_what_may_change_may_change(resume: Resume, shop: Path, tmp_path: Path) -> None:
    code, out, errors = resume(
        "trainer.max_steps=8", "trainer.gradient_clip=10", "trainer.timeout=9", "checkpoint.monitor=val/auc",
        "trainer.validate_every=7", "trainer.logger=none", "data.memory_mb=99", "images.store=memory",
        "trainer.look_ahead=false", "warm_start.parts=all",
    )  # fmt: skip
    assert code == 0, errors
    assert f"Going on from {tmp_path / 'run/checkpoints/last.ckpt'}." in out
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 8
    assert "max_steps: 8" in (tmp_path / "run/recipe.yaml").read_text()


def test_other_code_of_a_plugin_is_said_and_kept(
    resume: Resume, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text((DEBUG.parents[1] / "plugins/example_aggregator/dicm_example_aggregator.py").read_text())
    said = f"The code of plugin {plugin} is not that which the run was made with."
    for steps, changed in ((6, True), (7, False), (8, True)):  # the run was begun without any plugin
        code, out, errors = resume(f"trainer.max_steps={steps}", f"plugins=[{plugin}]")
        assert code == 0, errors
        assert (said in out) is changed
        if steps == 7:
            plugin.write_text(plugin.read_text() + "\n")
    assert cli.main(["test", str(tmp_path / "run")]) == 0
    assert said not in capsys.readouterr().out
    plugin.write_text(plugin.read_text() + "\n")
    assert cli.main(["test", str(tmp_path / "run")]) == 0
    assert said in capsys.readouterr().out


def test_a_best_value_by_another_measure_counts_no_more(resume: Resume, tmp_path: Path) -> None:
    for monitor, steps in (("val/auc", 8), ("val/log_loss", 10)):
        code, _, errors = resume(
            f"checkpoint.monitor={monitor}", f"trainer.max_steps={steps}", "trainer.validate_every=1"
        )
        assert code == 0, errors
    best = read_checkpoint(tmp_path / "run/checkpoints/best.ckpt")
    assert best["global_step"] > 8, "an auc of 0.5 is less than any loss here"
    assert best["dicm"]["monitor"] == "val/log_loss"


def test_another_plugin_api(resume: Resume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HOOK_API", 99)
    code, _, errors = resume()
    assert code == 1
    assert f"{tmp_path / 'run/checkpoints/last.ckpt'}: was made with plugin API 1, this dicm_kit speaks 99" in errors


def test_another_version_of_a_plugin_is_a_warning(
    resume: Resume, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shop / "plain", tmp_path / "run")
    path = tmp_path / "run/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["dicm"]["provenance"]["plugins"] = {"dicm_kit": "0.0.1", "dicm-gone": "3"}
    torch.save(checkpoint, path)
    with (
        pytest.warns(UserWarning, match=r"last.ckpt: plugin dicm_kit is version .* here and was 0.0.1 when"),
        pytest.warns(UserWarning, match=r"last.ckpt: plugin dicm-gone, version 3, is not listed here"),
    ):
        assert resume()[0] == 0


# --- broken files ---


def test_a_cut_checkpoint_is_passed_over(resume: Resume, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "plain", tmp_path / "run")
    folder = tmp_path / "run/checkpoints"
    for name in ("last.ckpt", "step-000000004.ckpt"):
        (folder / name).write_bytes((folder / name).read_bytes()[:5000])
    code, out, errors = resume()
    assert code == 0, errors
    assert f"Passed over {folder / 'last.ckpt'}: cannot be read as a checkpoint: " in out
    assert f"Passed over {folder / 'step-000000004.ckpt'}: cannot be read" in out
    assert f"Going on from {folder / 'step-000000002.ckpt'}." in out
    assert_same_parameters(tmp_path / "run", shop / "plain")


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_partition_that_is_not_whole(damage: str, resume: Resume, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "sharded", tmp_path / "run")
    folder = tmp_path / "run/checkpoints"
    newest = ["last-000000005.tables", "step-000000004-000000004.tables"]
    files = [table_file(folder / name, "encoders.user.user_id_of.table", 5) for name in newest]
    spoil(files, damage)
    code, out, errors = resume(of="sharded")
    assert code == 0, errors
    why = "a partition of a sharded table is missing" if damage == "missing" else "cannot be read"
    assert all(f"Passed over {file}: {why}" in out for file in files)
    assert f"Going on from {folder / 'step-000000002.ckpt'}." in out
    assert_same_parameters(tmp_path / "run", shop / "sharded")


def test_when_no_checkpoint_is_left_the_files_are_named(resume: Resume, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "sharded", tmp_path / "run")
    folder = tmp_path / "run/checkpoints"
    files = [table_file(each, "encoders.user.user_id_of.table", 5) for each in sorted(folder.glob("*.tables"))]
    spoil(files, "missing")
    code, _, errors = resume(of="sharded")
    assert code == 1
    assert f"{folder}: has no checkpoint to go on from, only such as cannot be used:" in errors
    assert all(f"\n  {file}: a partition of a sharded table is missing" in errors for file in files)
    assert "--overwrite" in errors


def spoil(files: list[Path], damage: str) -> None:
    assert files
    for file in files:
        content = file.read_bytes()
        file.unlink()
        if damage == "cut":
            file.write_bytes(content[:-5])


def assert_same_parameters(folder: Path, whole: Path) -> None:
    """Asserts that both runs ended with the same bits, optimizer and sharded rows among them."""
    mine, theirs = (read_checkpoint(each / "checkpoints/last.ckpt") for each in (folder, whole))
    assert mine["global_step"] == theirs["global_step"]
    assert same(mine["state_dict"], theirs["state_dict"])
    assert same(mine["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"])
    tables = [sorted(each.glob("checkpoints/last-*.tables/*/*")) for each in (folder, whole)]
    assert [one.read_bytes() for one in tables[0]] == [other.read_bytes() for other in tables[1]]


def same(mine: object, theirs: object) -> bool:
    if isinstance(theirs, dict):
        assert isinstance(mine, dict)
        return mine.keys() == theirs.keys() and all(same(mine[name], value) for name, value in theirs.items())
    return torch.equal(mine, theirs) if isinstance(theirs, torch.Tensor) else mine == theirs


# --- other optimizers ---


def test_lazy_adagrad_goes_on_with_the_same_bits(shop: Path, tmp_path: Path) -> None:
    rule = [SHARDED, "optimizer.ids={name: lazy_adagrad, lr: 0.05, initial_accumulator: 0.1}", "optimizer.ids.l2=0.01"]
    folders = [f"data.out={shop / 'data'}", "trainer.threads=1", *SHORT, *rule]
    for name, steps in (("whole", 5), ("cut", 3)):
        overrides = [*folders, f"run_dir={tmp_path / name}", f"trainer.max_steps={steps}"]
        assert cli.main(["run", str(DEBUG), *overrides]) == 0
    assert cli.main(["run", str(DEBUG), *folders, f"run_dir={tmp_path / 'cut'}", "--resume"]) == 0
    assert_same_parameters(tmp_path / "cut", tmp_path / "whole")
    tables = next((tmp_path / "cut/checkpoints").glob("last-*.tables"))
    kept = load_file(table_file(tables, "encoders.user.user_id_of.table", 5))
    assert set(kept) == {"row", "weight", "sum", "row_steps"}


# --- two at once ---


def test_two_processes_resume_one_run(resume: Resume, shop: Path, tmp_path: Path) -> None:
    shutil.copytree(shop / "plain", tmp_path / "run")
    command = ["run", str(DEBUG), f"data.out={shop / 'data'}", f"run_dir={tmp_path / 'run'}", *SHORT, "--resume"]
    first = start(*command, "trainer.max_steps=100000", "trainer.max_epochs=100000")
    assert first.stdout is not None
    try:
        for line in first.stdout:
            if line.startswith("Going on from "):
                break
        before = (tmp_path / "run/recipe.yaml").read_bytes()
        second = start(*command)
        out, errors = second.communicate(timeout=60)
        assert second.returncode == 1, out
        held = f"another run is in this folder now (process {first.pid} on {socket.gethostname()})"
        assert errors.startswith(f"RunError: {tmp_path / 'run'}: {held}")
        assert first.poll() is None
        assert (tmp_path / "run/recipe.yaml").read_bytes() == before
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 130, errors
    finally:
        first.kill()
        first.wait()
    assert alive(first.pid) == []
    stopped = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"]
    assert stopped > 5
    code, out, errors = resume(f"trainer.max_steps={stopped + 1}", "trainer.max_epochs=100000")
    assert code == 0, errors
    assert "Passed over" not in out, "nothing was damaged"


# --- a full disk ---


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for a few checkpoints."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tiny file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_a_full_disk(kind: str, shop: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The disk fills up while checkpoints are written; the last whole one is gone on with when there is room again."""
    folders = [f"data.out={shop / 'data'}", f"run_dir={tiny / 'run'}", "trainer.threads=1"]
    overrides = [*folders, *SHORT, *([SHARDED] if kind == "sharded" else [])]
    assert cli.main(["run", str(DEBUG), *overrides, "trainer.max_steps=3", "checkpoint.every=9"]) == 0
    (tiny / "in_the_way").write_bytes(bytes(free(tiny) - 100_000))  # not enough for another one
    capsys.readouterr()
    with pytest.warns(UserWarning, match="last.ckpt was not written: .*No space left on device"):
        code = cli.main(["run", str(DEBUG), *overrides, "--resume"])
    errors = capsys.readouterr().err
    folder = tiny / "run/checkpoints"
    assert code == 1
    said = "step-000000004-000000004.tables" if kind == "sharded" else "step-000000004.ckpt"
    assert errors.startswith(f"RunError: {folder / said}: could not be written: No space left on device\n")
    assert "then go on with --resume" in errors
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 3, "the earlier one is whole"
    left = {path.name for path in folder.iterdir()} - {"last.ckpt", "last-000000003.tables"}
    assert left == set(), "and no half one is beside it"
    (tiny / "in_the_way").unlink()
    code = cli.main(["run", str(DEBUG), *overrides, "--resume"])
    assert code == 0, capsys.readouterr().err
    assert_same_parameters(tiny / "run", shop / kind)


def test_a_disk_that_is_full_for_anything_else(shop: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"data.out={shop / 'data'}", f"run_dir={tiny / 'run'}", "trainer.threads=1", *SHORT]
    (tiny / "in_the_way").write_bytes(bytes(free(tiny)))
    assert cli.main(["run", str(DEBUG), *overrides]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"RunError: {tiny / 'run'}: no space left on the device, here or where `data.out` is\n")


def free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
