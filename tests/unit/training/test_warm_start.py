"""Warm start on hand-made tables: ids that moved, came and went; parts; and everything that does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from lightning.pytorch import Callback, Trainer
from torch import nn
from toy import ToyData, ToyStore, image_server, toy_module
from unit.training.earlier import (
    ID_COLUMNS,
    ITEMS_HERE,
    ITEMS_THERE,
    KNOWN,
    ROWS,
    changed_recipe,
    earlier,
    provenance,
    values,
)

from dicm_kit.errors import RunError
from dicm_kit.features.encoders import HashEncoder
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.checkpoint_files import CHECKPOINTS
from dicm_kit.training.module import CtrModule
from dicm_kit.training.row_values import VOCAB
from dicm_kit.training.warm_start import WarmStart, checkpoint_of, in_words, take_over


def fresh(items: int = len(ITEMS_HERE)) -> CtrModule:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(toy, "ITEMS", items)
        return toy_module(seed=2, server=image_server(ToyStore()))


def keep(module: CtrModule, run: Path) -> None:
    """Puts the module's weights into the run's checkpoint."""
    path = run / CHECKPOINTS / "best.ckpt"
    torch.save({**torch.load(path), "state_dict": module.state_dict()}, path)


def tensors(module: CtrModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def taken(module: CtrModule, run: Path, parts: Any = "all", **changed: Any) -> dict[str, Any]:
    return take_over(module, checkpoint_of(run), parts, provenance(**changed), values)


def changed_names(module: CtrModule, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_rows_go_with_their_ids(tmp_path: Path) -> None:
    old, run = earlier(tmp_path)
    module = fresh()
    before = tensors(module)
    report = taken(module, run, ["ids"])
    there, here = old.state_dict()[ROWS], module.state_dict()[ROWS]
    assert torch.equal(here[0], there[0]), "the unknown id"
    for row, item in enumerate(ITEMS_HERE):
        if item in ITEMS_THERE:
            assert torch.equal(here[row], there[ITEMS_THERE.index(item)]), item
        else:
            assert torch.equal(here[row], before[ROWS][row]), item
    assert torch.equal(module.state_dict()["encoders.history.item_id_of.table.rows.weight"], here), "shared"
    assert torch.equal(
        module.encoders["user"]["user_id_of"].table.rows.weight, old.encoders["user"]["user_id_of"].table.rows.weight
    )
    assert all("table" in name for name in changed_names(module, before))
    assert report["taken"]["target.item_id"] == f"ids: {KNOWN} of 28 rows of target.item_id known"
    assert report["fresh"] == ["images", "interest.ids", "interest.images", "net", "user.type", "context.hour"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["images"], ("server.",)),
        (["interest"], ("interest.",)),
        (["interest.images"], ("interest.images.",)),
        (["net"], ("net.",)),
        (["numbers"], ("encoders.user.type_of.", "encoders.context.hour_of.")),
        (["user.user_id"], ("encoders.user.user_id_of.",)),
        (["history.item_id"], ("encoders.target.item_id_of.", "encoders.history.item_id_of.")),
        (["images", "net"], ("server.", "net.")),
    ],
)
def test_parts_are_taken_over_bit_by_bit_and_the_rest_stays(
    parts: list[str], expected: tuple[str, ...], tmp_path: Path
) -> None:
    old, run = earlier(tmp_path)
    module = fresh()
    if "images" in parts:
        nn.init.normal_(old.server.embedder[0].weight)
        keep(old, run)
    before = tensors(module)
    report = taken(module, run, parts)
    changed = changed_names(module, before)
    assert changed
    assert all(name.startswith(expected) for name in changed)
    for prefix in expected:
        assert any(name.startswith(prefix) for name in changed), prefix
    wanted = old.state_dict()
    if "history.item_id" not in parts:  # the tables here have one row less
        assert all(torch.equal(module.state_dict()[name], wanted[name]) for name in wanted if name.startswith(expected))
    assert len(report["taken"]) + len(report["fresh"]) == 9


def test_everything_in_words(tmp_path: Path) -> None:
    _, run = earlier(tmp_path)
    module = fresh()
    report = taken(module, run, ["images", "interest.ids", "numbers", "ids"])
    attention = sum(each.numel() for each in module.interest["ids"].parameters())
    assert 8 * 7 + 7 + 1 + 7 * 6 + 6 == 112
    assert in_words(report) == [
        f"Warm start from {run}/checkpoints/best.ckpt, step 24; the optimizer starts fresh.",
        "  images: 112 weights",
        f"  interest: {attention} weights of ids",
        "  ids: 19 of 19 rows of user.user_id known",
        "  numbers: 4 weights of user.type",
        "  ids: 25 of 28 rows of target.item_id known",
        "  ids: 6 of 6 rows of target.tags known",
        "  numbers: 4 weights of context.hour",
        "  fresh: interest.images, net",
    ]


def test_everything_that_does_not_fit_is_named_and_nothing_is_copied(tmp_path: Path) -> None:
    theirs = changed_recipe("interest.images.queries", ["target.item_id", "image"])
    del theirs["features"]["context"]
    _, run = earlier(tmp_path, recipe=theirs)
    module = fresh()
    module.encoders["user"]["user_id_of"].table.rows = nn.Embedding(20, 8, sparse=True)
    module.net.layers[0] = nn.Linear(99, 16)
    before = tensors(module)
    with pytest.raises(RunError) as caught:
        taken(module, run)
    assert (
        str(caught.value)
        == f"""{run}/checkpoints/best.ckpt: does not fit this recipe:
  interest.images: it read the same in another order there: history.item_id, query target.item_id, query image
  net: it reads context.hour here and not there
  user.user_id: rows.weight is 4 wide there, 8 wide here
  context.hour: the earlier run has none

  What fits: warm_start.parts=[images, interest.ids, user.type, target.item_id, target.tags]. Or start fresh: \
warm_start.run=null."""
    )
    assert changed_names(module, before) == set()


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("net.name", "lr", "net: it is `lr` there, `embedding_mlp` here"),
        ("images", None, "images: the earlier run has none"),
        ("interest.ids", None, "interest.ids: the earlier run has none"),
        ("images.target", False, "net: it reads image here and"),
        ("features.context", {}, "net: it reads context.hour here and not there"),
        ("features.history", {"brand": {}}, "interest.ids: it reads history.item_id here and not"),
        ("features.user", {"type": {"name": "number"}, "user_id": {"name": "id"}}, "net: it read the same in"),
        ("features.target.tags.name", "hash", "target.tags: it is `hash` there, `ids` here"),
    ],
)  # fmt: skip
def test_the_same_shapes_of_something_else(path: str, value: Any, why: str, tmp_path: Path) -> None:
    _, run = earlier(tmp_path, recipe=changed_recipe(path, value))
    with pytest.raises(RunError) as caught:
        taken(fresh(), run)
    assert f"\n  {why}" in str(caught.value)


def test_widths_that_differ(tmp_path: Path) -> None:
    _, run = earlier(tmp_path)
    module = fresh()
    module.net.layers[2] = nn.Linear(16, 32)
    module.server.embedder.append(nn.Linear(6, 6))
    with pytest.raises(RunError) as caught:
        taken(module, run, ["net", "images"])
    assert "images: 3.weight is here only, 3.bias is here only" in str(caught.value)
    assert "net: 2.weight is 8 x 16 there, 32 x 16 here, 2.bias is 8 there, 32 here" in str(caught.value)
    assert "Nothing fits. Or start fresh" in str(caught.value)


def test_ids_of_another_kind_or_unknown(tmp_path: Path) -> None:
    _, run = earlier(tmp_path / "numbers", [None, *range(29)])
    module = fresh()
    with pytest.raises(RunError, match=r"target.item_id: its ids are numbers there, text here"):
        taken(module, run, ["ids"])
    _, run = earlier(tmp_path / "moved")
    (run / VOCAB / "item_id.parquet").unlink()
    with pytest.raises(RunError, match=r"target.item_id: .*item_id.parquet: no such file, which says what id"):
        taken(module, run, ["ids"])
    _, run = earlier(tmp_path / "old", id_columns={})
    with pytest.raises(RunError, match=r"target.item_id: the earlier run did not keep which ids its rows are of"):
        taken(module, run, ["ids"])
    _, run = earlier(tmp_path / "others", [None, *(f"other {number}" for number in range(29))])
    before = tensors(module)
    with pytest.warns(UserWarning, match="it has none of the ids of target.item_id"):
        report = taken(module, run, ["target.item_id"])
    assert report["taken"] == {"target.item_id": "ids: 0 of 28 rows of target.item_id known"}
    assert not torch.equal(module.state_dict()[ROWS][0], before[ROWS][0]), "row 0 is taken over"
    assert torch.equal(module.state_dict()[ROWS][1:], before[ROWS][1:])


def test_rows_that_are_in_no_embedding_are_not_taken_for_ids(tmp_path: Path) -> None:
    old, run = earlier(tmp_path)
    module = fresh()
    for each, rows in ((old, 30), (module, 29)):
        each.encoders["target"]["item_id_of"].bias = nn.Parameter(torch.zeros(rows))
    keep(old, run)
    with pytest.raises(RunError, match=r"target.item_id: item_id_of.bias is 30 there, 29 here"):
        taken(module, run, ["ids"])
    same = fresh(30)
    same.encoders["target"]["item_id_of"].bias = nn.Parameter(torch.zeros(30))
    with pytest.raises(RunError, match=r"rows of item_id_of.bias cannot be matched to ids"):
        take_over(same, checkpoint_of(run), ["ids"], provenance(), lambda name: values(name, ITEMS_THERE))


def test_hashes_have_the_same_rows_everywhere(tmp_path: Path) -> None:
    old, run = earlier(tmp_path)
    module = fresh()
    columns = {**ID_COLUMNS, "target.tags": None}
    for each, buckets in ((old, 50), (module, 50)):
        each.encoders["target"]["tags_of"] = HashEncoder(3, buckets)
    keep(old, run)
    report = taken(module, run, ["ids"], id_columns=columns)
    assert report["taken"]["target.tags"] == "ids: all 51 rows of target.tags, by hash"
    name = "encoders.target.tags_of.table.rows.weight"
    assert torch.equal(module.state_dict()[name], old.state_dict()[name])
    module.encoders["target"]["tags_of"] = HashEncoder(3, 49)
    with pytest.raises(RunError, match=r"target.tags: rows.weight is 51 x 3 there, 50 x 3 here"):
        taken(module, run, ["ids"], id_columns=columns)


def test_the_backbone_behind_the_embedder(tmp_path: Path) -> None:
    old, run = earlier(tmp_path)
    module = fresh()
    with pytest.raises(RunError, match="images: the embedder goes with another backbone"):
        taken(module, run, ["images"], backbone="another")
    module.server.backbone = nn.Linear(2, 8)
    before = module.server.backbone.weight.clone()
    assert taken(module, run, ["images"])["taken"] == {"images": "images: 112 weights"}
    assert torch.equal(module.server.backbone.weight, before), "it starts as the frozen one was"
    old.server.backbone = nn.Linear(2, 8)
    keep(old, run)
    assert taken(module, run, ["images"], backbone="another")["taken"] == {"images": "images: 136 weights"}
    assert torch.equal(module.server.backbone.weight, old.server.backbone.weight)
    module.server.backbone = None
    with pytest.raises(RunError, match="its backbone was trained there and is frozen here"):
        taken(module, run, ["images"])


def test_other_plugins_are_a_warning_and_another_plugin_api_is_an_error(tmp_path: Path) -> None:
    _, run = earlier(tmp_path)
    module = fresh()
    with pytest.warns(UserWarning, match=r"plugin dicm-x is version 0.3 here and was 0.2"):
        assert taken(module, run, ["net"], plugins={"dicm-x": "0.3"})["taken"]
    with pytest.raises(RunError, match="plugin API 1, this dicm_kit speaks 2"):
        taken(module, run, ["net"], hook_api=2)


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"warm_start.run: .*: has no checkpoint to start from"):
        checkpoint_of(tmp_path)
    _, run = earlier(tmp_path)
    assert checkpoint_of(run) == run / "checkpoints/best.ckpt"
    (run / "checkpoints/best.ckpt").rename(run / "checkpoints/last.ckpt")
    assert checkpoint_of(run) == run / "checkpoints/last.ckpt"
    assert checkpoint_of(run / "checkpoints/last.ckpt") == run / "checkpoints/last.ckpt"


class Start(Callback):
    """Keeps the rows as they are when training starts."""

    rows: torch.Tensor

    def on_train_start(self, trainer: Trainer, module: CtrModule) -> None:
        self.rows = module.state_dict()[ROWS].clone()
        assert not trainer.optimizers[0].state, "it starts fresh"


def trained(folder: Path, run: Path | None, resume: Path | None = None) -> tuple[Start, WarmStart]:
    warm, start = WarmStart("all", provenance(), lambda name: values(name, ITEMS_THERE)), Start()
    warm.run = run
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    callbacks = [Checkpoints(folder / CHECKPOINTS, every=3, keep=9), warm, *([] if resume else [start])]
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, num_sanity_val_steps=0, callbacks=callbacks, **quiet)
    trainer.fit(toy_module(seed=3, server=image_server()), ToyData(), ckpt_path=resume, weights_only=True)
    return start, warm


def test_it_happens_once_and_every_checkpoint_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, run = earlier(tmp_path / "old")
    start, warm = trained(tmp_path / "new", run)
    assert torch.equal(start.rows, old.state_dict()[ROWS])
    assert capsys.readouterr().out.startswith(f"Warm start from {run}/checkpoints/best.ckpt, step 24")
    assert warm.report["taken"]["target.item_id"] == "ids: 29 of 29 rows of target.item_id known"
    path = tmp_path / "new/checkpoints/step-000000003.ckpt"
    _, again = trained(tmp_path / "again", None, resume=path)
    assert "Warm start" not in capsys.readouterr().out
    assert again.report == warm.report
    mine, theirs = (torch.load(tmp_path / each / "checkpoints/last.ckpt") for each in ("again", "new"))
    assert all(torch.equal(mine["state_dict"][name], value) for name, value in theirs["state_dict"].items())
    assert mine["callbacks"]["WarmStart"] == warm.report
    _, cold = trained(tmp_path / "cold", None)
    assert cold.report == {}
