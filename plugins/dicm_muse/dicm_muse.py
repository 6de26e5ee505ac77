"""SA-TA of MUSE: attention over a user's clicks by ids and by pictures, fused in the score."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

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
    side_by_side,
    weights_of,
)

dicm_api = 1


@dataclass
class SaTaConfig:
    """Weighs clicks by ids and by how much their pictures look like the target's, and sums their id vectors."""

    columns: list[str] = field(default_factory=list)
    """Columns of `features.history` whose vectors are keys and values, side by side. Empty: all of them."""
    queries: list[str] = field(default_factory=list)
    """Vectors that ask, side by side. Empty: the target's counterpart of each column (`target.item_id`)."""
    width: int | None = None
    """D, of queries, keys and values, and so of the result; null: the width of the columns together."""
    similarity_scale: float = 1.0
    """What the pictures' cosine is multiplied by. 1 is the paper's formula; its authors' code starts from 10."""


class SaTa(InterestAggregator):
    """SA-TA, arXiv:2512.07216, section 4.3, equations 4 and 5:

        a_id = (E_u W_k) (e_a W_q)^T / sqrt(D)
        a    = g1 a_id + g2 R + g3 (a_id * R)          R_i = cos(v_target, v_i), equation 2
        u    = softmax(a)^T (E_u W_v)

    with g1, g2, g3 learned, from 1. Where we differ: the pictures' vectors come out of a trained embedder, so R has a
    gradient, where the paper's are frozen; a slot without a picture is empty, since that is this slot's mask; the mask
    is put in after the fusion. The authors' code also puts x * sigmoid(x) behind each projection, does not divide by
    sqrt(D), and learns the cosine's scale: none of it is in the formula, nor here.
    """

    uses_target = True

    def __init__(
        self,
        columns: tuple[str, ...],
        columns_dim: int,
        queries: tuple[str, ...],
        queries_dim: int,
        width: int,
        similarity_scale: float = 1.0,
    ):
        super().__init__()
        self.columns, self.queries, self.similarity_scale = columns, queries, similarity_scale
        self.out_dim = width
        self.of_query = nn.Linear(queries_dim, width, bias=False)
        self.of_key = nn.Linear(columns_dim, width, bias=False)
        self.of_value = nn.Linear(columns_dim, width, bias=False)
        self.fusion = nn.Parameter(torch.ones(3))

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the weighted sum of id vectors [B, D] with weights [B, 1, L]; zeros for an empty history."""
        history_BLD = side_by_side(history, self.columns, mask_BL)
        query_BD = self.of_query(torch.cat([query[name] for name in self.queries], dim=-1))
        id_BL = torch.einsum("bd,bld->bl", query_BD, self.of_key(history_BLD)) * self.out_dim**-0.5
        picture_BL = cosine(query["image"], history["image"], mask_BL).to(id_BL.dtype) * self.similarity_scale
        score_BL = self.fusion[0] * id_BL + self.fusion[1] * picture_BL + self.fusion[2] * id_BL * picture_BL
        weight_BL = weights_of(score_BL, mask_BL, softmax=True)
        # The projection is linear, so it waits until one vector per row is left.
        vector_BD = self.of_value(torch.einsum("bl,bld->bd", weight_BL, history_BLD.to(weight_BL.dtype)))
        return Interest(vector_BD, weight_BL.unsqueeze(1) if need_weights else None)


def cosine(target_BI: Tensor, history_BLI: Tensor, mask_BL: Tensor) -> Tensor:
    """Returns cosines [B, L] in float32 at least; 0 in empty slots, whatever stands there, and beside a zero vector."""
    wide = torch.promote_types(history_BLI.dtype, torch.float32)
    with torch.autocast(target_BI.device.type, enabled=False):  # bfloat16 knows only some 300 cosines
        history_BLI = nn.functional.normalize(history_BLI.masked_fill(~mask_BL.unsqueeze(-1), 0).to(wide), dim=-1)
        return torch.einsum("bi,bli->bl", nn.functional.normalize(target_BI.to(wide), dim=-1), history_BLI)


def build(config: SaTaConfig, shapes: HistoryShapes) -> SaTa:
    """Makes the attention; FieldError where pictures or ids are missing."""
    if "image" not in shapes.values:
        what = "needs the history's pictures, which this slot has not"
        raise FieldError("name", what, todo="Use it under `interest.images`; it sees the ids there, too.")
    if "image" not in shapes.query:
        what = "compares the history's pictures with the target's, which this recipe leaves out"
        raise FieldError("name", what, todo="Set `images.target: true`.")
    known = [name for name in shapes.history if name not in ("image", "age")]
    unknown = [name for name in config.columns if name not in known]
    if unknown or not known:
        what = f"`{unknown[0]}` is no column of the history" if unknown else "the history has no id columns"
        todo = f"Columns here: {', '.join(known)}." if known else "Give `features.history` a column."
        raise FieldError("columns", what, todo=todo)
    columns = tuple(config.columns or known)
    queries = config.queries or counterparts(replace(shapes, values=columns))
    check_queries(queries, shapes)
    wide = sum(shapes.history[name] for name in columns)
    if config.width is not None and config.width < 1:
        raise FieldError("width", f"must be at least 1, got {config.width}")
    if not config.similarity_scale > 0:
        raise FieldError("similarity_scale", f"must be above 0, got {config.similarity_scale}")
    of_queries = sum(shapes.query[name] for name in queries)
    return SaTa(columns, wide, tuple(queries), of_queries, config.width or wide, config.similarity_scale)


@hookimpl
def dicm_interest_aggregators() -> list[Component[InterestAggregator]]:
    """Returns the aggregators of this plugin."""
    return [
        Component(
            name="sa_ta",
            config=SaTaConfig,
            build=build,
            paper="arXiv:2512.07216, section 4.3",
            examples=(
                {},
                {"columns": ["item_id"], "queries": ["user.age", "image"], "width": 5, "similarity_scale": 10.0},
            ),
            exempt={
                "gradient_reaches_the_history": "pictures are in the weights alone, and the one click of a history"
                " weighs 1 whatever it looks like; with more clicks they have a gradient (test_muse.py)"
            },
        )
    ]
