"""Multi-head attention of the target over a user's clicks, which knows how long ago each click was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from dicm_kit import (
    Component,
    FieldError,
    HistoryShapes,
    Interest,
    InterestAggregator,
    check_queries,
    counterparts,
    hookimpl,
    looks_at_target,
    side_by_side,
    weights_of,
)

dicm_api = 1


@dataclass
class MultiHeadTargetAttentionConfig:
    """Transformer's attention with the target as the query, and a learned vector for each click's age."""

    queries: list[str] = field(default_factory=list)
    """Vectors that ask, side by side. Empty: the target's counterpart of each history column (`image` for pictures,
    `target.item_id` for `item_id`)."""
    heads: int = 2
    """H, each with weights of its own."""
    head_dim: int = 8
    """Width of a head's queries, keys and values; the result is `heads * head_dim` wide."""
    time: Literal["encoding", "none"] = "encoding"
    """`encoding`: TIN's, a learned vector per age bucket is added to the click's; `none`: age is not looked at."""
    age_bounds: list[float] = field(default_factory=lambda: [0.04, 0.25, 1.0, 3.0, 7.0, 14.0, 30.0, 90.0])
    """Ages in days, ascending, where one bucket ends and the next begins; one more bucket than bounds."""
    target_aware: bool = True
    """TIN's representation: a click's value is multiplied by the target, element by element."""
    dropout: float = 0.0
    """Share of the weights that is left out in training."""


class MultiHeadTargetAttention(InterestAggregator):
    """Target attention with heads and time. After two papers:

    Heads: arXiv:1706.03762, section 3.2.2, head_h = softmax(q W_q (K W_k)^T / sqrt(d)) V W_v, the heads side by side;
    one query, the target, and no last projection, which the net behind it makes anyway.

    Time and values: TIN, arXiv:2308.08487. Both sides get a learned temporal encoding, here by the
    discretised time since the click (its TTE-T): h~_i = h_i + p[bucket(age_i)], t~ = t + p[target]. The weights are of
    t~ and h~_i (target-aware attention), the values are h~_i * t~ (target-aware representation). With one head whose
    projections are the identity it is TIN's u = sum_i softmax_i(<h~_i, t~> / sqrt(d)) (h~_i * t~). Where we differ from
    TIN: heads have projections; the buckets are given in the recipe; a target of another width is projected first.
    """

    def __init__(
        self,
        values: tuple[str, ...],
        dim: int,
        queries: tuple[str, ...],
        queries_dim: int,
        heads: int = 2,
        head_dim: int = 8,
        age_bounds: tuple[float, ...] | None = None,
        target_aware: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.values, self.queries, self.target_aware, self.dropout = values, queries, target_aware, dropout
        self.uses_target, self.out_dim = looks_at_target(queries), heads * head_dim
        self.project = nn.Linear(queries_dim, dim, bias=False) if queries_dim != dim else None
        self.of_query_HDd, self.of_key_HDd, self.of_value_HDd = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, dim, head_dim))) for _ in range(3)
        )
        self.has_time = age_bounds is not None
        if age_bounds is not None:
            self.register_buffer("age_bounds", torch.tensor(age_bounds), persistent=False)
            self.of_age = nn.Parameter(0.01 * torch.randn(len(age_bounds) + 2, dim))  # the last row: the target's own

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the heads' sums side by side [B, H * d], with weights [B, H, L]; zeros for an empty history."""
        history_BLD = side_by_side(history, self.values, mask_BL)
        target_BD = torch.cat([query[name] for name in self.queries], dim=-1)
        if self.project is not None:
            target_BD = self.project(target_BD)
        if self.has_time:
            bucket_BL = torch.bucketize(history["age"].squeeze(-1), self.age_bounds, right=True)
            history_BLD = history_BLD + nn.functional.embedding(bucket_BL, self.of_age).to(history_BLD.dtype)
            target_BD = target_BD + self.of_age[-1].to(target_BD.dtype)
        # (h W_k) (t W_q)^T = h (t W_q W_k^T): keys and values of all slots and heads are never made.
        ask_BHd = torch.einsum("bd,hde->bhe", target_BD, self.of_query_HDd)
        ask_BHD = torch.einsum("bhe,hde->bhd", ask_BHd, self.of_key_HDd) * self.of_query_HDd.shape[-1] ** -0.5
        weight_BHL = weights_of(ask_BHD @ history_BLD.transpose(1, 2), mask_BL.unsqueeze(1), softmax=True)
        sum_BHD = nn.functional.dropout(weight_BHL, self.dropout, self.training) @ history_BLD.to(weight_BHL.dtype)
        if self.target_aware:
            sum_BHD = sum_BHD * target_BD.unsqueeze(1)
        vector_BHd = torch.einsum("bhd,hde->bhe", sum_BHD, self.of_value_HDd)
        return Interest(vector_BHd.flatten(1), weight_BHL if need_weights else None)


def build(config: MultiHeadTargetAttentionConfig, shapes: HistoryShapes) -> MultiHeadTargetAttention:
    """Makes the attention over the slot's columns; FieldError where a key does not fit."""
    queries = config.queries or counterparts(shapes)
    check_queries(queries, shapes)
    for name in ("heads", "head_dim"):
        if getattr(config, name) < 1:
            raise FieldError(name, f"must be at least 1, got {getattr(config, name)}")
    if not 0 <= config.dropout < 1:
        raise FieldError("dropout", f"must be from 0 to below 1, got {config.dropout}")
    bounds = config.age_bounds
    if not bounds or not all(earlier < later for earlier, later in pairwise([0.0, *bounds])):
        raise FieldError("age_bounds", f"must be above 0 and ascend, got {bounds}", todo="Without time: `time: none`.")
    return MultiHeadTargetAttention(
        shapes.values,
        sum(shapes.history[name] for name in shapes.values),
        tuple(queries),
        sum(shapes.query[name] for name in queries),
        config.heads,
        config.head_dim,
        tuple(bounds) if config.time == "encoding" else None,
        config.target_aware,
        config.dropout,
    )


@hookimpl
def dicm_interest_aggregators() -> list[Component[InterestAggregator]]:
    """Returns the aggregators of this plugin."""
    return [
        Component(
            name="multi_head_target_attention",
            config=MultiHeadTargetAttentionConfig,
            build=build,
            paper="arXiv:2308.08487",
            examples=(
                {},
                {"heads": 3, "head_dim": 2, "target_aware": False, "dropout": 0.1, "age_bounds": [2.0]},
                {"time": "none", "queries": ["target.item_id", "user.age"]},
            ),
        )
    ]
