"""Two stages for long histories: the k clicks most like the target are looked up, then any aggregator pools those."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from dicm_kit import Component, FieldError, HistoryShapes, Interest, InterestAggregator, NestedAggregator, hookimpl

dicm_api = 1

Similarity = Literal["cosine", "dot"]


@dataclass
class TwoStageSearchConfig:
    """Keeps the k clicks that are most like the target, and pools them with another aggregator."""

    then: NestedAggregator
    """The second stage: any aggregator with its keys, as under `interest` itself: `{name: attention, hidden: [64]}`."""
    k: int = 50
    """How many clicks the second stage gets."""
    by: str | None = None
    """What is compared: `image`, or a column of `features.history` that the target has, too. null: `image` in the slot
    of pictures, else the slot's first column."""
    similarity: Similarity = "cosine"
    """`cosine`, or `dot`: the inner product."""


class TwoStageSearch(InterestAggregator):
    """A general search unit before an exact one: SIM, arXiv:2006.05639, section 3.2, equation 1.

    r_i = <e_i, e_target>, and the k filled slots with the largest r_i go on, in their order: the soft search of SIM
    without its W_a and W_b, which SIM trains by a loss of its own. By the cosine of pictures it is the first stage of
    MUSE, arXiv:2512.07216, section 4.2, equation 2. Of equal clicks the newer one goes on, so that the same batch gives
    the same slots on any device; in nothing else do places count, unless they do in the second stage. The choice itself
    has no gradient; the chosen slots have the second stage's. Time and memory of the second stage go by k and not by
    the history's length; a batch with at most k slots is not searched.
    """

    uses_target = True

    def __init__(self, then: InterestAggregator, k: int, of_target: str, by: str, similarity: Similarity = "cosine"):
        super().__init__()
        self.then, self.k, self.of_target, self.by, self.similarity = then, k, of_target, by, similarity
        self.out_dim, self.uses_order = then.out_dim, then.uses_order

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the second stage's result; its weights [B, Q, L] are 0 in slots that were not chosen."""
        if mask_BL.shape[1] <= self.k:
            return self.then(query, history, mask_BL, need_weights)  # type: ignore[no-any-return]
        # The vectors are asked for out here: what is first asked for without gradients would stay without.
        slot_BK = self.chosen(query[self.of_target], history[self.by], mask_BL)
        found = self.then(query, Chosen(history, slot_BK), mask_BL.gather(1, slot_BK), need_weights)
        if found.weights is None:
            return found  # type: ignore[no-any-return]
        weight_BQK = found.weights
        index_BQK = slot_BK.unsqueeze(1).expand(-1, weight_BQK.shape[1], -1)
        weight_BQL = weight_BQK.new_zeros(*weight_BQK.shape[:2], mask_BL.shape[1]).scatter(2, index_BQK, weight_BQK)
        return Interest(found.vector, weight_BQL)

    @torch.no_grad()
    def chosen(self, target_BD: Tensor, history_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns slot numbers [B, k], ascending; empty slots only where fewer than k are filled."""
        wide = torch.promote_types(history_BLD.dtype, torch.float32)
        target_BD, history_BLD = target_BD.to(wide), history_BLD.to(wide)
        with torch.autocast(target_BD.device.type, enabled=False):  # bfloat16 would make many equals
            score_BL = torch.einsum("bd,bld->bl", target_BD, history_BLD)
        if self.similarity == "cosine":  # the target's length changes no order
            score_BL = score_BL / torch.linalg.vector_norm(history_BLD, dim=-1).clamp(min=1e-12)
        score_BL = score_BL.masked_fill(~mask_BL, float("-inf"))  # by selection: an empty slot may hold NaN
        # topk does not say which of equals it takes: the k-th value does, and counting in the order of the slots.
        least_B1 = score_BL.topk(self.k, dim=1, sorted=True).values[:, -1:]
        above_BL, equal_BL = score_BL > least_B1, score_BL == least_B1
        room_B1 = self.k - above_BL.sum(dim=1, keepdim=True)
        is_chosen_BL = above_BL | (equal_BL & (equal_BL.cumsum(dim=1) <= room_B1))
        # Exactly k of a row are chosen. Numbers that fall from slot to slot have no equals.
        falling_L = torch.arange(score_BL.shape[1], 0, -1, device=score_BL.device, dtype=torch.int32)
        return (is_chosen_BL * falling_L).topk(self.k, dim=1, sorted=True).indices


class Chosen(Mapping[str, Tensor]):
    """The history's vectors in the chosen slots only; a vector that nobody asks for is not gathered."""

    def __init__(self, history: Mapping[str, Tensor], slot_BK: Tensor):
        self._history, self._slot_BK = history, slot_BK
        self._ready: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._ready:
            vectors_BLD = self._history[name]
            num_rows, length = vectors_BLD.shape[:2]
            first_B1 = torch.arange(0, num_rows * length, length, device=vectors_BLD.device).unsqueeze(1)
            # As an embedding: the backward of gather adds number by number and is slower.
            rows = nn.functional.embedding(first_B1 + self._slot_BK, vectors_BLD.flatten(0, 1))
            self._ready[name] = rows
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._history)

    def __len__(self) -> int:
        return len(self._history)


def build(config: TwoStageSearchConfig, shapes: HistoryShapes) -> TwoStageSearch:
    """Makes the search and its second stage; FieldError where what is compared is missing on one side."""
    if config.k < 1:
        raise FieldError("k", f"must be at least 1, got {config.k}")
    by = config.by or ("image" if "image" in shapes.history else shapes.values[0])
    of_target = "image" if by == "image" else f"target.{by}"
    known = [name for name in shapes.history if name != "age"]
    if by not in known:
        raise FieldError("by", f"`{by}` is not in this slot's history", todo=f"Known here: {', '.join(known)}.")
    if of_target not in shapes.query:
        todo = "Set `images.target: true`." if by == "image" else f"Give `features.target` the column `{by}`."
        raise FieldError("by", f"the recipe has no `{of_target}` to compare `{by}` with", todo=todo)
    if shapes.query[of_target] != shapes.history[by]:
        what = f"`{of_target}` is {shapes.query[of_target]} wide, and the history's `{by}` {shapes.history[by]}"
        raise FieldError("by", what, todo=f"Let them share an encoder: `features.history.{by}={{share: {of_target}}}`.")
    then = config.then.build(replace(shapes, max_length=min(config.k, shapes.max_length)))
    return TwoStageSearch(then, config.k, of_target, by, config.similarity)


@hookimpl
def dicm_interest_aggregators() -> list[Component[InterestAggregator]]:
    """Returns the aggregators of this plugin."""
    return [
        Component(
            name="two_stage_search",
            config=TwoStageSearchConfig,
            build=build,
            paper="arXiv:2006.05639, section 3.2",
            examples=(
                {"then": {"name": "attention"}, "k": 2},
                {"then": {"name": "multi_query_attention"}, "k": 2, "by": "item_id", "similarity": "dot"},
            ),
        )
    ]
