"""Our own components, registered through the same hooks as everybody's: a plugin like others, always loaded."""

from typing import Any

from dicm_kit.data.sources.log import build_log
from dicm_kit.data.sources.log_config import LogConfig
from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic
from dicm_kit.features.encoders import (
    HashConfig,
    IdConfig,
    IdsConfig,
    NumberConfig,
    build_hash,
    build_id,
    build_ids,
    build_number,
)
from dicm_kit.hookspecs import HOOK_API, hookimpl
from dicm_kit.images.backbone import TimmConfig, build_timm
from dicm_kit.interest.attention import (
    AttentionConfig,
    MultiQueryAttentionConfig,
    build_attention,
    build_multi_query_attention,
)
from dicm_kit.interest.pooling import (
    ConcatConfig,
    MaxConfig,
    MeanConfig,
    SumConfig,
    build_concat,
    build_max,
    build_mean,
    build_sum,
)
from dicm_kit.interfaces import Component
from dicm_kit.nets.lr import LrConfig, build_lr
from dicm_kit.nets.mlp import EmbeddingMlpConfig, build_embedding_mlp
from dicm_kit.nets.two_tower import TwoTowerConfig, build_two_tower

dicm_api = HOOK_API

_ATTENTIONS: tuple[dict[str, Any], ...] = ({}, {"queries": ["user.age"], "hidden": [8, 4]}, {"softmax": True})


@hookimpl
def dicm_feature_encoders() -> list[Component[Any]]:
    """Returns one encoder for each kind of column."""
    return [
        Component(name="id", config=IdConfig, build=build_id),
        Component(name="ids", config=IdsConfig, build=build_ids),
        Component(name="hash", config=HashConfig, build=build_hash),
        Component(name="number", config=NumberConfig, build=build_number),
    ]


@hookimpl
def dicm_image_backbones() -> list[Component[Any]]:
    """Returns timm's models, any of them."""
    tiny = {"model": "resnet10t", "weights": "none", "image_size": 32}
    return [
        Component(
            name="timm",
            config=TimmConfig,
            build=build_timm,
            examples=(
                tiny,
                tiny | {"layer": "layer2", "trainable": "last_block"},
                {"model": "test_resnet", "weights": "none", "image_size": 32, "arguments": {"global_pool": "max"}},
            ),
            no_effect={"weights": "others than `none` are a download or a file; the checks have neither"},
        )
    ]


@hookimpl
def dicm_interest_aggregators() -> list[Component[Any]]:
    """Returns what pools without looking at the target, DIN's attention, and DICM's with several queries."""
    return [
        Component(name="sum", config=SumConfig, build=build_sum, paper="arXiv:1711.06505, section 5.2"),
        Component(name="mean", config=MeanConfig, build=build_mean),
        Component(name="max", config=MaxConfig, build=build_max, paper="arXiv:1711.06505, table 4"),
        Component(name="concat", config=ConcatConfig, build=build_concat, paper="arXiv:1711.06505, table 4"),
        Component(
            name="attention",
            config=AttentionConfig,
            build=build_attention,
            examples=_ATTENTIONS,
            paper="arXiv:1706.06978, section 4.3",
        ),
        Component(
            name="multi_query_attention",
            config=MultiQueryAttentionConfig,
            build=build_multi_query_attention,
            examples=_ATTENTIONS,
            paper="arXiv:1711.06505, section 5.2",
        ),
    ]


@hookimpl
def dicm_base_nets() -> list[Component[Any]]:
    """Returns the paper's Embedding&MLP, its logistic regression and its pre-rank model."""
    return [
        Component(
            name="embedding_mlp",
            config=EmbeddingMlpConfig,
            build=build_embedding_mlp,
            examples=({}, {"hidden": [8, 4], "dropout": 0.2, "activation": "dice"}),
            paper="arXiv:1711.06505, section 5",
        ),
        Component(name="lr", config=LrConfig, build=build_lr, paper="arXiv:1711.06505, figure 5"),
        Component(
            name="two_tower",
            config=TwoTowerConfig,
            build=build_two_tower,
            paper="arXiv:1711.06505, table 8",
            examples=({}, {"hidden": [], "dim": 3}, {"hidden": [8], "activation": "dice"}),
        ),
    ]


@hookimpl
def dicm_data_sources() -> list[Component[Any]]:
    """Returns a log of your own, and the made-up shop."""
    return [
        Component(name="log", config=LogConfig, build=build_log),
        Component(
            name="synthetic",
            config=SyntheticConfig,
            build=build_synthetic,
            examples=({"users": 20, "items": 30, "impressions": 200, "days": 3, "picture_size": 8},),
        ),
    ]
