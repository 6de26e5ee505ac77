"""History vectors -> one interest vector, weighed by what is shown: DIN's attention, DICM's with several queries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from dicm_kit.errors import FieldError, did_you_mean, some
from dicm_kit.interest.pooling import side_by_side
from dicm_kit.interfaces import HistoryShapes, InterestAggregator
from dicm_kit.prelu import PReLU
from dicm_kit.types import Interest


@dataclass
class AttentionConfig:
    """DIN: weighs each history slot by a small net that compares it with the target, then sums."""

    queries: list[str] = field(default_factory=list)
    """What to compare with, side by side. Empty: the target's counterpart of each history column (`image` for
    pictures, `target.item_id` for `item_id`)."""
    hidden: list[int] = field(default_factory=lambda: [36])
    """Widths of the score net's layers."""
    softmax: bool = False
    """Makes a row's weights sum to 1. DIN leaves them free, so that the sum says how strong an interest is."""


class ScoreNet(nn.Module):
    """One score per history slot from [q, h, q - h, q * h], as DIN's activation unit.

    A query of another width than the history is projected to it first. The first layer is never given that
    concatenation: W [q, h, q-h, q*h] = (Wq + Wd) q + (Wh - Wd) h + Wp (q*h), so the part of q is computed per row and
    not per slot.
    """

    def __init__(self, query_dim: int, history_dim: int, hidden: tuple[int, ...], softmax: bool):
        super().__init__()
        self.project = nn.Linear(query_dim, history_dim, bias=False) if query_dim != history_dim else None
        widths = [*hidden, 1]
        # A softmax does not see what is added to all scores: a last bias would be trained by rounding errors alone.
        biases = [True] * len(hidden) + [not softmax]
        self.first = nn.Linear(4 * history_dim, widths[0], bias=biases[0])
        self.rest = nn.ModuleList(
            nn.Linear(wide, narrow, bias=bias)
            for (wide, narrow), bias in zip(pairwise(widths), biases[1:], strict=True)
        )
        self.activations = nn.ModuleList(PReLU() for _ in hidden)

    def forward(self, query_BD: Tensor, history_BLD: Tensor) -> Tensor:
        """Returns scores [B, L]."""
        if self.project is not None:
            query_BD = self.project(query_BD)
        of_query, of_history, of_difference, of_product = self.first.weight.chunk(4, dim=1)
        part_BH = nn.functional.linear(query_BD, of_query + of_difference, self.first.bias)
        score_BLH = nn.functional.linear(history_BLD, of_history - of_difference)
        score_BLH = score_BLH + nn.functional.linear(history_BLD * query_BD.unsqueeze(1), of_product)
        score_BLH = score_BLH + part_BH.unsqueeze(1)
        for activation, linear in zip(self.activations, self.rest, strict=True):
            score_BLH = linear(activation(score_BLH))
        return score_BLH.squeeze(-1)


class Attention(InterestAggregator):
    """DIN, arXiv:1706.06978, section 4.3, equation 3: sum over slots of a(h, q) * h; the weights are not normalised.

    With a picture slot and the query `image` it is DICM's AttentivePooling, arXiv:1711.06505, section 5.2, figure 3c,
    which names DIN's mechanism and gives no formula of its own. Where we differ from DIN: the score net gets q - h and
    q * h (its equation leaves the form of the interaction open, its figure 2 shows an outer product), and activates
    with PReLU in place of Dice.
    """

    def __init__(
        self,
        values: tuple[str, ...],
        dims: tuple[int, ...],
        queries: tuple[str, ...],
        query_dims: tuple[int, ...],
        hidden: tuple[int, ...] = (36,),
        softmax: bool = False,
    ):
        super().__init__()
        self.values, self.queries, self.softmax = values, queries, softmax
        self.out_dim = sum(dims)
        self.uses_target = looks_at_target(queries)
        self.score = ScoreNet(sum(query_dims), self.out_dim, hidden, softmax)

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the weighted sum; zeros for an empty history."""
        history_BLD = side_by_side(history, self.values, mask_BL)
        query_BD = torch.cat([query[name] for name in self.queries], dim=-1)
        weight_BL = weights_of(self.score(query_BD, history_BLD), mask_BL, self.softmax)
        vector_BD = torch.einsum("bl,bld->bd", weight_BL, history_BLD)
        return Interest(vector_BD, weight_BL.unsqueeze(1) if need_weights else None)


def build_attention(config: AttentionConfig, shapes: HistoryShapes) -> Attention:
    """Makes DIN's attention over the slot's columns."""
    check_hidden(config.hidden)
    queries = config.queries or counterparts(shapes)
    check_queries(queries, shapes)
    return Attention(
        shapes.values,
        tuple(shapes.history[name] for name in shapes.values),
        tuple(queries),
        tuple(shapes.query[name] for name in queries),
        tuple(config.hidden),
        config.softmax,
    )


@dataclass
class MultiQueryAttentionConfig:
    """DICM: one attention channel per query, each with weights and a sum of its own; the sums side by side."""

    queries: list[str] = field(default_factory=lambda: ["image", "target.item_id"])
    """One channel each. The paper has two: the ad's picture and its ids."""
    hidden: list[int] = field(default_factory=lambda: [36])
    """Widths of each channel's score net."""
    softmax: bool = False
    """Makes a row's weights sum to 1 in each channel."""


class MultiQueryAttention(InterestAggregator):
    """DICM's MultiQueryAttentivePooling, arXiv:1711.06505, section 5.2, figure 3d.

    The paper says: two attention channels whose queries are the ad's picture and its id features; each makes its own
    weights and its own weighted sum over the history's pictures; the sums are concatenated. It gives no formula for
    the weights; since it takes its attention from DIN, each channel is `Attention`'s score net. An id query is
    projected to the pictures' width. `target.item_id` stands for "id features": name more queries for more channels.
    """

    def __init__(
        self,
        values: tuple[str, ...],
        dims: tuple[int, ...],
        queries: tuple[str, ...],
        query_dims: tuple[int, ...],
        hidden: tuple[int, ...] = (36,),
        softmax: bool = False,
    ):
        super().__init__()
        self.values, self.queries, self.softmax = values, queries, softmax
        width = sum(dims)
        self.out_dim = len(queries) * width
        self.uses_target = looks_at_target(queries)
        self.scores = nn.ModuleList(ScoreNet(query_dim, width, hidden, softmax) for query_dim in query_dims)

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the channels' weighted sums [B, Q * D], channel after channel, with weights [B, Q, L]."""
        history_BLD = side_by_side(history, self.values, mask_BL)
        scores = [score(query[name], history_BLD) for name, score in zip(self.queries, self.scores, strict=True)]
        weight_BQL = weights_of(torch.stack(scores, dim=1), mask_BL.unsqueeze(1), self.softmax)
        vector_BQD = weight_BQL @ history_BLD.to(weight_BQL.dtype)
        return Interest(vector_BQD.flatten(1), weight_BQL if need_weights else None)


def build_multi_query_attention(config: MultiQueryAttentionConfig, shapes: HistoryShapes) -> MultiQueryAttention:
    """Makes one attention channel per query over the slot's columns."""
    check_hidden(config.hidden)
    check_queries(config.queries, shapes)
    return MultiQueryAttention(
        shapes.values,
        tuple(shapes.history[name] for name in shapes.values),
        tuple(config.queries),
        tuple(shapes.query[name] for name in config.queries),
        tuple(config.hidden),
        config.softmax,
    )


def weights_of(score: Tensor, mask: Tensor, softmax: bool) -> Tensor:
    """Returns scores [..., L] as weights, exactly 0 in empty slots, where a score may be anything, NaN too.

    `mask` is of the shape of `score` or broadcasts to it. With `softmax` each row's filled slots sum to 1, and a row
    without one is 0 everywhere.
    """
    if not softmax:
        return score.masked_fill(~mask, 0.0)
    # The lowest finite score, not -inf: a row without a filled slot must not become NaN.
    weight = score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(dim=-1)
    return weight.masked_fill(~mask, 0.0)


def looks_at_target(queries: tuple[str, ...]) -> bool:
    """Returns whether a query belongs to the impression, for `uses_target`; if none does, rows are sample groups."""
    return any(not name.startswith("user.") for name in queries)


def counterparts(shapes: HistoryShapes) -> list[str]:
    """Returns the names of the target's vectors of the columns in `shapes.values`, as far as the recipe has them.

    `image` for `image`, `target.item_id` for `item_id`. FieldError at `queries` when it has none of them.
    """
    names = ["image" if name == "image" else f"target.{name}" for name in shapes.values]
    found = [name for name in names if name in shapes.query]
    if not found:
        raise FieldError(
            "queries",
            f"none given, and the recipe has no {some(f'`{name}`' for name in names)} to compare the history with",
            todo=f"Name queries. Known here: {some(shapes.query)}.",
        )
    return found


def check_queries(queries: list[str], shapes: HistoryShapes) -> None:
    """FieldError at `queries` for an empty list, a name that the recipe has no vector for, and a name given twice."""
    if not queries:
        raise FieldError("queries", "names no query", todo=f"Known here: {some(shapes.query)}.")
    for position, name in enumerate(queries):
        if name not in shapes.query:
            hint = did_you_mean(name, shapes.query)
            known = (
                f"Known here: {some(shapes.query, 12)}." if shapes.query else "This recipe has no vector to query with."
            )
            raise FieldError(
                "queries", f"`{name}` names no vector of this recipe", todo=f"{hint} {known}" if hint else known
            )
        if name in queries[:position]:
            raise FieldError("queries", f"`{name}` is given twice")


def check_hidden(hidden: list[int]) -> None:
    """Refuses widths below 1."""
    if any(width < 1 for width in hidden):
        raise FieldError("hidden", f"every width must be at least 1, got {hidden}")
