"""What must fit together between the sections, with the text a user reads when it does not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small import complaint, loaded

CASES = {
    "query_of_no_feature": ["interest.images.queries=[image, target.item]"],
    "query_without_a_side": ["interest.images.queries=[item_id]"],
    "query_image_without_target_picture": ["images.target=false"],
    "query_by_default": ["interest.images={name: multi_query_attention}", "images.target=false"],
    "share_of_no_feature": ["features.history.item_id.share=target.itemid"],
    "share_of_another_encoder": ["features.history.item_id.name=hash"],
    "pictures_of_nothing": ["images.target=false", "images.history=false", "interest.images=null"],
    "interest_without_pictures": ["images.history=false"],
    "interest_without_images_section": ["images=null", "interest.images.queries=[target.item_id]"],
    "interest_without_history": ["features.history={}"],
    "nothing_to_learn_from": ["features={}", "images=null", "interest={}"],
    "batch_size": ["batch_size=100"],
    "batch_size_below_lanes": ["batch_size=4"],
    "ranks": ["trainer.devices=20"],
    "ranks_and_partitions": ["trainer.devices=8", "trainer.strategy=image_server", "data.partitions=7"],
    "sharded": ["features.user.user_id.placement=sharded", "trainer.devices=2"],
    "initial_accumulator": ["optimizer.ids.initial_accumulator=0.1"],
    "transport": ["images.transport=backbone_vectors"],
    "devices": ["trainer.devices=0"],
    "too_many_lanes": ["data.lanes=512", "batch_size=512"],
    "endless": ["trainer.max_epochs=null"],
    "numbers": [
        "seed=-1",
        "data.workers=-1",
        "data.history.max_length=0",
        "trainer.log_every=0",
        "optimizer.dense.lr=0",
        "optimizer.ids.lr=.nan",
        "optimizer.decay.factor=-0.5",
        "images.embedder.hidden=[0]",
        "images.embedder.dropout=1",
        "checkpoint.keep=0",
    ],
    "standardize_trained": ["images.embedder.standardize=true", "images.backbone.trainable=last_block"],
    "shuffle": ["images.shuffle=-1"],
    "forgetting_without_a_clock": ["data.forget_after_days=30", "data.split.by=user_order"],
    "forgetting_at_once": ["data.forget_after_days=0"],
    "early_stop_by_nothing": ["trainer.early_stop={patience: 2}", "checkpoint.monitor=null"],
    "early_stop_at_once": ["trainer.early_stop={patience: 0, min_delta: -0.1}"],
    "monitor_without_validation": ["data.split.validation=0"],
    "warm_start_parts": ["warm_start.parts=[image, net, user.userid, history.item_id]"],
    "warm_start_nothing": ["warm_start.run=runs/earlier", "warm_start.parts=[]"],
    "warm_start_of_itself": ["warm_start.run=runs/own/checkpoints/last.ckpt", "run_dir=runs/../runs/own"],
    "warm_start_word": ["warm_start.parts=everything"],
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit(case: str, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    golden(f"errors/check_{case}.txt", complaint(tmp_path, *CASES[case]))


@pytest.mark.parametrize(
    "overrides",
    [
        ["images=null", "interest.images=null"],
        ["trainer.max_epochs=null", "trainer.max_steps=3"],
        ["trainer.devices=-1"],
        ["data.split.validation=0", "checkpoint.monitor=null"],
        ["images.history=false", "interest.images=null"],  # target only
        ["images.target=false", "interest.images.queries=[target.item_id]"],  # history only
        ["images.shuffle=0"],
        ["warm_start.run=runs/earlier"],
        ["warm_start.run=runs/earlier", "warm_start.parts=all"],
        ["warm_start.run=runs/earlier", "warm_start.parts=[ids, net, interest.images, target.item_id]"],
        ["images=null", "interest.images=null", "warm_start.run=runs/earlier"],  # nothing of `images` is no mistake
        ["images.embedder.standardize=true", "images.backbone.trainable=none"],
        ["images.embedder.standardize=false", "images.backbone.trainable=all"],
        ["interest.images.queries=[user.user_id, target.picture]", "images.target=false"],
        ["features={}", "interest.ids=null", "interest.images.queries=[image]"],
    ],
)
def test_what_fits(overrides: list[str], tmp_path: Path) -> None:
    assert loaded(tmp_path, *overrides)


def test_what_hangs_on_a_mistake_is_not_judged(tmp_path: Path) -> None:
    """One mistake, one problem: no lanes to divide by, no feature to name while its section is wrong."""
    for override in (
        "data.lanes=many",
        "features.target.item_id.name=idd",
        "features.target=3",
        "images.history=maybe",
    ):
        assert complaint(tmp_path, override).startswith("1 problem "), override
