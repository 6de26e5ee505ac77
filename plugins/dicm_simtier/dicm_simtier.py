"""SimTier: how many of a user's clicks look how much like the target? A histogram of picture similarities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dicm_kit import Component, FieldError, HistoryShapes, Interest, InterestAggregator, hookimpl

dicm_api = 1

Counts = Literal["log1p", "share", "raw"]


@dataclass
class SimTierConfig:
    """Counts the history's pictures by their similarity to the target's picture, tier by tier."""

    tiers: int = 20
    """N, the tiers of equal width that [-1, 1], the range of the cosine, is cut into; the width of the result."""
    soft: bool = True
    """Spreads each similarity over the tiers near it, so that the pictures' vectors are trained by it. `false`: each
    falls into one tier, as in the paper, and no gradient comes back."""
    spread: float = 0.5
    """Of the soft kernel, a Gaussian round the similarity: its standard deviation, in tiers."""
    counts: Counts = "log1p"
    """What becomes of a tier's count n: `log1p` log(1 + n), `share` its share of the history, `raw` n itself."""


class SimTier(InterestAggregator):
    """SimTier, arXiv:2407.19467, where it stands in words and pseudo-code; equation 3 of arXiv:2512.07216, section 4.3.

    h_n = how many filled slots i have cos(v_target, v_i) in tier n, [B, L, I] -> [B, N]. A target without a picture
    (its vector is 0) has no similarities: its counts are all 0. Where we differ from the paper: the soft variant, which
    is the default, and log(1 + n); neither is in the paper, but the logarithm is in its authors' later code.
    """

    uses_target = True

    def __init__(self, tiers: int = 20, soft: bool = True, spread: float = 0.5, counts: Counts = "log1p"):
        super().__init__()
        self.out_dim, self.soft, self.counts = tiers, soft, counts
        self.sigma = spread * 2 / tiers
        centre_N = (torch.arange(tiers) + 0.5) * (2 / tiers) - 1
        self.register_buffer("centre_N", centre_N, persistent=False)  # goes to the device with the module

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the counts; zeros for an empty history. It has no weights."""
        target_BI = query["image"]
        similarity_BL = cosine(target_BI, history["image"], mask_BL)
        mask_BL = mask_BL & target_BI.any(dim=-1, keepdim=True)
        count_BN = self._soft(similarity_BL, mask_BL) if self.soft else self._hard(similarity_BL, mask_BL)
        if self.counts == "log1p":
            count_BN = count_BN.log1p()
        elif self.counts == "share":
            count_BN = count_BN / mask_BL.sum(dim=1, keepdim=True).clamp(min=1)
        return Interest(count_BN.to(target_BI.dtype), None)

    def _soft(self, similarity_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Each slot gives 1, shared out by exp(-(s - centre_n)^2 / 2 sigma^2); divided by its sum over the tiers."""
        distance_BLN = (similarity_BL.unsqueeze(-1) - self.centre_N.to(similarity_BL.dtype)) / self.sigma
        share_BLN = distance_BLN.square().mul(-0.5).softmax(dim=-1)
        return share_BLN.masked_fill(~mask_BL.unsqueeze(-1), 0.0).sum(dim=1)

    def _hard(self, similarity_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Tier n holds [-1 + 2n/N, -1 + 2(n+1)/N), the last one 1 itself, too."""
        tier_BL = ((similarity_BL + 1) * (self.out_dim / 2)).long().clamp(0, self.out_dim - 1)
        zeros_BN = similarity_BL.new_zeros(len(similarity_BL), self.out_dim)
        count_BN = zeros_BN.scatter_add(1, tier_BL, mask_BL.to(zeros_BN.dtype))
        # The step function's gradient is 0, not absent: on several ranks the loss must hang on every exchange.
        return count_BN + 0.0 * similarity_BL.sum(dim=1, keepdim=True)


def cosine(target_BI: Tensor, history_BLI: Tensor, mask_BL: Tensor) -> Tensor:
    """Returns cosines [B, L] in float32 at least; 0 in empty slots, whatever stands there, and beside a zero vector."""
    wide = torch.promote_types(history_BLI.dtype, torch.float32)
    with torch.autocast(target_BI.device.type, enabled=False):  # bfloat16 knows only some 300 cosines
        history_BLI = nn.functional.normalize(history_BLI.masked_fill(~mask_BL.unsqueeze(-1), 0).to(wide), dim=-1)
        return torch.einsum("bi,bli->bl", nn.functional.normalize(target_BI.to(wide), dim=-1), history_BLI)


def build(config: SimTierConfig, shapes: HistoryShapes) -> SimTier:
    """Makes the histogram; FieldError where there are no pictures to compare."""
    if "image" not in shapes.values:
        raise FieldError("name", "compares pictures, and this slot has none", todo="Use it under `interest.images`.")
    if "image" not in shapes.query:
        what = "compares the history's pictures with the target's, which this recipe leaves out"
        raise FieldError("name", what, todo="Set `images.target: true`.")
    if config.tiers < 2:
        raise FieldError("tiers", f"must be at least 2, got {config.tiers}")
    if not config.spread > 0:
        raise FieldError("spread", f"must be above 0, got {config.spread}", todo="For one tier each: `soft: false`.")
    return SimTier(config.tiers, config.soft, config.spread, config.counts)


@hookimpl
def dicm_interest_aggregators() -> list[Component[InterestAggregator]]:
    """Returns the aggregators of this plugin."""
    return [Component(name="simtier", config=SimTierConfig, build=build, paper="arXiv:2407.19467")]
