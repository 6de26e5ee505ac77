"""`dicm bench` on the debug recipe: the parts are those of the step, V is that of the batches, nothing is written."""

from itertools import islice
from pathlib import Path

import pytest
from recipes.debug_runs import debug

from dicm_kit import run
from dicm_kit.session import Session
from dicm_kit.training import part_clock
from dicm_kit.training.measure_steps import WARM_UP, Block, put_together

SMALL = "batch_size=32"  # an epoch is longer than what is measured
ALWAYS = {
    *(part_clock.READING, part_clock.TO_DEVICE, part_clock.ENCODERS, part_clock.INTEREST, part_clock.NET),
    *(part_clock.LOSS, part_clock.BACKWARD, part_clock.OPTIMIZER, part_clock.REST),
}


def test_the_parts_add_up_and_the_pictures_are_those_of_the_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run.bench(debug(tmp_path, SMALL, "trainer.look_ahead=false"), 40)
    out = capsys.readouterr().out

    assert set(found.parts) == ALWAYS | part_clock.PICTURE_PARTS
    assert sum(found.parts.values()) == pytest.approx(found.in_parts, rel=1e-9)
    assert all(seconds > 0 for seconds in found.parts.values())
    assert found.whole > 0

    loaded = debug(tmp_path, SMALL)
    session = Session(loaded, run._prepared(loaded, run.rehearse(loaded)))
    batches = list(islice(session.data.train_dataloader(), WARM_UP, WARM_UP + 40))
    keys = [[*each.target_key_N.tolist(), *each.history_key_GL[each.mask_GL].tolist()] for each in batches]
    distinct = sum(len(set(each) - {0}) for each in keys) / 40
    references = sum(sum(key != 0 for key in each) for each in keys) / 40
    assert (found.steps, found.ranks) == (40, 1)
    assert found.pictures == pytest.approx(distinct)
    assert found.references == pytest.approx(references)
    assert found.impressions == pytest.approx(sum(each.num_impressions for each in batches) / 40)
    said = f"{found.references:,.1f} references, V = {found.pictures:,.1f} distinct a step; C = 128, H1 = 32, I = 8"
    assert said in out

    assert found.floor is not None
    assert found.floor.operations == pytest.approx(distinct * (4 * 128 * 32 + 6 * 32 * 8))
    assert found.floor.bytes == pytest.approx(distinct * 2 * 128)
    assert found.picture_part == pytest.approx(sum(found.parts[part] for part in part_clock.PICTURE_PARTS))
    assert f"{found.impressions / found.whole:,.0f} impressions/s" in out
    assert not (tmp_path / "run").exists()


def test_what_is_begun_ahead_is_no_part_of_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run.bench(debug(tmp_path, SMALL), 8)
    out = capsys.readouterr().out
    assert set(found.parts) == (ALWAYS | part_clock.PICTURE_PARTS | {part_clock.WAIT}) - {part_clock.GATHER}
    assert set(found.ahead) == {"lookup"}
    in_step = sum(found.parts.get(part, 0) for part in part_clock.PICTURE_PARTS)
    assert found.picture_part == pytest.approx(in_step + found.ahead["lookup"])
    assert "the gather ahead of the step included" in out
    assert f"begun ahead, beside the step before, in ms: lookup {1000 * found.ahead['lookup']:,.3f}" in out


def test_the_floor_of_a_trained_backbone_is_the_embedders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run.bench(debug(tmp_path, SMALL, "images.backbone.trainable=all", "trainer.precision=bf16-mixed"), 8)
    own = {part_clock.WAIT, part_clock.BACKBONE, part_clock.BACK_BACKBONE}
    assert set(found.parts) == (ALWAYS | part_clock.PICTURE_PARTS | own) - {part_clock.GATHER}
    assert found.picture_parts == part_clock.PICTURE_PARTS - {part_clock.GATHER}
    assert found.floor is not None
    assert found.floor.bytes == 0
    out = capsys.readouterr().out
    assert "A trained backbone and the decoding of pictures are not in it" in out
    assert "large products in bfloat16" in out


def test_a_recipe_without_pictures_has_no_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run.bench(debug(tmp_path, SMALL, "images=null", "interest.images=null"), 8)
    assert set(found.parts) == ALWAYS
    assert (found.floor, found.pictures, found.picture_part) == (None, 0, 0)
    assert "no pictures, so there is no floor" in capsys.readouterr().out


def test_ranks_are_averaged_and_slow_blocks_left_out() -> None:
    def block(seconds: float, net: float | None = None) -> Block:
        parts = None if net is None else {part_clock.NET: net, part_clock.REST: seconds - net}
        return Block(seconds, parts, impressions=10, references=8, pictures=3, ahead={"lookup": 0.5, "keys": seconds})

    slow = [block(90), block(90, net=90), block(1), block(1, net=1)]
    mine = [block(2), block(3, net=2), block(4), block(5, net=5), *slow]
    other = [block(4), block(3, net=1), block(2), block(5, net=5), *slow]
    found = put_together(8, [mine, other], [None, None])
    assert (found.ranks, found.whole, found.in_parts) == (2, 3, 4)  # means of 1, 3, 3, 90 and of 1, 3, 5, 90
    assert found.parts == {part_clock.NET: 3.25, part_clock.REST: 0.75}
    assert (found.impressions, found.references, found.pictures) == (20, 16, 6)
    assert found.ahead == {"lookup": 0.5, "keys": 3}
